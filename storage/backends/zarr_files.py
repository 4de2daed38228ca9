"""Blocks as Zarr v3 arrays in a directory, with a ledger of those that are complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..chunks import METADATA, TermArray, create_metadata, inspect_group
from ..errors import Damage, DamagedError
from ..layout import Block, Layout
from ..ledger import Ledger
from .base import Backend


class ZarrFiles(Backend):
    """`arrays/<name>` is a Zarr array, `ledger/<name>/<step>-<first>.json` marks a complete block with its checksums.

    Raises:
        DamagedError: for damaged metadata.
    """

    name: ClassVar[str] = "zarr"

    def __init__(self, directory: Path, layout: Layout) -> None:
        super().__init__(directory, layout)
        self._ledger = Ledger(directory / "ledger", layout.owner)
        self._arrays = {spec.name: TermArray(directory / "arrays", layout, spec.name) for spec in layout.specs}

    @classmethod
    def create(cls, directory: Path, layout: Layout) -> None:
        create_metadata(directory / "arrays", layout)

    @classmethod
    def created(cls, directory: Path, layout: Layout) -> bool:
        return all((directory / "arrays" / spec.name / METADATA).exists() for spec in layout.specs)

    def completed(self, name: str) -> set[Block]:
        items, size = self.layout.spec(name).shape[1], self.layout.item_block
        marked = (Block(step, first, min(first + size, items)) for step, first in self._ledger.completed(name))
        return {block for block in marked if self.layout.has(name, block)}

    def has(self, name: str, block: Block) -> bool:
        return self._ledger.has(name, block)

    def write(self, name: str, block: Block, stored: np.ndarray) -> None:
        self._ledger.drop(name, block)
        self._ledger.record(name, block, self._arrays[name].write(block, stored))

    def read(self, name: str, block: Block) -> np.ndarray:
        array = self._arrays[name]
        return array.read(block, self._ledger.load(name, block, array.keys(block)))

    def delete(self, name: str, block: Block) -> None:
        self._ledger.drop(name, block)
        self._arrays[name].delete(block)

    def damages(self) -> Iterator[tuple[str, Block, Damage]]:
        for name, array in self._arrays.items():
            for block in sorted(self.completed(name)):
                try:
                    records = self._ledger.load(name, block, array.keys(block))
                except DamagedError as error:
                    yield name, block, Damage(str(self._ledger.marker(name, block)), str(error))
                    continue
                for damage in array.damages(records):
                    yield name, block, damage

    def metadata_damages(self) -> list[Damage]:
        found = [
            inspect_group(self.directory / "arrays"),
            *(array.inspect_metadata() for array in self._arrays.values()),
        ]
        return [damage for damage in found if damage is not None]
