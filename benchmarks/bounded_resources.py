"""What an expansion takes of disk and memory, each way of storing its scratch, beside what was planned; and what it then says.

python benchmarks/bounded_resources.py --work /tmp/bounded

For every size of the model: a reference run of a short window, and its expansion computed anew in a process of its own for each
way (`adjoint.storage`, `adjoint.drawn`), at first of all coordinates where these are few enough. Measured are the most that the
process held and that the expansion's directory had on disk. Estimates of random orders tell whether bits are the same, and how
far a sample of coordinates is from all of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, write_record

import fut
from estimators.orders.order import random_orders
from fut.artifacts.directory import ADJOINT
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config

NAME, ORDER_SEED = "bounded-resources", 2000
SIZES: dict[str, dict[str, int]] = {
    "1M": {"width": 128, "layers": 5},
    "10M": {"width": 384, "layers": 6, "heads": 6},
}
WAYS = [(storage, drawn) for drawn in ("after", "before") for storage in ("store", "retrain")]
EVERY = 0.05
"""Seconds between two looks at the disk."""


def config_of(size: str, arguments: argparse.Namespace) -> Any:
    """The configuration of a size's run."""
    data = {"items": arguments.steps, "batch": 2, "context": 32, "probe": 16}
    return load_config(None, (), data=data, model=SIZES[size], warmup={"steps": arguments.warmup})


def status(key: str) -> int:
    """Bytes of memory that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


class Watch(threading.Thread):
    """The most that a directory had on disk while it was watched [bytes of files]."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.most, self.over = path, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(EVERY):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        total = 0
        for file in self.path.rglob("*"):
            try:
                total += file.stat().st_size if file.is_file() else 0
            except OSError:  # gone since it was listed
                continue
        return total


def expand(path: Path, settings: dict[str, Any], orders: int) -> dict[str, Any]:
    """In a process of its own: compute an expansion, and answer orders."""
    torch.set_num_threads(1)
    before = status("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    run = fut.open(path, device="cpu")
    config = run.context.config.adjoint.model_copy(update=settings)
    watch, started = Watch(path / ADJOINT), time.perf_counter()
    watch.start()
    run.cache([ADJOINT], adjoint=config)
    watch.over.set()
    watch.join()
    seconds, peak = time.perf_counter() - started, status("VmHWM:") - before
    estimator = run.methods.open("adjoint")
    found, variances = raw_estimates(estimator, random_orders(run.reference, orders, ORDER_SEED))
    return {
        "seconds": seconds,
        "memory_bytes": peak,
        "disk_bytes": watch.most,
        "estimates": found,
        "stated_sd": float(np.sqrt(np.mean(variances))),
    }


def measure(size: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every way."""
    path = arguments.work / size
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, config_of(size, arguments), device="cpu")
    planned = {(way.storage, way.drawn): way for way in run.plan().strategies}
    ways: list[dict[str, Any]] = [{"storage": storage, "drawn": drawn} for storage, drawn in WAYS]
    if run.context.parameters <= arguments.whole:
        ways.insert(0, {"storage": "store", "drawn": "after", "coordinates": run.context.parameters})
    rows: list[dict[str, Any]] = []
    for settings in ways:
        shutil.rmtree(path / ADJOINT, ignore_errors=True)
        child = [sys.executable, __file__, "--one", str(path), "--settings", json.dumps(settings)]
        done = subprocess.run([*child, "--orders", str(arguments.orders)], capture_output=True, text=True, check=True)
        row = {"size": size, "parameters": run.context.parameters, "steps": run.steps, **settings}
        row |= json.loads(done.stdout.splitlines()[-1])
        if "coordinates" not in settings:
            way = planned[settings["storage"], settings["drawn"]]
            row |= {
                "gradients": way.gradients,
                "planned_memory_bytes": way.host_bytes,
                "planned_disk_bytes": way.kept_bytes + way.scratch_bytes,
            }
        rows.append(row)
        print({k: v for k, v in row.items() if k != "estimates"}, file=sys.stderr, flush=True)
    return compared(rows)


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with whether estimates are the bits of what is stored, and their distance from all coordinates' [sd]."""
    stored = {row["drawn"]: row["estimates"] for row in rows if row["storage"] == "store" and "coordinates" not in row}
    whole = next((np.array(row["estimates"]) for row in rows if "coordinates" in row), None)
    for row in rows:
        if "coordinates" in row:
            row["order_sd"] = float(np.std(row["estimates"], ddof=1))
            continue
        row["same_bits_as_stored"] = row["estimates"] == stored[row["drawn"]]
        if whole is not None:
            row["sampling_sd"] = float(np.std(np.array(row["estimates"]) - whole, ddof=1))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--steps", type=int, default=16, help="T")
    parser.add_argument("--warmup", type=int, default=100, help="steps of training before the window")
    parser.add_argument("--orders", type=int, default=32)
    parser.add_argument(
        "--whole", type=int, default=2_000_000, help="parameters up to which all coordinates are kept once"
    )
    parser.add_argument("--work", type=Path, default=Path("bounded-work"))
    parser.add_argument("--name", default=NAME)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one is not None:
        print(json.dumps(expand(arguments.one, json.loads(arguments.settings), arguments.orders)))
        return
    call, rows = began(), list[dict[str, Any]]()
    settings = {k: v for k, v in vars(arguments).items() if k not in ("one", "settings")}
    for size in arguments.sizes:
        rows += measure(size, arguments)
        write_record(arguments.name, settings, rows, call)


if __name__ == "__main__":
    main()
