"""A data set: items, probe chunks and warm-up items as tensors, known by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fut.errors import DataError
from fut.models.objective import Item, item_digest


@dataclass(frozen=True)
class Dataset:
    """What a run trains and is judged on.

    items: what the orders permute, numbered from 0. probe: held-out items of equal size, whose mean loss is the
    read-out. warmup: items for the steps before the window. source: where it came from, in words.
    """

    items: tuple[Item, ...]
    probe: tuple[Item, ...]
    warmup: tuple[Item, ...] = ()
    source: str = "given as tensors"

    def __post_init__(self) -> None:
        for name in ("items", "probe"):
            if not getattr(self, name):
                raise DataError(f"dataset: expected at least one of `{name}`, got none; give some")
        for item in (*self.items, *self.probe, *self.warmup):
            if not isinstance(item, tuple) or not all(isinstance(t, torch.Tensor) for t in item):
                raise DataError(
                    f"dataset: expected items as tuples of tensors, got {type(item).__name__}; write (tokens,)"
                )
        if len({tuple(t.shape for t in item) for item in self.probe}) > 1:
            raise DataError("dataset: expected probe items of one shape, got several; split the probe evenly")

    def identity(self) -> dict[str, Any]:
        """Content hashes of every part, in order."""
        return {
            "items": [item_digest(i).hex()[:32] for i in self.items],
            "probe": _joint_digest(self.probe),
            "warmup": _joint_digest(self.warmup),
        }

    def to(self, device: torch.device | str) -> Dataset:
        def move(items: tuple[Item, ...]) -> tuple[Item, ...]:
            return tuple(tuple(t.to(device) for t in item) for item in items)

        return Dataset(move(self.items), move(self.probe), move(self.warmup), self.source)


def _joint_digest(items: Sequence[Item]) -> str:
    return hashlib.sha256(b"".join(item_digest(i) for i in items)).hexdigest()[:32]
