"""A data set: items, probe chunks and warm-up items as tensors, known by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fut.data.given import given_items
from fut.errors import DataError
from fut.models.objective import Item, item_digest


@dataclass(frozen=True, init=False)
class Dataset:
    """What a run trains and is judged on.

    An element of a part is an item as the loss receives it: of a tuple or a list `loss(module, *item)`, of a mapping of names
    to tensors `loss(module, item)`, with a dict; a tensor alone is a tuple of one. The first dimension of its tensors counts
    samples: batch a data set of single samples before, as `DataLoader(samples, batch_size=16)` does. Arrays stand for tensors.
    A part is any iterable of items, read once and kept, or a data set with a length; a data set of the package `datasets` is
    read as tensors.

    Args:
        items: what the orders permute, numbered from 0; `data.items` of a configuration is their number.
        probe: held-out items of equal size, whose mean loss is the read-out.
        warmup: items for the steps before the window; `warmup.steps` of a configuration is their number.
        source: where it came from, in words.
        files: of a text directory, the file of every item, "" for an item that mixes files; empty where that is not known.
        names: of the tensors of items that are given as tuples all the same, as files hold them.

    Raises:
        DataError: for an item that is none, naming it.
    """

    items: tuple[Item, ...]
    probe: tuple[Item, ...]
    warmup: tuple[Item, ...] = ()
    source: str = "given as tensors"
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __init__(
        self,
        items: Iterable[Any],
        probe: Iterable[Any],
        warmup: Iterable[Any] = (),
        source: str = "given as tensors",
        *,
        names: Sequence[str] = (),
        files: Sequence[str] = (),
    ) -> None:
        own: tuple[str, ...] | None = None
        for part, given in (("items", items), ("probe", probe), ("warmup", warmup)):
            found, own = given_items(part, given, own)
            object.__setattr__(self, part, found)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "names", own or tuple(names))
        object.__setattr__(self, "files", tuple(files))
        self.__post_init__()

    def __post_init__(self) -> None:
        for name in ("items", "probe", "warmup"):
            for number, item in enumerate(getattr(self, name)):
                _require_data(f"dataset: `{name}` {number}", item)
        for name in ("items", "probe"):
            if not getattr(self, name):
                raise DataError(f"dataset: expected at least one of `{name}`, got none; give some")
        if len({tuple(t.shape for t in item) for item in self.probe}) > 1:
            raise DataError(
                "dataset: expected probe items of one shape, got several; split the probe evenly, as with drop_last=True"
            )

    def identity(self) -> dict[str, Any]:
        """Content hashes of every part, in order."""
        return {
            "items": [item_digest(i).hex()[:32] for i in self.items],
            "probe": _joint_digest(self.probe),
            "warmup": _joint_digest(self.warmup),
        } | ({"names": list(self.names)} if self.names else {})

    def to(self, device: torch.device | str) -> Dataset:
        def move(items: tuple[Item, ...]) -> tuple[Item, ...]:
            return tuple(tuple(t.to(device) for t in item) for item in items)

        parts = (move(self.items), move(self.probe), move(self.warmup))
        return Dataset(*parts, self.source, names=self.names, files=self.files)


def _require_data(where: str, item: Item) -> None:
    """DataError for an item whose tensors cannot be kept and read again. where: which item, for the message."""
    for place, part in enumerate(item):
        if part.requires_grad:
            raise DataError(
                f"{where}: expected tensors that hold data alone, got one in place {place} that requires a gradient; detach() it "
                "here, and call requires_grad_() on a copy in the loss where it is differentiated"
            )
        if part.ndim == 0:
            raise DataError(
                f"{where}: expected tensors with at least one dimension, got a single number in place {place}; write "
                "tensor[None], and take it so in the loss"
            )
        if part.layout != torch.strided:
            raise DataError(
                f"{where}: expected dense tensors, got {part.layout} in place {place}; write tensor.to_dense()"
            )


def _joint_digest(items: Sequence[Item]) -> str:
    return hashlib.sha256(b"".join(item_digest(i) for i in items)).hexdigest()[:32]
