"""What several tests here need: a small term store on disk, and a process that sees the same `storage` as this one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import storage
from storage import Block, TermSpec, TermStore


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -c script *arguments` with its output captured."""

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(storage.__file__).parents[1])}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return start


class Disk:
    """A directory for one small term store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.specs = [TermSpec("gradient", (2, 5, 4), "float32"), TermSpec("half", (2, 5, 4), "bfloat16")]
        self.identity = {"seed": 3, "rule": {"name": "adam"}}

    def opened(self, **changed) -> TermStore:
        """The store, created or opened, with the usual arguments but for those `changed`."""
        arguments: dict[str, Any] = {"specs": self.specs, "identity": self.identity, "item_block": 2} | changed
        return TermStore.create_or_open(self.path, **arguments)

    def filled(self, **changed) -> TermStore:
        """The store with whatever is missing written."""
        store = self.opened(**changed)
        for block in store.missing():
            self.write(store, block)
        return store

    def write(self, store: TermStore, block: Block) -> None:
        """Writes the block of every term, always with the same values."""
        rng = np.random.default_rng([block.step, block.first])
        shape = (block.last - block.first, store.specs[0].shape[2])
        store.write(block, {spec.name: rng.normal(size=shape).astype(np.float32) for spec in store.specs})

    def chunk_files(self) -> list[Path]:
        """The files that hold chunks, sorted."""
        files = (self.path / "arrays").rglob("*")
        return sorted(file for file in files if file.is_file() and file.name != "zarr.json")

    def flip(self, path: Path, position: int, mask: int = 1) -> None:
        """Flips bits of one byte; a second call undoes the first."""
        data = bytearray(path.read_bytes())
        data[position] ^= mask
        path.write_bytes(data)


@pytest.fixture
def disk(tmp_path) -> Disk:
    return Disk(tmp_path)
