"""The ledger: which blocks are complete, and what each of their chunk files holds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .atomic import make_directory, read_json, sync_directory, write_json
from .errors import DamagedError, MissingError
from .layout import Block

_MARKER = re.compile(r"(\d+)-(\d+)\.json")


@dataclass(frozen=True)
class ChunkRecord:
    """Length in bytes of a chunk file, and the crc32c of all of it but its last four bytes, which hold that crc32c."""

    length: int
    crc32c: int


class Ledger:
    """One small JSON file per term and complete block, under `directory/<name>/<step>-<first>.json`; each says whose it is.

    Any number of processes write at once, each other blocks: no two of them share a file.
    """

    def __init__(self, directory: Path, owner: str = "") -> None:
        self.directory, self.owner = directory, owner

    def marker(self, name: str, block: Block) -> Path:
        """The file that says that `block` of `name` is complete."""
        return self.directory / name / f"{block.step}-{block.first}.json"

    def completed(self, name: str) -> set[tuple[int, int]]:
        """(step, first) of the blocks of `name` that are complete."""
        try:
            matches = map(_MARKER.fullmatch, os.listdir(self.directory / name))
        except FileNotFoundError:
            return set()
        return {(int(match[1]), int(match[2])) for match in matches if match}

    def has(self, name: str, block: Block) -> bool:
        """Whether `block` of `name` is complete."""
        return self.marker(name, block).is_file()

    def record(self, name: str, block: Block, chunks: Mapping[str, ChunkRecord]) -> None:
        """Marks `block` of `name` complete, durably. The chunk files must be durable already."""
        marker = self.marker(name, block)
        make_directory(marker.parent)
        document = {key: {"length": chunk.length, "crc32c": chunk.crc32c} for key, chunk in chunks.items()}
        about = {"name": name, "block": [block.step, block.first, block.last], "owner": self.owner}
        write_json(marker, about | {"chunks": document})

    def load(self, name: str, block: Block, keys: list[str]) -> dict[str, ChunkRecord]:
        """The records of the chunk files `keys` of `block`.

        Raises MissingError if the block is not complete, DamagedError if the marker is not one of this block.
        """
        marker = self.marker(name, block)
        try:
            document = read_json(marker)
        except MissingError as error:
            raise incomplete(name, block) from error
        try:
            described = (document["name"], document["block"], sorted(document["chunks"]))
            records = {key: ChunkRecord(**chunk) for key, chunk in document["chunks"].items()}
            owner = document["owner"]
        except (TypeError, KeyError, AttributeError) as error:
            raise _damaged(marker, f"a file without {error}") from error
        expected = (name, [block.step, block.first, block.last], sorted(keys))
        if described != expected:
            raise _damaged(marker, f"one of {described}, not of {expected}")
        if owner != self.owner:
            raise _damaged(marker, f"one of another store (owner {str(owner)[:12]}…, not {self.owner[:12]}…)")
        return records

    def drop(self, name: str, block: Block) -> None:
        """Marks `block` of `name` as not complete, durably."""
        marker = self.marker(name, block)
        if marker.exists():
            marker.unlink(missing_ok=True)
            sync_directory(marker.parent)


def incomplete(name: str, block: Block) -> MissingError:
    """The error for a block that was asked for before it was complete."""
    return MissingError(
        f"expected {name} of checkpoint index {block.step}, items {block.first} to {block.last - 1}, to be complete; "
        "it is not in the ledger; run `fut cache RUN`, which computes only what is missing"
    )


def _damaged(marker: Path, found: str) -> DamagedError:
    return DamagedError(f"expected a completion marker in {marker}; got {found}; run repair() and then `fut cache RUN`")
