"""Kill `fut train` and `fut cache` at random moments, resume, and compare with an uninterrupted run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durability_compare import compare
from durability_progress import say

import fut
from storage import CheckpointStore

TRAIN = [f"--set={s}" for s in ("data.items=64", "data.epochs=4", "data.batch=64", "warmup.steps=50")]
CACHE = ["--steps", "16"]
STARTED = "import sys, fut.cli.app; print('imported', file=sys.stderr, flush=True); fut.cli.app.main()"


@dataclass(frozen=True)
class Stage:
    """A command that fills a run directory. begin: makes what the command starts from; reached: how far it has got."""

    name: str
    command: Callable[[Path], list[str]]
    begin: Callable[[Path], None]
    reached: Callable[[Path], dict[str, int]]


def launch(arguments: list[str]) -> subprocess.Popen[str]:
    """The command line in a process of its own; returns when its imports are done."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fut.__file__).parent.parent)}
    command = [sys.executable, "-c", STARTED, *arguments]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    if process.stderr.readline().strip() != "imported":
        raise RuntimeError(f"{arguments}: expected the command to start, got {process.communicate()[1]}")
    return process


def finish(arguments: list[str]) -> float:
    """Run the command to its end; seconds after its imports."""
    process, began = launch(arguments), time.perf_counter()
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{arguments}: expected exit status 0, got {process.returncode}: {said}")
    return time.perf_counter() - began


def killed(arguments: list[str], seconds: float) -> bool:
    """Run the command and kill it so long after its imports; False if it ended before."""
    process = launch(arguments)
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL
    if process.returncode:
        raise RuntimeError(f"{arguments}: expected exit status 0, got {process.returncode}: {said}") from None
    return False


def kill_and_resume(stage: Stage, whole: Path, seconds: float, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill until `kills` have landed, on one run unless it ends sooner; the last run lies in `killed-<stage>`."""
    series: list[dict[str, Any]] = []
    path = whole.parent / f"killed-{stage.name}"
    left = kills
    while left:
        shutil.rmtree(path, ignore_errors=True)
        stage.begin(path)
        landed: list[dict[str, Any]] = []
        moments = sorted(rng.uniform(0, seconds) for _ in range(left))
        for before, moment in zip([0.0, *moments], moments, strict=False):
            if not killed(stage.command(path), moment - before):
                break
            landed.append({"moment": moment, "worked": moment - before, **stage.reached(path), **torn(path)})
            say(f"{stage.name}: kill {kills - left + len(landed)} {landed[-1]}")
        else:
            finish(stage.command(path))
        left -= len(landed)
        series.append({"kills": landed, "compared": compare(whole, path)})
    return {"uninterrupted_seconds": seconds, "kills": kills, "runs": series}


def torn(path: Path) -> dict[str, int]:
    """Files under temporary names: the kill fell into a write."""
    return {"unfinished_files": sum(".part" in f.suffix for f in path.rglob("*") if f.is_file())}


def trained(path: Path) -> dict[str, int]:
    return {
        "warmup_step": max(CheckpointStore(path / "warmup").steps(), default=0),
        "checkpoints": len(CheckpointStore(path / "checkpoints").steps()),
        "finished": int((path / "summary.json").exists()),
    }


def cached(path: Path) -> dict[str, int]:
    """Blocks that the ledgers count, and checkpoints of any other kind of term."""
    states = [p for p in path.rglob("step-*.h5") if p.parent.name not in ("checkpoints", "data")]
    return {"blocks": len(list(path.glob("**/ledger/*/*.json"))), "states": len(states)}


def kills(work: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Both stages, killed and compared; leaves `killed-cache`, a whole run with terms, in `work`."""
    before = work / "before-cache"
    finish(["train", "--out", str(before), *CACHE])
    stages = (
        Stage("train", lambda p: ["train", "--out", str(p), *TRAIN], lambda p: None, trained),
        Stage(
            "cache", lambda p: ["cache", str(p), "--terms", "all"], lambda p: void(shutil.copytree(before, p)), cached
        ),
    )
    results = {}
    for stage in stages:
        whole = work / f"whole-{stage.name}"
        stage.begin(whole)
        seconds = finish(stage.command(whole))
        say(f"{stage.name}: {seconds:.1f} s of work uninterrupted")
        results[stage.name] = kill_and_resume(stage, whole, seconds, count, rng)
    return results


def void(_: Any) -> None:
    """Take a value and return none."""
