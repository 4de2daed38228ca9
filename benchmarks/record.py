"""Records of benchmarks: results with everything needed to judge and repeat them."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy
import torch
import zarr

from fut.display.numbers import jsonable
from storage import write_json

RECORDS = Path(__file__).resolve().parent / "records"


def write_record(name: str, settings: Mapping[str, Any], results: Any, started: float) -> Path:
    """Write `records/<name>.json`: date, command, commit, machine, versions, settings, results. started: time.time()."""
    record = {
        "name": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "commit": COMMIT,
        "uncommitted_changes": UNCOMMITTED,
        "machine": _machine(),
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, numpy, zarr, h5py)},
        },
        "threads": torch.get_num_threads(),
        "seconds": round(time.time() - started, 1),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
        "results": results,
    }
    path = RECORDS / f"{name}.json"
    write_json(path, jsonable(record))
    return path


def resumed(name: str, keys: Sequence[str]) -> tuple[list[Any], set[tuple[Any, ...]]]:
    """Rows that an interrupted benchmark left in `records/<name>.json`, and the settings, by their keys, that they are of."""
    path = RECORDS / f"{name}.json"
    rows = json.loads(path.read_text())["results"] if path.exists() else []
    return rows, {tuple(row[k] for k in keys) for row in rows}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=RECORDS, capture_output=True, text=True, check=False)
    return done.stdout.strip()


COMMIT = _git("rev-parse", "HEAD")
UNCOMMITTED = bool(
    _git("status", "--porcelain", "--untracked-files=no", "--", "../../fut", "../../storage", "../../estimators")
)
"""The code as it was loaded, not as it may be when a long benchmark ends."""


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models),
        "memory_gib": round(int(memory) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
