"""Stores of tensors by step: files of a directory, or memory for as long as the process lives."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fut.resources.memory import available_bytes
from storage import Attributes, Checkpoint, CheckpointStore, Damage, ExistsError, MissingError

KEPT_FREE = 0.5
"""Share of a GPU's memory that stays free of held tensors: those beyond it are held in the host's memory."""


class TensorStore(CheckpointStore):
    """Checkpoints of tensors, as files.

    Args:
        directory: where they are.
        owner: what they belong to, as a digest.
        seldom: whether they are asked for so seldom that a GPU's memory has better use: of no effect on files.
    """

    def __init__(self, directory: Path | str, owner: str = "", seldom: bool = False) -> None:
        super().__init__(directory, owner)
        self.seldom = seldom

    def put(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        attributes: Mapping[str, int | float | str] | None = None,
        replace: bool = True,
    ) -> None:
        """Keep the tensors of a step, by name; in place of what was there, unless `replace` is false."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        self.write(step, arrays, attributes or {}, replace=replace)

    def get(self, step: int, device: torch.device) -> tuple[dict[str, Tensor], Attributes]:
        """All tensors of a step on a device, and its numbers and strings."""
        found = self.read(step)
        return {name: torch.from_numpy(a).to(device) for name, a in found.arrays.items()}, found.attributes

    def tensor(self, step: int, name: str, device: torch.device) -> Tensor:
        """One tensor of a step on a device."""
        return torch.from_numpy(self.read_array(step, name)).to(device)

    def clear(self) -> None:
        """Away with all of them."""
        shutil.rmtree(self.directory, ignore_errors=True)


class HeldTensors(TensorStore):
    """The same in memory: nothing is written, and what is held is gone with the process.

    Tensors stay on the device that they are on while `KEPT_FREE` of its memory is free, but for those of `seldom`; else they go
    to the host's memory. They are not copied where they stay: lifted states are values, which nothing changes.
    """

    def __init__(self, directory: Path | str = "", owner: str = "", seldom: bool = False) -> None:
        super().__init__(directory, owner, seldom)
        self._held: dict[int, tuple[dict[str, Tensor], Attributes]] = {}

    def put(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        attributes: Mapping[str, int | float | str] | None = None,
        replace: bool = True,
    ) -> None:
        if step in self._held and not replace:
            raise ExistsError(f"expected no tensors of step {step} yet, got some; put them with replace=True")
        self._held.pop(step, None)  # whose memory is free for these
        placed = {name: _placed(tensor.detach(), self.seldom) for name, tensor in tensors.items()}
        self._held[step] = placed, dict(attributes or {})

    def get(self, step: int, device: torch.device) -> tuple[dict[str, Tensor], Attributes]:
        tensors, attributes = self._of(step)
        return {name: tensor.to(device) for name, tensor in tensors.items()}, dict(attributes)

    def tensor(self, step: int, name: str, device: torch.device) -> Tensor:
        tensors = self._of(step)[0]
        if name not in tensors:
            raise MissingError(f"expected a tensor {name!r} of step {step}; there are {sorted(tensors)}; ask for one")
        return tensors[name].to(device)

    def write(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        attributes: Mapping[str, int | float | str],
        replace: bool = False,
    ) -> None:
        self.put(step, {name: torch.from_numpy(array) for name, array in arrays.items()}, attributes, replace)

    def read(self, step: int) -> Checkpoint:
        tensors, attributes = self._of(step)
        return Checkpoint(step, {name: tensor.cpu().numpy() for name, tensor in tensors.items()}, dict(attributes))

    def read_array(self, step: int, name: str) -> np.ndarray:
        found: np.ndarray = self.tensor(step, name, torch.device("cpu")).numpy()
        return found

    def read_attributes(self, step: int) -> Attributes:
        return dict(self._of(step)[1])

    def has(self, step: int) -> bool:
        return step in self._held

    def steps(self) -> list[int]:
        return sorted(self._held)

    def remove(self, step: int) -> None:
        self._of(step)
        del self._held[step]

    def check(self) -> list[Damage]:
        return []

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensors, _ in self._held.values() for tensor in tensors.values())

    def clear(self) -> None:
        self._held.clear()

    def _of(self, step: int) -> tuple[dict[str, Tensor], Attributes]:
        try:
            return self._held[step]
        except KeyError:
            raise MissingError(
                f"expected held tensors of step {step}; there are {len(self._held)} others; ask for one of steps()"
            ) from None


def _placed(tensor: Tensor, seldom: bool) -> Tensor:
    """The tensor where it is, or in the host's memory; of a part of a larger one a copy, so that the rest is not held."""
    device = tensor.device
    if device.type == "cuda":
        free, total = available_bytes(device) or 0, torch.cuda.get_device_properties(device).total_memory
        if seldom or free < KEPT_FREE * total:
            return tensor.cpu()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
