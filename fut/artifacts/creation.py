"""A new run directory: laid down once, continued only where the numbers can be the same, finished at the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fut.artifacts.dataset import write_dataset
from fut.artifacts.directory import (
    CONFIG,
    DATA,
    MANIFEST,
    MODEL,
    ORDER,
    OWNER,
    START,
    SUMMARY,
    WARMUP,
    _sha256,
    read_manifest,
)
from fut.artifacts.identity import require_same_run
from fut.training.problem import Problem
from storage import (
    FORMAT,
    CheckpointStore,
    ExistsError,
    IdentityError,
    Manifest,
    require_free,
    require_plain,
    write_bytes,
    write_json,
)

BITWISE = ("torch", "device", "threads", "machine")
"""Fields of the environment that bitwise replay depends on."""


def create(path: Path, problem: Problem, environment: dict[str, Any]) -> bool:
    """Lay down a new run directory, or accept an interrupted one of the same identity; True if anything is left to do."""
    require_plain(path)
    if (path / MANIFEST).exists():
        found = read_manifest(path)
        if (path / SUMMARY).exists():
            raise ExistsError(
                f"run: expected a new directory, got {path}, which holds a finished run; open it with fut.open, "
                "or choose another --out"
            )
        _require_same_run(found, problem, path)
        require_same_environment(found, environment, path)
    elif path.exists() and (not path.is_dir() or any(p.suffix != ".part" for p in path.iterdir())):
        raise ExistsError(f"run: expected a new or empty directory, got {path}; choose another --out")
    require_free(path.parent if not path.exists() else path, checkpoint_bytes(problem), "the checkpoints")
    path.mkdir(parents=True, exist_ok=True)
    if not (path / CONFIG).exists():
        text = problem.config.toml().encode()
        about = {CONFIG: _sha256(text), MODEL: problem.objective.module_class}
        Manifest("run", FORMAT, problem.identity, environment | about).write(path / MANIFEST)
        write_bytes(path / CONFIG, text)
    write_json(path / ORDER, {"order": problem.reference.tolist(), "digest": problem.reference.digest})
    start = CheckpointStore(path / START, problem.digest)
    if not start.has(0):
        start.write(0, {"theta": problem.objective.start().cpu().numpy()}, {})
    if not CheckpointStore(path / DATA).has(0):
        write_dataset(path, problem.data, problem.digest)
    return True


def _require_same_run(found: Manifest, problem: Problem, path: Path) -> None:
    try:
        require_same_run(found.identity, problem.identity, path)
    except IdentityError as error:
        raise IdentityError(f"{error}; it holds an interrupted run of another kind, choose another --out") from error


def checkpoint_bytes(problem: Problem) -> int:
    """Bytes of all checkpoints that are kept: parameters and memory."""
    return problem.state_bytes * len(problem.kept_steps)


def require_same_environment(manifest: Manifest, now: dict[str, Any], path: Path) -> None:
    """IdentityError if what is about to be computed could not fit what is there, bit for bit."""
    differing = [f for f in BITWISE if manifest.environment.get(f) != now[f]]
    if differing:
        fields = "; ".join(f"{f}: expected {manifest.environment.get(f)}, got {now[f]}" for f in differing)
        raise IdentityError(
            f"run {path}: continuing it elsewhere would mix numbers of different machines ({fields}); "
            "go on where it was made, or set --device / OMP_NUM_THREADS to match, or train anew"
        )


def finish(path: Path, summary: dict[str, Any], owner: str) -> None:
    """Mark the reference run as whole. owner: the run's digest."""
    shutil.rmtree(path / WARMUP, ignore_errors=True)
    Manifest("summary", FORMAT, summary, {OWNER: owner}).write(path / SUMMARY)
