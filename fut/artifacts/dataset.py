"""The data set of a run directory: written once, checksummed."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fut.artifacts.directory import DATA
from fut.data.dataset import Dataset
from fut.models.objective import Item
from storage import CheckpointStore, parse_json


def write_dataset(path: Path, data: Dataset, owner: str) -> None:
    """Every tensor of every part, by part and number, in one checksummed file. owner: the run's digest."""
    arrays = {
        f"{part}/{i:06d}/{j}": tensor.cpu().numpy()
        for part in ("items", "probe", "warmup")
        for i, item in enumerate(getattr(data, part))
        for j, tensor in enumerate(item)
    }
    about = {"source": data.source, "files": json.dumps(data.files), "names": json.dumps(data.names)}
    CheckpointStore(path / DATA, owner).write(0, arrays, about)


def read_dataset(path: Path, owner: str) -> Dataset:
    """The data set of a run. owner: the run's digest."""
    stored = CheckpointStore(path / DATA, owner).read(0)
    parts: dict[str, dict[str, list[torch.Tensor]]] = {"items": {}, "probe": {}, "warmup": {}}
    for name in sorted(stored.arrays, key=lambda n: (n.split("/")[:2], int(n.split("/")[2]))):
        part, number, _ = name.split("/")
        parts[part].setdefault(number, []).append(torch.from_numpy(stored.arrays[name]))

    def items(part: str) -> tuple[Item, ...]:
        return tuple(tuple(tensors) for _, tensors in sorted(parts[part].items()))

    about = stored.attributes
    texts = {key: tuple(map(str, parse_json(str(about[key])))) for key in ("names", "files")}
    return Dataset(items("items"), items("probe"), items("warmup"), str(about["source"]), **texts)
