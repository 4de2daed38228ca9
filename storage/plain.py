"""Opening files as what they are said to be: regular files, reached through no link, of a size that is known beforehand.

A directory may come from somebody else. A link in it could show, overwrite or remove a file outside; a FIFO waits for ever; a
device has no end. Reading in this package goes through `open_plain`, and `require_plain` looks at a whole directory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .errors import Damage, DamagedError
from .sources import fetch

MOST_BYTES = 1 << 28
"""Bytes of a document (JSON, TOML) beyond which it is not read."""
DEEPEST = 64
"""Lists and objects within one another that a JSON document may have."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISDIR, "a directory"),
)


def memory_bytes() -> int:
    """What this machine has of memory: no file is read that declares more; a petabyte where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 50


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def _refused(path: Path | str, found: str) -> DamagedError:
    return DamagedError(
        f"expected a regular file in {path}; got {found}, which is neither followed nor opened; put the file itself there, "
        "or remove it"
    )


def open_plain(path: Path | str) -> BinaryIO:
    """The regular file `path`, opened for reading, whose last part is no link.

    Raises FileNotFoundError where there is none, and DamagedError for a link, a FIFO, a device or a directory.
    """
    try:
        descriptor = _descriptor(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise _refused(path, _kind(os.lstat(path).st_mode)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _refused(path, _kind(mode))
    return os.fdopen(descriptor, "rb")


def _descriptor(path: Path | str) -> int:
    """The opened file; fetched first, where it lies elsewhere."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        if not fetch([Path(path)]):
            raise
        return os.open(path, _FLAGS)


def read_plain(path: Path | str, most: int = MOST_BYTES) -> bytes:
    """The content of the regular file `path`. Raises as `open_plain`, and DamagedError for one of more than `most` bytes."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise DamagedError(f"expected at most {most} bytes in {path}; got {size}; restore the file from a copy")
        return file.read(size)


def irregular(directory: Path | str) -> Iterator[Damage]:
    """What below a directory is neither a regular file nor a directory; nothing is followed or opened. The directory itself
    may be reached through links."""
    waiting = [os.fspath(directory)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    found = _kind(entry.stat(follow_symlinks=False).st_mode)
                    yield Damage(entry.path, f"{found}, which could lead outside the directory or never end")


def require_plain(directory: Path | str) -> None:
    """DamagedError, naming one, where anything below the directory is a link or no regular file; nothing where there is none."""
    if not os.path.isdir(directory):
        return
    for damage in irregular(directory):
        raise DamagedError(
            f"expected regular files and directories alone in {directory}; got {damage.path}, {damage.reason}; put there what it "
            "stands for, or remove it"
        )


def parse_json(text: str | bytes) -> Any:
    """The JSON value of a text.

    Raises:
        ValueError: for no JSON, NaN, a number too large for a float or with thousands of digits, or more than `DEEPEST` levels.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"more than {DEEPEST} levels of lists and objects") from error
    _require_shallow(value, DEEPEST - 1)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _require_shallow(value: Any, room: int) -> None:
    if room < 0:
        raise ValueError(f"more than {DEEPEST} levels of lists and objects")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(part, (dict, list)):
            _require_shallow(part, room - 1)
