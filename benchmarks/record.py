"""Records of benchmarks: results with everything needed to judge and repeat them.

A benchmark calls `began` before it computes anything, and `write_record` with what that returned, as often as it has a new
row. A record names every call that made a row of it: one that goes on from an earlier call's rows keeps that call's command
and commit. Code with changes that no commit has is refused by both, before the work and after it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
ALLOWED = "FUT_RECORD_UNCOMMITTED"
"""The environment variable that, set to 1, lets a record be written from uncommitted code, and marked so."""
COPIED = "FUT_RECORD_COMMIT"
"""The environment variable that names the commit where a copy of a clean checkout has no history, as on a borrowed machine."""
CODE = ("fut", "storage", "estimators", "benchmarks/*.py")
"""What decides a figure, from the root of the repository."""


class UncommittedError(RuntimeError):
    """The code that makes a record has changes that no commit has."""


@dataclass(frozen=True)
class Began:
    """A call of a benchmark: when it began, and the calls whose rows it goes on from, with the number of those rows."""

    seconds: float
    earlier: tuple[dict[str, Any], ...] = field(default=())
    rows: int = 0

    def keeping(self, kept: Sequence[int]) -> Began:
        """The same where only some of the earlier rows, by their places, ascending, stay: a call whose rows all go goes too."""
        calls, first = [], 0
        for call in self.earlier:
            last = first + sum(call["rows"][0] <= place < call["rows"][1] for place in kept)
            calls += [call | {"rows": [first, last]}] if last > first else []
            first = last
        return Began(self.seconds, tuple(calls), first)


def began(continued: str | None = None) -> Began:
    """Now, for `write_record`; called before anything is computed.

    Args:
        continued: the name of the record that the benchmark goes on from, where it does; no such record is none.

    Raises:
        UncommittedError: where the code has changes that no commit has, unless FUT_RECORD_UNCOMMITTED is 1.
    """
    _require_committed()
    path = RECORDS / f"{continued}.json"
    if continued is None or not path.exists():
        return Began(time.time())
    record = json.loads(path.read_text(encoding="utf-8"))
    count = _rows(record["results"])
    alone = {key: record[key] for key in ("date", "command", "commit", "uncommitted_changes", "seconds")}
    return Began(time.time(), tuple(record.get("calls", [alone | {"rows": [0, count]}])), count)


def write_record(name: str, settings: Mapping[str, Any], results: Any, call: Began) -> Path:
    """Write `records/<name>.json`: date, commands, commits, machine, versions, settings, results.

    Args:
        name: of the record.
        settings: of this call.
        results: a list of rows, a mapping with `rows`, or anything else.
        call: what `began` returned.

    Raises:
        UncommittedError: as `began`.
    """
    _require_committed()
    this = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "commit": COMMIT,
        "uncommitted_changes": bool(UNCOMMITTED),
        "seconds": round(time.time() - call.seconds, 1),
    }
    calls = [*call.earlier, this | {"rows": [call.rows, _rows(results)]}]
    record = this | {
        "name": name,
        "uncommitted_changes": any(one["uncommitted_changes"] for one in calls),
        "calls": calls,
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, numpy, zarr, h5py)},
        },
        "threads": torch.get_num_threads(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
        "results": results,
    }
    path = RECORDS / f"{name}.json"
    write_json(path, jsonable(record))
    return path


def resumed(name: str, keys: Sequence[str]) -> tuple[list[Any], set[tuple[Any, ...]]]:
    """Rows that an interrupted benchmark left in `records/<name>.json`, and the settings, by their keys, that they are of."""
    path = RECORDS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    return rows, {tuple(row[k] for k in keys) for row in rows}


def _rows(results: Any) -> int:
    rows = results.get("rows", []) if isinstance(results, dict) else results
    return len(rows) if isinstance(rows, list) else 0


def _require_committed() -> None:
    if UNCOMMITTED and os.environ.get(ALLOWED) != "1":
        raise UncommittedError(
            f"record: expected code that a commit has, got changes in {', '.join(UNCOMMITTED)}; commit them, or set {ALLOWED}=1 "
            "for a record that says so and cannot be committed"
        )


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", *arguments], cwd=RECORDS.parent.parent, capture_output=True, text=True, check=False)
    return done.stdout.rstrip()


COMMIT = os.environ.get(COPIED) or _git("rev-parse", "HEAD")
CHANGES = "" if COPIED in os.environ else _git("status", "--porcelain", "--", *CODE)
UNCOMMITTED = [line[3:] for line in CHANGES.splitlines()]
"""The code as it was loaded, not as it may be when a long benchmark ends; files that git does not know count too."""


def machine() -> dict[str, Any]:
    """The processor, its cores and memory, the system and the device."""
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
