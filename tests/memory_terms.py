"""An in-memory twin of TermStore: the model that it is tested against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storage.layout import Block, Layout, TermSpec
from storage.ledger import incomplete
from storage.manifest import canonical


class MemoryTerms:
    """Terms in memory, with the interface, rounding and errors of TermStore."""

    def __init__(self, specs: Sequence[TermSpec], identity: dict[str, Any], item_block: int) -> None:
        self._layout = Layout(specs, item_block)
        self._identity: dict[str, Any] = json.loads(canonical(identity))
        self._stored: dict[tuple[str, Block], np.ndarray] = {}

    @property
    def specs(self) -> tuple[TermSpec, ...]:
        return self._layout.specs

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    @property
    def item_block(self) -> int:
        return self._layout.item_block

    def blocks(self, name: str) -> list[Block]:
        return self._layout.blocks(name)

    def missing(self, names: Sequence[str] | None = None) -> list[Block]:
        chosen = self._layout.names(names)
        return sorted({block for name in chosen for block in self.blocks(name) if (name, block) not in self._stored})

    def missing_names(self, block: Block, names: Sequence[str] | None = None) -> list[str]:
        return [name for name in self._layout.names_with(block, names) if (name, block) not in self._stored]

    def progress(self) -> tuple[int, int]:
        return len(self._stored), sum(len(self.blocks(spec.name)) for spec in self.specs)

    def write(self, block: Block, arrays: Mapping[str, np.ndarray]) -> None:
        for name, stored in self._layout.encoded(block, arrays).items():
            self._stored[name, block] = stored.copy()

    def read(self, name: str, step: int) -> np.ndarray:
        blocks = self._layout.step_blocks(name, step)
        return np.concatenate([self._read_block(name, block) for block in blocks])

    def read_items(self, name: str, step: int, items: Sequence[int] | np.ndarray) -> np.ndarray:
        blocks = self._layout.step_blocks(name, step)
        spec = self._layout.spec(name)
        wanted = self._layout.items(name, items)
        held = {index: self._read_block(name, blocks[index]) for index in np.unique(wanted // self.item_block)}
        rows = [held[item // self.item_block][item % self.item_block] for item in wanted]
        return np.array(rows, spec.read_dtype).reshape(len(rows), spec.shape[2])

    def discard(self, block: Block, names: Sequence[str] | None = None) -> None:
        for name in self._layout.names_with(block, names):
            self._stored.pop((name, block), None)

    def _read_block(self, name: str, block: Block) -> np.ndarray:
        if (name, block) not in self._stored:
            raise incomplete(name, block)
        return self._layout.spec(name).decode(self._stored[name, block]).copy()
