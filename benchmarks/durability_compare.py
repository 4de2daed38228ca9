"""What kinds of files a run holds, and whether two runs are equal: file by file and value by value."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr


def kind_of(name: str) -> str:
    """The kind of a run's file, from its path in the run."""
    folders = name.split("/")[:-1]
    if "arrays" in folders:
        return "term chunks" if "c" in folders else "term metadata"
    if "ledger" in folders:
        return "ledger"
    return ("retrained" if folders[0] == "retrained" else "/".join(folders)) if name.endswith(".h5") else name


def term_arrays(run: Path) -> list[Path]:
    """The directory of every term's Zarr array, in whichever store."""
    return sorted(p.parent for p in run.glob("**/arrays/*/zarr.json"))


def files_of(path: Path) -> dict[str, Path]:
    return {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}


def compare(whole: Path, other: Path) -> dict[str, Any]:
    """Every file of two runs: which are there, which have equal bytes, and whether their contents are the same."""
    left, right = files_of(whole), files_of(other)
    kinds: dict[str, Counter[str]] = {}
    differing = []
    for name in sorted(left.keys() & right.keys()):
        count = kinds.setdefault(kind_of(name), Counter())
        same = left[name].read_bytes() == right[name].read_bytes()
        equal = file_content(left[name]) == file_content(right[name])
        count.update(files=1, same_bytes=int(same), same_content=int(equal))
        differing += [] if equal else [name]
    values = kinds.setdefault("term arrays", Counter())
    for array in term_arrays(whole):
        equal = array_values(array) == array_values(other / array.relative_to(whole))
        values.update(files=1, same_content=int(equal))
        differing += [] if equal else [str(array.relative_to(whole))]
    missing, extra = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    return {
        "kinds": {k: dict(v) for k, v in kinds.items() if v},
        "differing": differing,
        "missing": missing,
        "extra": extra,
        "equal": not (differing or missing or extra),
    }


def file_content(path: Path) -> Any:
    if path.suffix == ".h5":
        return h5_content(path)
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.suffix == ".toml" else path.read_bytes()


def h5_content(path: Path) -> dict[str, Any]:
    """Every group, dataset and attribute, with its values and how it is stored."""
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {"/": attributes(file)}

        def visit(name: str, thing: Any) -> None:
            found[name] = attributes(thing)
            if isinstance(thing, h5py.Dataset):
                found[name] |= {
                    "": (str(thing.dtype), thing.shape, thing.chunks, thing.fletcher32, thing[()].tobytes())
                }

        file.visititems(visit)
    return found


def attributes(thing: Any) -> dict[str, Any]:
    return {k: (str(np.asarray(v).dtype), np.asarray(v).tobytes()) for k, v in thing.attrs.items()}


def array_values(path: Path) -> tuple[str, tuple[int, ...], str]:
    array: Any = zarr.open_array(path, mode="r")
    return str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array[...]).tobytes()).hexdigest()
