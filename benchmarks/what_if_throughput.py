"""How many orders a second `fut whatif --queries` answers, and in how much memory.

python benchmarks/what_if_throughput.py RUN --positions 10000 100000 --adjoint 500 2000

RUN has its expansion cached. Every measurement is a process of its own, fed random orders (seeds fixed here) as JSON lines
through a pipe; its seconds include starting, importing torch and opening the run, which a stream of nothing gives alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import began, write_record

import fut

SEED = 3000
PROGRAM = "from fut.cli.app import main; main()"


def measure(path: Path, estimator: str, orders: int, items: int) -> dict[str, Any]:
    """One stream of `orders` queries: wall and processor seconds of the process, and its peak resident memory."""
    queries = path.parent / f"queries-{orders}.jsonl"
    with queries.open("w") as file:
        for number in range(orders):
            order = np.random.default_rng([SEED, number]).permutation(items).tolist()
            file.write(json.dumps({"id": number, "order": order}) + "\n")
    words = [sys.executable, "-c", PROGRAM, "whatif", str(path), "--queries", "-", "--estimator", estimator]
    began, answers, errors = time.perf_counter(), 0, 0
    with queries.open("rb") as source:
        process = subprocess.Popen(words, stdin=source, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        answers, errors = answers + 1, errors + (b'"error"' in line)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    queries.unlink()
    assert (answers, errors, process.returncode) == (orders, 0, 0), (answers, errors, process.returncode)
    return {
        "estimator": estimator,
        "orders": orders,
        "wall_seconds": time.perf_counter() - began,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
        "load_average": os.getloadavg()[0],
    }


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", type=Path)
    cli.add_argument("--positions", type=int, nargs="*", default=[10_000, 100_000])
    cli.add_argument("--adjoint", type=int, nargs="*", default=[500, 2000])
    cli.add_argument("--name", default="what-if-throughput")
    arguments, started = cli.parse_args(argv), began()
    run = fut.open(arguments.run)
    rows = []
    for estimator, sizes in (("positions", arguments.positions), ("adjoint", arguments.adjoint)):
        empty = measure(arguments.run, estimator, 0, run.items)
        for size in sizes:
            row = measure(arguments.run, estimator, size, run.items)
            for kind in ("wall", "processor"):
                spent = row[f"{kind}_seconds"] - empty[f"{kind}_seconds"]
                row[f"orders_per_{kind}_second"] = size / spent
            rows.append(row | {"start_processor_seconds": empty["processor_seconds"], "start_mib": empty["peak_mib"]})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    settings = {
        "run": arguments.run,
        "parameters": run.context.parameters,
        "steps": run.steps,
        "items": run.items,
        "seed": SEED,
    }
    write_record(arguments.name, settings, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
