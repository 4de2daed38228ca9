"""Whole copies: a directory to a URL, and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..atomic import require_free, sync_file
from ..errors import DamagedError, IdentityError, MissingError, RemoteError
from ..plain import require_plain
from .index import IDENTIFYING, Entry, Index, begin, commit, read_index
from .objects import Objects
from .policy import Policy
from .synced import digest_of, local_files

AT_ONCE = 32
"""Requests that are under way together: a store far away answers many as fast as one."""
TRIES = 20


@dataclass(frozen=True)
class Transfer:
    """What is to be copied.

    Args:
        url: of the directory.
        files: names and sizes of what is copied.
        kept: files that are on both sides alike, or of which the other side's version stays.
        removed: names that are taken away there.
    """

    url: str
    files: Mapping[str, Entry]
    kept: int
    removed: frozenset[str] = frozenset()

    @property
    def nbytes(self) -> int:
        """Bytes that are copied."""
        return sum(entry.size for entry in self.files.values())


def at_once(work: Callable[[str], object], names: Mapping[str, Entry], tick: Callable[[], object]) -> None:
    """Do something for every file, many at a time; an error of one is raised when all have ended."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(work, names):
            tick()


def bring(objects: Objects, name: str, entry: Entry, path: Path, part: Path) -> Entry:
    """Fetch a file whole: it has its name once it is durable and what the index says.

    Returns:
        Its length and digest.

    Raises:
        DamagedError: for an object that is not what the index says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = Entry(*objects.download(name, part, entry.size))
        if found.size != entry.size or entry.digest not in ("", found.digest):
            more = " or more" if found.size > entry.size else ""
            raise DamagedError(
                f"expected {entry.size} bytes with SHA-256 {entry.digest[:12] or '?'}… in {objects.url}/{name}; got "
                f"{found.size}{more} with {found.digest[:12]}…; it was written to meanwhile, or damaged: repeat the command, or "
                "upload it anew"
            )
        sync_file(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return found


class Upload:
    """A directory on its way to a URL. Make it, say what it will copy, then `run` it.

    Args:
        directory: local.
        url: where to; what lies there must be the same directory at an earlier time, or nothing.
        policy: what is copied, and which version stays.
        prune: replace there what differs, and take away what the directory lacks, but for files of which the policy lets several
            machines write versions.

    Raises:
        IdentityError: where another directory lies there, or without `prune` another version of a file that cannot have two.
        MissingError: for a directory that has no `manifest.json`.
    """

    def __init__(self, directory: Path, url: str, policy: Policy, prune: bool = False) -> None:
        self._directory, self._objects = directory, Objects(url)
        if not (directory / IDENTIFYING).exists():
            raise MissingError(f"expected a directory with {IDENTIFYING}, got {directory}; check the path")
        require_plain(directory)
        latest = read_index(self._objects)
        here = {name: Entry(path.lstat().st_size, digest_of(path)) for name, path in _shared(directory, policy)}
        if latest.files and latest.files.get(IDENTIFYING, here[IDENTIFYING]) not in _like(here[IDENTIFYING]):
            raise IdentityError(
                f"expected the same directory, or none, in {self._objects.url}; another lies there ({IDENTIFYING} differs); "
                "choose another URL"
            )
        stays = {name for name in here if name in latest.files and policy.stays(name)}
        files = {n: e for n, e in here.items() if n not in stays and latest.files.get(n) != e}
        if not prune and (
            other := [n for n in files if n in latest.files and _is_other(latest.files[n], here[n], policy, n)]
        ):
            raise IdentityError(
                f"expected {min(other)} in {self._objects.url} to be as in {directory}, or absent; it differs"
                + (f", and {len(other) - 1} more files do" if len(other) > 1 else "")
                + ": somebody else wrote there; choose another URL, or replace what is there with --prune"
            )
        gone = (n for n in latest.files if prune and n not in here and policy.stays(n) is None)
        self.transfer = Transfer(self._objects.url, files, len(here) - len(files), frozenset(gone))

    def run(self, tick: Callable[[], object]) -> None:
        """Upload, and then write the index that lists it; what it no longer lists goes last. tick: hears of every file."""
        files, objects = self.transfer.files, self._objects
        begin(objects)
        at_once(lambda name: objects.upload(name, self._directory / name), files, tick)
        for _ in range(TRIES):
            latest = read_index(objects)
            left = {name: entry for name, entry in latest.files.items() if name not in self.transfer.removed}
            if commit(objects, Index(latest.number + 1, left | dict(files))):
                objects.remove(sorted(self.transfer.removed))
                return
        raise overtaken(objects, TRIES)


class Download:
    """A directory on its way from a URL. Make it, say what it will copy, then `run` it.

    Args:
        url: where from.
        directory: local; new, empty, or the same directory at another time, of which nothing is overwritten.
        policy: which version stays.

    Raises:
        IdentityError: where another directory lies there, or a file of it differs.
        MissingError: where nothing is at the URL.
    """

    def __init__(self, url: str, directory: Path, policy: Policy) -> None:
        self._directory, self._objects = directory, Objects(url)
        latest = read_index(self._objects)
        if IDENTIFYING not in latest.files:
            raise MissingError(
                f"expected a directory with {IDENTIFYING} in {self._objects.url}; there is none; check the URL"
            )
        here = dict(_shared(directory, policy)) if directory.is_dir() else {}
        if (here and IDENTIFYING not in here) or (directory.exists() and not directory.is_dir()):
            raise IdentityError(f"expected a new or empty directory, got {directory}; choose another")
        both = [name for name in here if name in latest.files and policy.stays(name) is None]
        for name in sorted(both, key=lambda name: name != IDENTIFYING):
            if latest.files[name] not in _like(Entry(here[name].lstat().st_size, digest_of(here[name]))):
                raise IdentityError(
                    f"expected {directory / name} to be as in {self._objects.url}; it differs; choose another directory"
                )
        files = {name: entry for name, entry in latest.files.items() if name not in here}
        self.transfer = Transfer(self._objects.url, files, len(here))

    def run(self, tick: Callable[[], object]) -> None:
        """Download what is absent. tick: hears of every file."""
        directory, transfer = self._directory, self.transfer
        directory.mkdir(parents=True, exist_ok=True)
        require_free(directory, transfer.nbytes, f"the copy of {transfer.url}")

        def one(name: str) -> None:
            path = directory / name
            bring(self._objects, name, transfer.files[name], path, path.with_name(f"{path.name}.{os.getpid()}.part"))

        rest = {name: entry for name, entry in transfer.files.items() if name != IDENTIFYING}
        at_once(one, rest, tick)
        if IDENTIFYING in transfer.files:  # last, so that what was fetched in part is not taken for a run
            one(IDENTIFYING)
            tick()


def overtaken(objects: Objects, tries: int) -> RemoteError:
    """The error for an index whose next number somebody else has always taken."""
    return RemoteError(
        f"{objects.url}: expected to add to the index, got another writer before this one {tries} times; repeat the command "
        "when less is written there: nothing that was computed is lost"
    )


def _is_other(there: Entry, here: Entry, policy: Policy, name: str) -> bool:
    """Whether two files are known to differ, of which neither may replace the other."""
    return policy.stays(name) is None and there not in _like(here)


def _like(entry: Entry) -> tuple[Entry, Entry]:
    """How an index may say a file: with its digest, or without where another program has uploaded it."""
    return entry, Entry(entry.size, "")


def _shared(directory: Path, policy: Policy) -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in local_files(directory) if not policy.is_private(name))
