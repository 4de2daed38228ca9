"""Digests of everything that a run directory holds, and answers without what changes from call to call."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIGITS = 20
"""Hexadecimal digits of a digest that are kept."""

VOLATILE = {
    # wall clock
    "seconds": "wall clock, of retraining, searching, or as a plan foresees it",
    "retrain_seconds": "wall clock of a retraining",
    "retraining_seconds": "wall clock of all retraining",
    "precompute_seconds": "training runs times the wall clock of one",
    "seconds_per_order": "wall clock of an estimate",
    "store_bytes": "size of files some of which hold such times, a digit more or less",
    # the machine
    "environment": "versions, machine and threads",
    "available_memory": "memory that is free at the moment",
    "device": "name of the device and its threads",
}
"""Names of fields that are left out wherever they stand, and why."""


def digest(array: Any) -> str:
    """SHA-256 of dtype, shape and bytes."""
    import numpy as np

    whole = np.ascontiguousarray(array)
    head = f"{whole.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + whole.tobytes()).hexdigest()[:DIGITS]


def stored(where: Path) -> dict[str, Any]:
    """Every file below a directory: arrays of HDF5, Zarr and safetensors by digest; JSON and TOML by content."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in where.rglob("*") if p.is_file()):
        name = str(file.relative_to(where))
        if file.suffix == ".h5":
            found |= {f"{name}:{inner}": value for inner, value in hdf5(file)}
        elif file.suffix == ".safetensors":
            found |= {f"{name}:{inner}": digest(array) for inner, array in safetensors(file)}
        elif file.name == "zarr.json":
            found |= zarr_array(file.parent, str(file.parent.relative_to(where)))
        elif file.suffix in (".json", ".toml") and "ledger" not in file.parts:
            found[name] = small(file)
    return found


def hdf5(file: Path) -> Iterator[tuple[str, Any]]:
    """Arrays of a file by digest; its attributes as they are, or by digest where they are long."""
    import h5py

    with h5py.File(file) as opened:
        names: list[str] = []
        opened.visit(names.append)
        for name in ("/", *sorted(names)):
            if isinstance(opened[name], h5py.Dataset):
                yield name, content(opened[name][()])
            for key, value in sorted(opened[name].attrs.items()):
                if key not in VOLATILE:
                    yield f"{name}@{key}", plain(value) if len(str(value)) < 40 else sha(str(value))


def plain(value: Any) -> Any:
    """A value as JSON holds it: orders and arrays as lists, answers as they describe themselves, NaN as a string."""
    for name in ("as_dict", "tolist", "model_dump"):
        if hasattr(value, name):
            return plain(getattr(value, name)())
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def content(array: Any) -> str:
    """The digest of an array; of JSON that is kept as bytes, without what is volatile in it."""
    if array.dtype.str == "|u1" and array.tobytes()[:1] == b"{":
        return sha(json.dumps(cleaned(json.loads(array.tobytes())), sort_keys=True))
    return digest(array)


def safetensors(file: Path) -> Iterator[tuple[str, Any]]:
    from safetensors.numpy import load_file

    yield from sorted(load_file(file).items())


def zarr_array(where: Path, name: str) -> dict[str, str]:
    """The digest of one Zarr array; of a group there is none."""
    import zarr

    if json.loads((where / "zarr.json").read_text())["node_type"] != "array":
        return {}
    return {name: digest(zarr.open_array(where, mode="r")[...])}


def small(file: Path) -> str:
    """A digest of a small file's content, of JSON without what is volatile and the digest over that."""
    if file.suffix != ".json":
        return sha(file.read_text(encoding="utf-8"))
    content = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(content, dict) and "environment" in content:
        content.pop("digest", None)
    return sha(json.dumps(cleaned(content), sort_keys=True))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def cleaned(value: Any) -> Any:
    """The value without volatile fields."""
    if isinstance(value, dict):
        return {key: cleaned(inner) for key, inner in value.items() if key not in VOLATILE}
    return [cleaned(inner) for inner in value] if isinstance(value, list) else value
