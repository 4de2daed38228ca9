"""What `fut info` said of a run that has not changed since: said again without torch, the data or the model.

It is kept in the run beside what it is of: the names, sizes and times of change of all other files, and the version of fut. What
changes a file and none of these is not seen here; `fut check` reads every byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fut.version import __version__

FILE, LARGEST = "info.json", 1 << 20
"""Its name in the run directory, and bytes beyond which it is not read."""
JSON = "--json"
KEYS = ("state", "text", "json")
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def state_of(path: Path) -> str:
    """Digest of what a directory holds, by names, sizes and times of change, as it is called; this file aside.

    Raises:
        OSError: where there is no such directory.
    """
    about = hashlib.sha256(json.dumps([__version__, os.fspath(path)]).encode())
    for line in sorted(_lines(os.fspath(path), "")):
        about.update(line)
    return about.hexdigest()


def _lines(directory: str, prefix: str) -> Iterator[bytes]:
    """A line for every file below a directory; a link is one, whatever it leads to."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _lines(entry.path, f"{name}/")
            elif name != FILE:
                found = entry.stat(follow_symlinks=False)
                yield f"{name}\0{found.st_mode}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )


def recalled(words: Sequence[str]) -> str | None:
    """What the command said of the same run in the same state; None where that is not known, or with other options.

    words: behind `info`.
    """
    named = [word for word in words if word != JSON]
    if len(named) != 1 or len(words) - 1 > 1 or named[0].startswith("-"):
        return None
    path = Path(named[0])
    try:
        kept = json.loads(_read(path / FILE))
        if not (isinstance(kept, dict) and all(isinstance(kept.get(key), str) for key in KEYS)):
            return None
        said: str = kept["json" if JSON in words else "text"]
        plain = all(part.isprintable() for part in said.split("\n"))  # a foreign file commands no terminal
        return said if plain and kept["state"] == state_of(path) else None
    except (OSError, ValueError, RecursionError):
        return None


def _read(file: Path) -> bytes:
    """A small regular file; OSError for anything else."""
    descriptor = os.open(file, _FLAGS)
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise OSError(f"{file}: expected a small file, got something else")
        return opened.read(LARGEST)


def keep(path: Path, said: dict[str, Any]) -> None:
    """Keep what was said, `text` and `json`; nothing where the directory cannot be written to."""
    from storage import StorageError
    from storage.atomic import write_json

    try:
        write_json(path / FILE, said | {"state": state_of(path)})
    except (OSError, StorageError):
        return
