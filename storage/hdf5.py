"""What an HDF5 file may hold here: its own numbers, plainly stored, no more of them than the file has bytes.

HDF5 can name other files (external links and storage, virtual datasets), hold one group many times, and declare arrays or chunks
of any size that are filled in when they are read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import h5py

from .plain import memory_bytes

_KINDS = "biufc"


def member(group: Any, key: str, room: int) -> Any:
    """The group or dataset `key` of a group, which is part of this very file.

    Args:
        group: where it is.
        key: its name.
        room: bytes that a dataset may have.

    Raises:
        KeyError: where there is none.
        ValueError: for a link to elsewhere, and for a dataset that is not stored in the file in full.
    """
    link = group.get(key, getlink=True)
    if link is None:
        raise KeyError(f"no {key!r} in it")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{key!r} is a link to elsewhere")
    found = group[key]
    if isinstance(found, h5py.Dataset):
        _require_own(found, key, room)
    elif not isinstance(found, h5py.Group):
        raise ValueError(f"{key!r} is no array and no group")
    return found


def datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """The arrays of a file by name, `a/b` for array b in group a. ValueError where they could not all be in the file."""
    if "arrays" not in file:
        return
    size = min(os.stat(file.filename).st_size, memory_bytes())
    seen, waiting, room = set[int](), [("", "arrays", file)], size
    while waiting:
        prefix, key, parent = waiting.pop()
        found = member(parent, key, room)
        address = h5py.h5o.get_info(found.id).addr
        if address in seen:
            raise ValueError(f"{prefix + key!r} is in it under two names")
        seen.add(address)
        if isinstance(found, h5py.Dataset):
            room -= found.nbytes
            yield prefix + key, found
        else:
            inner = f"{prefix}{key}/" if parent is not file else ""
            waiting += [(inner, name, found) for name in sorted(found, reverse=True)]


def _require_own(dataset: h5py.Dataset, key: str, room: int) -> None:
    plan = dataset.id.get_create_plist()
    filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{key!r} has its numbers in another file")
    if dataset.dtype.kind not in _KINDS or dataset.shape is None:
        raise ValueError(f"{key!r} has the type {dataset.dtype}, not one of numbers")
    if filters - {h5py.h5z.FILTER_FLETCHER32}:
        raise ValueError(f"{key!r} is stored with other filters than a checksum")
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
    if max(dataset.nbytes, chunk) > room:
        raise ValueError(f"{key!r} has {dataset.nbytes} bytes where the file has room for {room}")
