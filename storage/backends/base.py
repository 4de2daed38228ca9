"""What a term store asks of the place where its blocks lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import Damage
from ..layout import Block, Layout


class Backend(ABC):
    """The blocks of a term store, and which of them are complete.

    A block is complete or absent, whenever a writer is killed: `completed` lists it only after all of it can be read again.
    Names, blocks and arrays have been checked before they come here, and values are encoded: bfloat16 comes as uint16.

    Args:
        directory: of the store, which exists; files of the backend lie in it.
        layout: the terms and their blocks.
    """

    name: ClassVar[str]
    """By which a manifest says where blocks lie."""
    durable: ClassVar[bool] = True
    """Whether another process finds what was written; False for what lives with the object."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory = directory
        self.layout = layout

    @classmethod
    def create(cls, directory: Path, layout: Layout) -> None:
        """Write what must be there before the first block, and is not yet; nothing by default."""
        return

    @classmethod
    def created(cls, directory: Path, layout: Layout) -> bool:
        """Whether what `create` writes is there: not where it was killed."""
        return True

    @abstractmethod
    def completed(self, name: str) -> set[Block]:
        """The complete blocks of a term."""

    def has(self, name: str, block: Block) -> bool:
        """Whether one block is complete; worth a method of its own where listing all is slow."""
        return block in self.completed(name)

    @abstractmethod
    def write(self, name: str, block: Block, stored: np.ndarray) -> None:
        """Write a block in place of what was there.

        Args:
            name: of the term.
            block: one of the term's.
            stored: [last - first, k] in the term's stored dtype; a view, to be copied if it is kept.

        Raises:
            DiskFullError: where there is no room; the block is absent then.
        """

    @abstractmethod
    def read(self, name: str, block: Block) -> np.ndarray:
        """The array that was written as a complete block; nobody changes it.

        Raises:
            DamagedError: where what lies there is not what was written.
        """

    @abstractmethod
    def delete(self, name: str, block: Block) -> None:
        """Remove a block; nothing happens where it is absent."""

    def damages(self) -> Iterator[tuple[str, Block, Damage]]:
        """Read everything that counts as complete; the term, the block and the damage of what is not as it was written."""
        yield from ()

    def metadata_damages(self) -> list[Damage]:
        """Damaged files beside the blocks, which `create` writes anew once they are removed."""
        return []
