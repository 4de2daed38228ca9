"""Terms: arrays [checkpoint index, item, coordinate] filled block by block, checksummed, resumable."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr

from .atomic import make_directory
from .chunks import TermArray, create_metadata, inspect_group
from .errors import Damage, DamagedError, IdentityError, MissingError
from .layout import Block, Layout, TermSpec
from .ledger import Ledger, incomplete
from .manifest import FORMAT, Manifest, require_same

_KIND = "terms"


class Terms(Protocol):
    """What estimators and the cache ask of a term store. All arrays are numpy; bfloat16 terms come as float32."""

    @property
    def specs(self) -> tuple[TermSpec, ...]:
        """The terms, by name."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the terms belong to, as a nested JSON value."""

    @property
    def item_block(self) -> int:
        """Items in a block."""

    def blocks(self, name: str) -> list[Block]:
        """All blocks of `name`, ascending."""

    def missing(self, names: Sequence[str] | None = None) -> list[Block]:
        """The blocks, ascending, for which any of `names` (all for None) is not complete."""

    def missing_names(self, block: Block, names: Sequence[str] | None = None) -> list[str]:
        """Those of `names` that have `block` and for which it is not complete."""

    def progress(self) -> tuple[int, int]:
        """Complete blocks and all blocks, summed over the terms."""

    def write(self, block: Block, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes `block` of the named terms, each [last - first, k] in the term's dtype (float32 for bfloat16).

        Replaces what was there. Raises ContentError, before anything is written, for a wrong name, shape or dtype, or
        for a value that is not finite as stored.
        """

    def read(self, name: str, step: int) -> np.ndarray:
        """[items, k] of checkpoint index `step`. Raises MissingError unless all its blocks are complete."""

    def read_items(self, name: str, step: int, items: Sequence[int] | np.ndarray) -> np.ndarray:
        """[len(items), k], in the order of `items`. Raises MissingError unless the blocks of these are complete."""

    def discard(self, block: Block, names: Sequence[str] | None = None) -> None:
        """Deletes `block` of `names` (all that have it for None), so that `missing` lists it again."""


class TermStore:
    """Terms in a directory, as Zarr v3 arrays with a ledger of complete blocks. One process writes; any number read.

    `manifest.json` says what they are, `arrays/<name>` is a Zarr array, `ledger/<name>/<step>-<first>.json` marks a
    complete block. A kill at any moment leaves blocks that are complete, and blocks that `missing` lists.
    """

    def __init__(self, path: Path, manifest: Manifest, layout: Layout, writable: bool) -> None:
        """Use `create_or_open` or `open`."""
        self.path = path
        self._manifest = manifest
        self._layout = layout
        self._writable = writable
        self._ledger = Ledger(path / "ledger")
        self._arrays = {spec.name: TermArray(path / "arrays", layout, spec.name) for spec in layout.specs}

    @classmethod
    def create_or_open(
        cls, path: Path | str, specs: Sequence[TermSpec], identity: dict[str, Any], item_block: int
    ) -> TermStore:
        """Creates the store, or opens the one that is there if it has the same identity, specs and item_block.

        Raises IdentityError naming the fields that differ, with both values; DamagedError for damaged metadata.
        """
        path = Path(path)
        layout = Layout(specs, item_block)
        environment = {"python": platform.python_version(), "numpy": np.__version__, "zarr": zarr.__version__}
        wanted = Manifest(_KIND, FORMAT, {"identity": identity, "layout": layout.describe()}, environment)
        make_directory(path)
        if not (path / "manifest.json").exists():
            _require_fresh(path)
            wanted.write(path / "manifest.json")
        found = _read_manifest(path)
        require_same(found.identity["identity"], wanted.identity["identity"], f"the term store {path}")
        require_same(found.identity["layout"], wanted.identity["layout"], f"the layout of the term store {path}")
        create_metadata(path / "arrays", layout)
        return cls(path, found, layout, writable=True)

    @classmethod
    def open(cls, path: Path | str) -> TermStore:
        """Opens the store in `path`, whatever its identity, for everything but `write`.

        Raises MissingError if there is none, DamagedError for damaged metadata.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        return cls(path, manifest, Layout.described(manifest.identity["layout"]), writable=False)

    @property
    def specs(self) -> tuple[TermSpec, ...]:
        return self._layout.specs

    @property
    def identity(self) -> dict[str, Any]:
        return self._manifest.identity["identity"]

    @property
    def item_block(self) -> int:
        return self._layout.item_block

    def blocks(self, name: str) -> list[Block]:
        return self._layout.blocks(name)

    def missing(self, names: Sequence[str] | None = None) -> list[Block]:
        lacking = set()
        for name in self._layout.names(names):
            completed = self._ledger.completed(name)
            lacking |= {block for block in self.blocks(name) if (block.step, block.first) not in completed}
        return sorted(lacking)

    def missing_names(self, block: Block, names: Sequence[str] | None = None) -> list[str]:
        return [name for name in self._layout.names_with(block, names) if not self._ledger.has(name, block)]

    def progress(self) -> tuple[int, int]:
        total = sum(len(self.blocks(spec.name)) for spec in self.specs)
        return total - sum(len(self.missing([spec.name])) for spec in self.specs), total

    def write(self, block: Block, arrays: Mapping[str, np.ndarray]) -> None:
        if not self._writable:
            raise IdentityError(
                f"expected a store opened with its identity before writing to {self.path}; it was opened with open(); "
                "use create_or_open, which checks that the new blocks belong to it"
            )
        for name, stored in self._layout.encoded(block, arrays).items():
            self._ledger.drop(name, block)
            self._ledger.record(name, block, self._arrays[name].write(block, stored))

    def read(self, name: str, step: int) -> np.ndarray:
        blocks = self._layout.step_blocks(name, step)
        self._require_complete(name, blocks)
        spec = self._layout.spec(name)
        values = np.empty(spec.shape[1:], spec.read_dtype)
        # Block by block, which is faster than one call: less memory is touched anew, and bfloat16 needs no second copy.
        for block in blocks:
            values[block.first : block.last] = self._read_block(spec, block)
        return values

    def read_items(self, name: str, step: int, items: Sequence[int] | np.ndarray) -> np.ndarray:
        blocks = self._layout.step_blocks(name, step)
        wanted = self._layout.items(name, items)
        needed = [blocks[index] for index in np.unique(wanted // self.item_block)]
        self._require_complete(name, needed)
        spec = self._layout.spec(name)
        values = np.empty((len(wanted), spec.shape[2]), spec.read_dtype)
        for block in needed:
            rows = np.flatnonzero((wanted >= block.first) & (wanted < block.last))
            values[rows] = self._read_block(spec, block)[wanted[rows] - block.first]
        return values

    def discard(self, block: Block, names: Sequence[str] | None = None) -> None:
        for name in self._layout.names_with(block, names):
            self._ledger.drop(name, block)
            self._arrays[name].delete(block)

    def check(self) -> list[Damage]:
        """Reads every chunk that the ledger counts; returns the files that are not what was written."""
        return self._metadata_damages() + [damage for _, _, damage in self._damages()]

    def repair(self) -> list[Block]:
        """Discards the blocks that `check` finds damaged, writes damaged metadata anew; returns the blocks."""
        damaged = {(block, name) for name, block, _ in self._damages()}
        for block, name in sorted(damaged):
            self.discard(block, [name])
        for damage in self._metadata_damages():
            Path(damage.path).unlink(missing_ok=True)
        create_metadata(self.path / "arrays", self._layout)
        return sorted({block for block, _ in damaged})

    def nbytes(self) -> int:
        """Bytes on disk, everything included."""
        folders = os.walk(self.path)
        return sum(os.path.getsize(os.path.join(folder, file)) for folder, _, files in folders for file in files)

    def _metadata_damages(self) -> list[Damage]:
        found = [inspect_group(self.path / "arrays"), *(array.inspect_metadata() for array in self._arrays.values())]
        return [damage for damage in found if damage is not None]

    def _damages(self) -> Iterator[tuple[str, Block, Damage]]:
        for name, array in self._arrays.items():
            completed = self._ledger.completed(name)
            for block in self.blocks(name):
                if (block.step, block.first) not in completed:
                    continue
                try:
                    records = self._ledger.load(name, block, array.keys(block))
                except DamagedError as error:
                    yield name, block, Damage(str(self._ledger.marker(name, block)), str(error))
                    continue
                for damage in array.damages(records):
                    yield name, block, damage

    def _require_complete(self, name: str, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if not self._ledger.has(name, block):
                raise incomplete(name, block)

    def _read_block(self, spec: TermSpec, block: Block) -> np.ndarray:
        array = self._arrays[spec.name]
        return spec.decode(array.read(block, self._ledger.load(spec.name, block, array.keys(block))))


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = Manifest.read(path / "manifest.json")
    except MissingError as error:
        raise MissingError(
            f"expected a term store in {path}; it has no manifest.json; check the path, or run `fut cache RUN`"
        ) from error
    if manifest.kind != _KIND:
        raise IdentityError(f"expected a manifest of {_KIND} in {path}; it is one of {manifest.kind}; check the path")
    return manifest


def _require_fresh(path: Path) -> None:
    found = [name for name in ("arrays", "ledger") if (path / name).exists()]
    if found:
        raise DamagedError(
            f"expected a manifest.json beside {found} in {path}; there is none, so nothing says what these arrays are; "
            "restore it from a copy, or choose an empty directory"
        )
