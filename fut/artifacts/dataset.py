"""The data set of a run directory: written once, checksummed."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fut.artifacts.directory import DATA
from fut.data.dataset import Dataset
from fut.models.objective import Item
from storage import CheckpointStore


def write_dataset(path: Path, data: Dataset) -> None:
    """Every tensor of every part, by part and number, in one checksummed file."""
    arrays = {
        f"{part}/{i:06d}/{j}": tensor.cpu().numpy()
        for part in ("items", "probe", "warmup")
        for i, item in enumerate(getattr(data, part))
        for j, tensor in enumerate(item)
    }
    CheckpointStore(path / DATA).write(
        0, arrays, {"source": data.source} | ({"names": json.dumps(data.names)} if data.names else {})
    )


def read_dataset(path: Path) -> Dataset:
    stored = CheckpointStore(path / DATA).read(0)
    parts: dict[str, dict[str, list[torch.Tensor]]] = {"items": {}, "probe": {}, "warmup": {}}
    for name in sorted(stored.arrays, key=lambda n: (n.split("/")[:2], int(n.split("/")[2]))):
        part, number, _ = name.split("/")
        parts[part].setdefault(number, []).append(torch.from_numpy(stored.arrays[name]))

    names = tuple(json.loads(str(stored.attributes.get("names", "[]"))))

    def items(part: str) -> tuple[Item, ...]:
        return tuple(tuple(tensors) for _, tensors in sorted(parts[part].items()))

    return Dataset(items("items"), items("probe"), items("warmup"), str(stored.attributes["source"]), names=names)
