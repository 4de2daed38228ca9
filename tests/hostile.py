"""Run directories as somebody else could have made them: sound by every checksum, and made to do harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from storage import FORMAT, fingerprint

MARK = "import pathlib\npathlib.Path({mark!r}).write_text('it ran')\n"


def signed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and give it the digest that it then has."""
    content = json.loads(path.read_text())
    content.pop("digest")
    change(content)
    path.write_text(json.dumps(content | {"digest": fingerprint(content)}))


def configured(run: Path, section: str, key: str, value: Any) -> None:
    """Another setting in a run's configuration and in its identity, with every digest in order; files keep their owner."""
    config = tomllib.loads((run / "config.toml").read_text())
    config[section][key] = value
    text = tomli_w.dumps(config).encode()
    (run / "config.toml").write_bytes(text)

    def change(content: dict[str, Any]) -> None:
        content["environment"]["config.toml"] = hashlib.sha256(text).hexdigest()
        if section in content["identity"]["config"]:
            content["identity"]["config"][section][key] = value

    signed(run / "manifest.json", change)
    owned(run, fingerprint(json.loads((run / "manifest.json").read_text())["identity"]))


def owned(run: Path, owner: str) -> None:
    """Make the summary and the data of a run those of another owner: what a careful forger does."""
    if (run / "summary.json").exists():
        signed(run / "summary.json", lambda content: content["environment"].update(run=owner))
    for file in [*run.glob("data/*.h5"), *run.glob("checkpoints/*.h5"), *run.glob("start/*.h5")]:
        with h5py.File(file) as old:
            header = json.loads(old["header"][()].tobytes()) | {"owner": owner}
            arrays: dict[str, np.ndarray] = {}
            old["arrays"].visititems(
                lambda n, o, a=arrays: a.update({n: o[()]}) if isinstance(o, h5py.Dataset) else None
            )
        rewritten(file, header, arrays)


def rewritten(file: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """A checkpoint of this header and these arrays, without checksums of its own."""
    with h5py.File(file, "w", libver="latest") as new:
        new["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        for name, array in arrays.items():
            new[f"arrays/{name}"] = array


def module_that_marks(file: Path, mark: Path) -> None:
    """A module that leaves a mark when it is imported, and has functions that could be called."""
    body = "def make(*a, **k):\n    raise SystemExit('called')\nf = g = make\n"
    file.write_text(MARK.format(mark=str(mark)) + body)


def external(file: Path, how: str, outside: Path) -> None:
    """A data file whose first item is in a file outside: by a link, by storage outside, or by a virtual data set."""
    with h5py.File(file, "r+") as opened:
        name = "arrays/items/000000/0"
        shape, dtype = opened[name].shape, opened[name].dtype
        del opened[name]
        count = int(np.prod(shape))
        if how == "a soft link":
            opened[name] = h5py.SoftLink("/arrays/items/000001/0")
        elif how == "a link":
            with h5py.File(outside, "w") as other:
                other["secret"] = np.full(shape, 65, dtype)
            opened[name] = h5py.ExternalLink(str(outside), "/secret")
        elif how == "storage":
            outside.write_bytes(np.full(count, 65, dtype).tobytes())
            opened.create_dataset(name, shape, dtype, external=[(str(outside), 0, h5py.h5f.UNLIMITED)])
        else:
            with h5py.File(outside, "w") as other:
                other["secret"] = np.full(shape, 65, dtype)
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(outside), "secret", shape)
            opened.create_virtual_dataset(name, layout)


def huge(file: Path, step: int, owner: str, numbers: int = 10**12) -> None:
    """A file of a few kilobytes that declares that many numbers."""
    with h5py.File(file, "w", libver="latest") as opened:
        header = {"step": step, "attributes": {}, "owner": owner, "format": FORMAT}
        opened["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        opened.create_dataset("arrays/theta", (numbers,), "f4", chunks=(1 << 20,))


def nested(file: Path, step: int, owner: str, levels: int = 40) -> None:
    """Groups that each hold the next one twice: 2 ** levels names in a file of a few kilobytes."""
    with h5py.File(file, "w", libver="latest") as opened:
        header = {"step": step, "attributes": {}, "owner": owner, "format": FORMAT}
        opened["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        group = opened.create_group("arrays")
        for _ in range(levels):
            below = group.create_group("a")
            group["b"] = below
            group = below
        group["theta"] = np.zeros(3, np.float32)


def replaced(target: Path, source: Path) -> None:
    """Put a file or a directory in the place of another."""
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def fifo(path: Path) -> None:
    """A FIFO in the place of a file: whoever opens it waits."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
