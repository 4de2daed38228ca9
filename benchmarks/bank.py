"""What several processes make of a bank of retrained orders: one command for each way, on copies of one run, by turns.

Every way is a whole command, `fut bank RUN --orders N`, timed from outside: starting Python, opening the run and, with Ray,
starting its processes are in it. What is kept is compared bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import record
from record import began, write_record

import fut
from storage import CheckpointStore

NAME = "bank"
RAY, PARTS, INLINE, THREADS = "ray, 2 workers", "2 processes with --part", "inline, 1 thread", "inline, 2 threads"
WAYS: Mapping[str, tuple[int, Sequence[Sequence[str]]]] = {
    INLINE: (1, [[]]),
    THREADS: (2, [[]]),
    RAY: (1, [["--engine", "ray", "--workers", "2"]]),
    PARTS: (1, [["--part", "1/2"], ["--part", "2/2"]]),
}
"""Threads of every process, and what is written behind each command that runs at once."""


def run_way(run: Path, work: Path, way: str, orders: int) -> dict[str, Any]:
    """Retrain the orders one way on a copy of the run; its row."""
    threads, commands = WAYS[way]
    path = work / "copy"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(run, path)
    root = str(Path(fut.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": root}
    words = [sys.executable, "-m", "fut", "bank", str(path), "--orders", str(orders), "--device", "cpu", "--json"]
    load, start = os.getloadavg()[0], time.perf_counter()
    running = [
        subprocess.Popen([*words, *more], env=environment, stdout=subprocess.PIPE, text=True) for more in commands
    ]
    said = [json.loads(process.communicate()[0]) for process in running]
    seconds = time.perf_counter() - start
    assert sum(one["trained"] for one in said) == orders
    return {
        "way": way,
        "orders": orders,
        "seconds": seconds,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        **kept(path),
    }


def kept(path: Path) -> dict[str, Any]:
    """How long a training took, on average; how long all of them, from when the first began until the last was kept, by the
    times of the files; and a digest of all endpoints [SHA-256]."""
    found, digest = fut.open(path, device="cpu").context.retrained, hashlib.sha256()
    seconds, ends, begins = list[float](), list[float](), list[float]()
    for order, _ in sorted(found.losses(), key=lambda pair: pair[0].digest):
        one = found.find(order)
        assert one is not None
        digest.update(order.digest.encode() + one.theta.numpy().tobytes())
        seconds.append(one.seconds)
    for file in found.directory.glob("*/*.h5"):
        store = CheckpointStore(file.parent)
        ends.append(file.stat().st_mtime)
        begins.append(ends[-1] - float(store.read_attributes(store.steps()[0])["seconds"]))
    mean, span = sum(seconds) / len(seconds), max(ends) - min(begins)
    return {"seconds_per_training": mean, "training_seconds": span, "endpoints": digest.hexdigest()}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The page's rows, medians with least and most: seconds of a way, how many times as fast as in line that is, repeat by
    repeat, seconds of one training, seconds of all without what starts before, how many times as fast that is, load on the
    machine, and whether endpoints have the bits of those in line."""
    by_way = {way: [row for row in rows if row["way"] == way] for way in WAYS}
    inline = {row["repeat"]: row for row in by_way[INLINE]}
    lines = []
    for way, found in by_way.items():
        seconds, training = ([row[key] for row in found] for key in ("seconds", "seconds_per_training"))
        faster = [inline[row["repeat"]]["seconds"] / row["seconds"] for row in found]
        loads = [row[key] for row in found for key in ("load_before", "load_after")]
        same = {row["endpoints"] == inline[row["repeat"]]["endpoints"] for row in found}
        spans = [row["training_seconds"] for row in found if "training_seconds" in row]
        alone = [
            inline[row["repeat"]]["training_seconds"] / row["training_seconds"]
            for row in found
            if "training_seconds" in row
        ]
        cells = [way, str(len(found)), spread(seconds, ".0f"), spread(faster, ".2f"), spread(training, ".1f")]
        cells += [spread(spans, ".0f"), spread(alone, ".2f")]
        cells += [f"{min(loads):.1f} to {max(loads):.1f}", "yes" if same == {True} else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most; a dash for none."""
    if not values:
        return "–"
    return f"{median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/bank"), help="directory of the runs")
    parser.add_argument("--orders", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="times that every way is run, by turns")
    parser.add_argument("--name", default=NAME, help="of the record")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="which of them are run")
    parser.add_argument("--table", action="store_true", help="print the table of the record, and run nothing")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(record.resumed(options.name, ())[0])))
        return
    call = began(options.name)
    rows, done = record.resumed(options.name, ("way", "repeat", "orders"))
    options.work.mkdir(parents=True, exist_ok=True)
    fut.train(options.work / "run", device="cpu", exist_ok=True)
    for repeat in range(options.repeats):
        for way in options.ways:
            if (way, repeat, options.orders) in done:
                continue
            rows.append(run_way(options.work / "run", options.work, way, options.orders) | {"repeat": repeat})
            write_record(options.name, vars(options) | {"steps": fut.Config().steps}, rows, call)
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
