"""Files of a directory that lie elsewhere until they are read: a source brings them, and hears of what is written.

Nothing is registered by default, and then every function here is a look at the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """Where the files of one directory lie, of which some are absent from it yet."""

    def absent(self, directory: Path) -> dict[str, int]:
        """Files below a directory that are to be fetched still, as paths relative to it, with their sizes in bytes."""

    def has(self, path: Path) -> bool:
        """Whether a file is to be fetched still."""

    def fetch(self, paths: Sequence[Path]) -> None:
        """Bring those of the files that it has, whole and verified."""

    def written(self, path: Path) -> None:
        """Hear that a file was written, or written anew."""

    def writing(self) -> AbstractContextManager[object]:
        """Hold the whole directory, to write into it at length."""

    def address(self, path: Path) -> str:
        """Where a file or directory lies, for people."""


_SOURCES: dict[str, Source] = {}


def register(directory: Path, source: Source) -> None:
    """Files below a directory come from a source from now on, in this process."""
    _SOURCES[os.path.abspath(directory)] = source


def source_of(path: Path | str) -> Source | None:
    """Where the files below a path come from; None for a directory that is whole."""
    if not _SOURCES:
        return None
    full = os.path.abspath(path)
    return next((found for root, found in _SOURCES.items() if full == root or full.startswith(root + os.sep)), None)


def address(path: Path | str) -> str:
    """Where a file or a directory is, as its user has named it: below a URL, not in the copy that is kept of it."""
    source = source_of(path)
    return str(path) if source is None else source.address(Path(path))


def fetch(paths: Sequence[Path]) -> bool:
    """Bring those of the files that are absent and lie elsewhere; whether a source was asked."""
    source = source_of(paths[0]) if _SOURCES and paths else None
    lacking = [path for path in paths if not os.path.lexists(path)] if source is not None else []
    if source is not None and lacking:
        source.fetch(lacking)
    return bool(lacking)


def there(path: Path) -> bool:
    """Whether a file is there, or is to be fetched."""
    return os.path.lexists(path) or ((source := source_of(path)) is not None and source.has(path))


def listed(directory: Path) -> list[str]:
    """Names directly below a directory, there or to be fetched, ascending; none where there is no such directory."""
    names = {entry.name for entry in os.scandir(directory)} if directory.is_dir() else set()
    source = source_of(directory)
    return sorted(names if source is None else names | {name.split("/")[0] for name in source.absent(directory)})


def absent_bytes(directory: Path) -> int:
    """Bytes of the files below a directory that are to be fetched still."""
    source = source_of(directory)
    return 0 if source is None else sum(source.absent(directory).values())


def size_of(path: Path) -> int:
    """Bytes of a file, there or to be fetched."""
    source = source_of(path)
    if source is not None and not os.path.lexists(path):
        found = source.absent(path.parent).get(path.name)
        if found is not None:
            return found
    return path.stat().st_size


def tell(path: Path) -> None:
    """Let the source of a file know that it was written."""
    if (source := source_of(path)) is not None:
        source.written(path)


def fetch_all(directory: Path, but: Sequence[str] = ()) -> None:
    """Bring every file below a directory that lies elsewhere, but for those below some names in it."""
    if (source := source_of(directory)) is not None:
        source.fetch([directory / name for name in source.absent(directory) if name.split("/")[0] not in but])


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Hold a directory whole while one command writes into it; what was written is brought where the directory comes from."""
    source = source_of(directory)
    if source is None:
        yield
        return
    with source.writing():
        yield
