"""What a directory at a URL consists of: a numbered index, of which a new one is written last.

An object that no index lists does not count: what was uploaded in part is never seen. Every index is a new object, created only
where its number is free, so of two writers one finds the number taken, reads what the other wrote, and merges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..errors import DamagedError, RemoteError
from ..plain import MOST_BYTES, parse_json
from .objects import Objects

FOLDER = ".fut"
IDENTIFYING = "manifest.json"
"""The file that says what a directory is: where it differs, nothing of one is put beside the other."""
_FILE = re.compile(rf"{re.escape(FOLDER)}/index-(\d{{8}})\.json")
_KEPT = 3
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One file. size: in bytes; digest: SHA-256 of its content, "" where nobody wrote one down."""

    size: int
    digest: str


@dataclass(frozen=True)
class Index:
    """The files of a directory by their relative paths. number: of the index, 0 for none that fut wrote."""

    number: int = 0
    files: Mapping[str, Entry] = field(default_factory=dict)

    @staticmethod
    def name(number: int) -> str:
        """Of the object that holds an index."""
        return f"{FOLDER}/index-{number:08d}.json"

    def text(self) -> bytes:
        """The index as it is written."""
        files = {path: [entry.size, entry.digest] for path, entry in sorted(self.files.items())}
        return json.dumps({"format": _FORMAT, "files": files}, indent=0).encode()


def read_index(objects: Objects) -> Index:
    """The newest index; where fut has written none, a list of what another program has uploaded there, without digests. Objects
    among which nothing says what they are, as those of a whole bucket, are no directory and are not listed.

    Raises:
        DamagedError: for an index that is none, or names files outside of the directory.
    """
    held = objects.sizes(FOLDER)
    numbers = sorted(int(match[1]) for name in held if (match := _FILE.fullmatch(name)))
    if not numbers:
        sizes = objects.sizes()
        found = {path: Entry(size, "") for path, size in sizes.items() if _is_inside(path)}
        return Index(0, found if IDENTIFYING in found else {})
    name = Index.name(numbers[-1])
    if held[name] > MOST_BYTES:
        raise _damaged(objects, name, f"{held[name]} bytes")
    try:
        content = parse_json(objects.read(name))
        files = {str(path): Entry(int(size), str(digest)) for path, (size, digest) in content["files"].items()}
        written = content["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(objects, name, f"something that fails with {error!r}") from error
    if written != _FORMAT:
        raise _damaged(objects, name, f"format {written!r}, where this version of fut reads {_FORMAT}")
    if wrong := [path for path, entry in files.items() if not _is_inside(path) or entry.size < 0]:
        raise _damaged(objects, name, f"the file {wrong[0]!r}, which cannot lie in the directory")
    return Index(numbers[-1], files)


def commit(objects: Objects, index: Index) -> bool:
    """Write an index; False where its number is taken. Indices that are long out of date are removed."""
    if not objects.create(Index.name(index.number), index.text()):
        return False
    held = sorted(name for name in objects.sizes(FOLDER) if _FILE.fullmatch(name))
    with suppress(RemoteError):  # who may write may not always remove
        objects.remove(held[:-_KEPT])
    return True


def begin(objects: Objects) -> Index:
    """The newest index, before anything is uploaded. Where there is none, and no directory, one is written that lists nothing:
    an upload that is cut off is then not taken for what another program has uploaded."""
    latest = read_index(objects)
    if latest.number == 0 and not latest.files and not commit(objects, Index(1)):
        return read_index(objects)
    return latest


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    plain = path == "/".join(parts) and "\\" not in path and path.isprintable() and not path.startswith("/")
    return bool(parts) and plain and ".." not in parts and parts[0] != FOLDER


def _damaged(objects: Objects, name: str, found: str) -> DamagedError:
    return DamagedError(
        f"expected an index in {objects.url}/{name}; got {found}; upload the directory anew, or remove it"
    )
