"""What of a directory is shared, and who is right where two wrote the same file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from .index import FOLDER


@dataclass(frozen=True)
class Policy:
    """Names decide, of files and of the directories that they lie in.

    Args:
        private: names of files and directories that stay where they are, wherever in the directory they lie.
        first: names at the top, of which the copy that was uploaded first stays: files that are named by what they hold.
        last: names at the top, of which the copy that was uploaded last stays. Of any other file two versions are refused.
        lazy: ends of names of files that are fetched when they are read, chunks of arrays aside, which always are.
    """

    private: frozenset[str] = frozenset()
    first: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    lazy: tuple[str, ...] = (".h5",)

    def is_private(self, path: str) -> bool:
        """Whether a file is not uploaded."""
        parts = PurePosixPath(path).parts
        return path.endswith(".part") or parts[:1] == (FOLDER,) or not self.private.isdisjoint(parts)

    def is_lazy(self, path: str) -> bool:
        """Whether a file is fetched only when it is read."""
        return path.endswith(self.lazy) or chunk_of(path) is not None

    def stays(self, path: str) -> bool | None:
        """Of two versions, whether the uploaded one stays; None where neither may replace the other."""
        top = PurePosixPath(path).parts[0]
        return True if top in self.first else False if top in self.last else None


def chunk_of(path: str) -> str | None:
    """The array that a Zarr chunk belongs to, as the beginning of its path; None for any other file."""
    array, found, _ = path.partition("/c/")
    return f"{array}{found}" if found else None
