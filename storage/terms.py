"""Terms: arrays [checkpoint index, item, coordinate] filled block by block, checksummed, resumable."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from .atomic import make_directory
from .backends import DEFAULT, backend_named
from .errors import ContentError, Damage, DamagedError, IdentityError, MissingError
from .layout import Block, Layout, TermSpec
from .ledger import incomplete
from .manifest import FORMAT, Manifest, fingerprint, require_same

_KIND = "terms"
_BACKEND = "backend"


class TermStore:
    """Terms in a directory: `manifest.json` says what they are and in which backend their blocks lie, by default `zarr`.

    Any number of processes read, and write, each other blocks. A kill at any moment leaves blocks that are complete, and blocks
    that `missing` lists. All arrays are numpy; bfloat16 terms come as float32.
    """

    def __init__(self, path: Path, manifest: Manifest, layout: Layout, writable: bool) -> None:
        """Use `create_or_open` or `open`."""
        self.path = path
        self._manifest = manifest
        self._layout = layout
        self._writable = writable
        self._blocks = backend_named(_backend_of(manifest))(path, layout)

    @classmethod
    def create_or_open(
        cls,
        path: Path | str,
        specs: Sequence[TermSpec],
        identity: dict[str, Any],
        item_block: int,
        backend: str = DEFAULT,
    ) -> TermStore:
        """Create the store, or open the one that is there if it has the same identity, specs, item_block and backend.

        Args:
            path: the store's directory.
            specs: the terms.
            identity: what they belong to, as a nested JSON value.
            item_block: items in a block.
            backend: a name in `storage.backends.BACKENDS`.

        Returns:
            The store, which may be written to.

        Raises:
            IdentityError: naming the fields that differ, with both values.
            DamagedError: for damaged metadata.
        """
        path, chosen = Path(path), backend_named(backend)
        layout = Layout(specs, item_block, fingerprint(identity))
        environment = {"python": platform.python_version(), "numpy": np.__version__, "zarr": zarr.__version__}
        # The default goes unsaid, as in stores that were made before there was another.
        elsewhere = {} if backend == DEFAULT else {_BACKEND: backend}
        pinned = {"identity": identity, "layout": layout.describe(), **elsewhere}
        wanted = Manifest(_KIND, FORMAT, pinned, environment)
        make_directory(path)
        if not (path / "manifest.json").exists():
            _require_fresh(path)
            wanted.write(path / "manifest.json")
        found = _read_manifest(path)
        require_same(found.identity["identity"], wanted.identity["identity"], f"the term store {path}")
        require_same(found.identity["layout"], wanted.identity["layout"], f"the layout of the term store {path}")
        require_same({_BACKEND: _backend_of(found)}, {_BACKEND: backend}, f"the blocks of the term store {path}")
        chosen.create(path, layout)
        return cls(path, found, layout, writable=True)

    @classmethod
    def open(
        cls, path: Path | str, identity: dict[str, Any] | None = None, specs: Sequence[TermSpec] | None = None
    ) -> TermStore:
        """Opens the store in `path` for everything but `write`.

        Args:
            path: the store's directory.
            identity: what it must belong to; None to take any.
            specs: the terms that it must have, which bound what is allocated; None to take any.

        Raises:
            MissingError: if there is none.
            IdentityError: naming the fields that differ, with both values.
            DamagedError: for damaged metadata.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if identity is not None:
            require_same(manifest.identity["identity"], identity, f"the term store {path}")
        layout = _described(manifest, path)
        if specs is not None:
            expected = Layout(specs, layout.item_block).describe()
            require_same(layout.describe(), expected, f"the layout of the term store {path}")
        return cls(path, manifest, layout, writable=False)

    @classmethod
    def created(cls, path: Path | str) -> bool:
        """Whether there is a store that `open` can read: not where `create_or_open` was killed, which finishes it when repeated.

        DamagedError for a damaged manifest.
        """
        path = Path(path)
        if not (path / "manifest.json").exists():
            return False
        manifest = _read_manifest(path)
        return backend_named(_backend_of(manifest)).created(path, _described(manifest, path))

    @property
    def specs(self) -> tuple[TermSpec, ...]:
        """The terms, by name."""
        return self._layout.specs

    @property
    def identity(self) -> dict[str, Any]:
        """What the terms belong to, as a nested JSON value."""
        identity: dict[str, Any] = self._manifest.identity["identity"]
        return identity

    @property
    def item_block(self) -> int:
        """Items in a block."""
        return self._layout.item_block

    @property
    def backend(self) -> str:
        """Name of the backend that the blocks lie in."""
        return self._blocks.name

    def blocks(self, name: str) -> list[Block]:
        """All blocks of `name`, ascending."""
        return self._layout.blocks(name)

    def missing(self, names: Sequence[str] | None = None) -> list[Block]:
        """The blocks, ascending, for which any of `names` (all for None) is not complete."""
        lacking = set()
        for name in self._layout.names(names):
            lacking |= set(self.blocks(name)) - self._blocks.completed(name)
        return sorted(lacking)

    def missing_names(self, block: Block, names: Sequence[str] | None = None) -> list[str]:
        """Those of `names` that have `block` and for which it is not complete."""
        return [name for name in self._layout.names_with(block, names) if not self._blocks.has(name, block)]

    def progress(self) -> tuple[int, int]:
        """Complete blocks and all blocks, summed over the terms."""
        total = sum(len(self.blocks(spec.name)) for spec in self.specs)
        return total - sum(len(self.missing([spec.name])) for spec in self.specs), total

    def write(self, block: Block, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes `block` of the named terms, each [last - first, k] in the term's dtype (float32 for bfloat16).

        Replaces what was there. Raises ContentError, before anything is written, for a wrong name, shape or dtype, or
        for a value that is not finite as stored.
        """
        if not self._writable:
            raise IdentityError(
                f"expected a store opened with its identity before writing to {self.path}; it was opened with open(); "
                "use create_or_open, which checks that the new blocks belong to it"
            )
        for name, stored in self._layout.encoded(block, arrays).items():
            self._blocks.write(name, block, stored)

    def read(self, name: str, step: int) -> np.ndarray:
        """[items, k] of checkpoint index `step`. Raises MissingError unless all its blocks are complete."""
        blocks = self._layout.step_blocks(name, step)
        self._require_complete(name, blocks)
        spec = self._layout.spec(name)
        values = np.empty(spec.shape[1:], spec.read_dtype)
        # Block by block, which is faster than one call: less memory is touched anew, and bfloat16 needs no second copy.
        for block in blocks:
            values[block.first : block.last] = self._read_block(spec, block)
        return values

    def read_items(self, name: str, step: int, items: Sequence[int] | np.ndarray) -> np.ndarray:
        """[len(items), k], in the order of `items`. Raises MissingError unless the blocks of these are complete."""
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
        """Deletes `block` of `names` (all that have it for None), so that `missing` lists it again."""
        for name in self._layout.names_with(block, names):
            self._blocks.delete(name, block)

    def check(self) -> list[Damage]:
        """Reads every chunk that the ledger counts; returns the files that are not what was written."""
        return self._blocks.metadata_damages() + [damage for _, _, damage in self._blocks.damages()]

    def repair(self) -> list[Block]:
        """Discards the blocks that `check` finds damaged, writes damaged metadata anew; returns the blocks."""
        damaged = {(block, name) for name, block, _ in self._blocks.damages()}
        for block, name in sorted(damaged):
            self.discard(block, [name])
        for damage in self._blocks.metadata_damages():
            Path(damage.path).unlink(missing_ok=True)
        self._blocks.create(self.path, self._layout)
        return sorted({block for block, _ in damaged})

    def nbytes(self) -> int:
        """Bytes on disk, everything included."""
        folders = os.walk(self.path)
        return sum(os.path.getsize(os.path.join(folder, file)) for folder, _, files in folders for file in files)

    def _require_complete(self, name: str, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if not self._blocks.has(name, block):
                raise incomplete(name, block)

    def _read_block(self, spec: TermSpec, block: Block) -> np.ndarray:
        return spec.decode(self._blocks.read(spec.name, block))


def _backend_of(manifest: Manifest) -> str:
    name: str = manifest.identity.get(_BACKEND, DEFAULT)
    return name


def _described(manifest: Manifest, path: Path) -> Layout:
    try:
        return Layout.described(manifest.identity["layout"], fingerprint(manifest.identity["identity"]))
    except (AttributeError, KeyError, TypeError, ContentError) as error:
        raise DamagedError(
            f"expected the layout of a term store in {path / 'manifest.json'}; got one that fails with {error!r}; restore the "
            "file from a copy"
        ) from error


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
