"""Files that are either whole or absent: write beside, fsync, rename, fsync the directory."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .errors import ContentError, DamagedError, DiskFullError, MissingError
from .plain import parse_json, read_plain
from .sources import tell

_TOKEN = secrets.token_hex(4)
_COUNTER = itertools.count()
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PART = re.compile(r"\.(\d{1,9})-([0-9a-f]{8})[0-9a-f]{8}-\d+\.part$")
_TIDIED: set[Path] = set()
FORGOTTEN = 86_400.0
"""Seconds after which a half-written file of another machine has no writer any more: a file is written in seconds or minutes."""


@cache
def _host() -> str:
    """What tells this machine, or container, and its boot from others: process numbers mean something within it alone."""
    boot = _BOOT.read_bytes() if _BOOT.exists() else b""
    return hashlib.sha256(os.uname().nodename.encode() + boot).hexdigest()[:8]


def _own_tag() -> str:
    # The process number alone does not do: in a container a restarted process often gets the same one.
    return f".{os.getpid()}-{_host()}{_TOKEN}-"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _abandoned(path: Path) -> bool:
    """Whether nobody writes a `.part` file any more: its process is dead, or it is of another machine and a day old."""
    tag = _PART.search(path.name)
    if tag is None:
        return False
    if tag[2] == _host():
        return not _lives(int(tag[1]))
    try:
        return time.time() - path.stat().st_mtime > FORGOTTEN
    except FileNotFoundError:
        return False


def _tidy(directory: Path) -> None:
    """Remove what nobody writes any more of the half-written files of a directory, once in a process's life."""
    if directory in _TIDIED:
        return
    _TIDIED.add(directory)
    for path in directory.glob("*.part"):
        if _abandoned(path):
            path.unlink(missing_ok=True)


def remove_abandoned(directory: Path | str) -> list[Path]:
    """Removes the `.part` files below `directory` that nobody writes any more; returns them.

    Other processes may write there meanwhile: a file of one that lives stays, and one of another machine for a day.
    """
    found = [path for path in Path(directory).rglob("*.part") if _abandoned(path)]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def _free_bytes(directory: Path) -> int:
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turns an OSError for a full disk or quota into a DiskFullError that names `path` and the free bytes."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"expected room to write {path}; the disk is full, with {_free_bytes(path.parent)} bytes free; "
            "free some space and run again: what was whole is still whole"
        ) from error


def require_free(directory: Path | str, needed_bytes: int, what: str) -> None:
    """Raises DiskFullError, with both numbers, if the disk of `directory` has fewer than `needed_bytes` free."""
    free = _free_bytes(Path(directory))
    if free < needed_bytes:
        raise DiskFullError(
            f"expected {needed_bytes} bytes free for {what}; {directory} has {free} bytes free; "
            f"free {needed_bytes - free} more bytes or choose another disk"
        )


def sync_file(path: Path) -> None:
    """Returns once the content of `path` is durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Returns once the names in `path` (created, renamed, removed) are durable."""
    sync_file(path)


def make_directory(path: Path) -> None:
    """Creates `path` and its parents where absent, durably. DamagedError where `path` is a link."""
    if path.is_symlink():
        raise DamagedError(
            f"expected a directory in {path}; got a link, which is not followed; put the directory there"
        )
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it becomes `path`, durably, on failure it is removed.

    The directory must exist. Raises DiskFullError, naming `path` and the free bytes, if the disk fills up meanwhile.
    """
    path = Path(path)
    _tidy(path.parent.absolute())
    part = path.with_name(f"{path.name}{_own_tag()}{next(_COUNTER)}.part")
    try:
        with naming_full_disk(path):
            yield part
            sync_file(part)
            os.replace(part, path)
            sync_directory(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    tell(path)


def remove_parts(directory: Path | str) -> list[Path]:
    """Removes the `.part` files in `directory` that are not this process's own; returns them.

    Call it only where no other process is writing, as under the lock of what the directory belongs to; else `remove_abandoned`.
    """
    own = _own_tag()
    stray = sorted(path for path in Path(directory).glob("*.part") if own not in path.name)
    for path in stray:
        path.unlink(missing_ok=True)
    return stray


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with replacing(path) as part, open(part, "xb") as file:  # a link of that name would be written through
        file.write(data)


def write_json(path: Path | str, obj: Any) -> None:
    """Writes `obj` as JSON (sorted keys, indented), whole or not at all. Raises ContentError for NaN and non-JSON."""
    try:
        text = json.dumps(obj, sort_keys=True, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContentError(
            f"expected a JSON value without NaN or infinity for {path}; got one that fails with: {error}; "
            "turn it into numbers, strings, lists and dicts first (null for a number that is absent)"
        ) from error
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path | str) -> Any:
    """The JSON value in `path`, a regular file. Raises MissingError if there is none, DamagedError if it holds no JSON."""
    path = Path(path)
    try:
        data = read_plain(path)
    except FileNotFoundError as error:
        raise MissingError(f"expected a JSON file {path}; there is none; check the path, or write it first") from error
    try:
        return parse_json(data)
    except ValueError as error:
        raise DamagedError(
            f"expected JSON in {path}; reading {len(data)} bytes failed with: {error}; "
            "restore the file from a copy, or remove it and make it again"
        ) from error
