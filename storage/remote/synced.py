"""What is known of a local copy: which files are as they were fetched or uploaded, by length and time of change."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..atomic import read_json, write_json
from ..errors import StorageError
from .index import Entry
from .policy import Policy

_SETTLED = 2_000_000_000
"""Nanoseconds after which a time of change tells that a file was not written again."""


class Synced:
    """The files of a copy that are the same at the URL.

    Args:
        file: where that is kept.
        url: of the directory; what is kept of another one does not count.

    Attributes:
        held: whether a command writes at length, or was killed while it did: what it removed is then removed at the URL too. What
            is absent at any other time somebody has removed from the copy, to have its room, and is to be fetched again.
    """

    def __init__(self, file: Path, url: str) -> None:
        self.file, self.url = file, url
        self._files: dict[str, tuple[int, int, str]] = {}
        self.held = False
        try:
            known = read_json(file)
            if known["url"] == url:
                self._files = {str(k): (int(a), int(b), str(c)) for k, (a, b, c) in known["files"].items()}
                self.held = known.get("held") is True
        except (StorageError, KeyError, TypeError, ValueError):
            return  # every file is compared by its content

    def save(self) -> None:
        """Keep what is known."""
        files = {k: list(v) for k, v in self._files.items()}
        write_json(self.file, {"url": self.url, "held": self.held, "files": files})

    def hold(self, held: bool) -> None:
        """Keep whether a command writes at length."""
        if held != self.held:
            self.held = held
            self.save()

    def note(self, directory: Path, files: Mapping[str, Entry]) -> None:
        """Take note that files are the same here and there."""
        now = time.time_ns()
        for name, entry in files.items():
            if (found := _stat(directory / name)) is not None:
                size, changed = found
                # A file that changed just now may change again within the same tick of the clock.
                self._files[name] = (size, changed if now - changed > _SETTLED else -1, entry.digest)

    def forget(self, names: Iterable[str]) -> None:
        """Know nothing of files."""
        for name in names:
            self._files.pop(name, None)

    def differs(self, name: str, entry: Entry | None) -> bool:
        """Whether an index has a file otherwise than it was here and there, or has one of which nothing is known here."""
        if entry is None:
            return False
        return name not in self._files or (entry.digest not in ("", self._files[name][2]))

    def replaced(self, name: str, entry: Entry | None) -> bool:
        """Whether a file that was the same here and there is gone there, or is another."""
        return name in self._files and (entry is None or entry.digest not in ("", self._files[name][2]))

    def outdated(self, files: Mapping[str, Entry]) -> list[str]:
        """Files that were the same, and are otherwise in an index."""
        return [
            name
            for name, (_, _, digest) in self._files.items()
            if (entry := files.get(name)) is None or entry.digest not in ("", digest)
        ]

    def changes(
        self, directory: Path, files: Mapping[str, Entry], policy: Policy
    ) -> tuple[dict[str, Entry], list[str]]:
        """What was written locally, and what was removed, since.

        Args:
            directory: of the copy.
            files: those of the index that it was compared with.
            policy: what is uploaded at all.

        Returns:
            Files that differ, and names that a command has removed.
        """
        changed: dict[str, Entry] = {}
        seen = set()
        for name, path in local_files(directory):
            if policy.is_private(name):
                continue
            seen.add(name)
            found = _stat(path)
            if found is None or (name in self._files and self._files[name][:2] == found):
                continue
            entry = Entry(found[0], digest_of(path))
            if self._known(name, files) in (entry, Entry(entry.size, "")):
                self.note(directory, {name: entry})
            elif _stat(path) == found:  # else it is being written, and its writer will tell
                changed[name] = entry
        gone = [name for name in self._files if name not in seen]
        if not self.held:
            self.forget(gone)
        return changed, gone if self.held else []

    def _known(self, name: str, files: Mapping[str, Entry]) -> Entry | None:
        """A file as it was here and there, or else as an index has it."""
        if name in self._files:
            size, _, digest = self._files[name]
            return Entry(size, digest)
        return files.get(name)


def local_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below a directory, by relative path; links are not followed."""
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(folder) / name
            yield path.relative_to(directory).as_posix(), path


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stat(path: Path) -> tuple[int, int] | None:
    """Bytes and time of change [ns]; None for what is no regular file, or gone."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None
