"""What two copies of a run have in common, where one of them had its work done by other processes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import fut

TIMED = ("retrained", "verification", "answers")
"""Directories of files that say how long something took."""
CLOCK = {"seconds", "retrain_seconds", "retraining_seconds", "precompute_seconds", "seconds_per_order"}
"""What the wall clock says in an answer."""


def digests(path: Path) -> dict[str, str]:
    """Of every file but those that hold times, by name."""
    files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if not name.startswith(TIMED) and name != "lock"
    }


def endpoints(run: fut.Run) -> dict[str, Any]:
    """Every order that is kept, with its probe loss and its parameters."""
    kept = run.context.retrained
    found = {order.digest: kept.find(order) for order, _ in kept.losses()}
    return {digest: (one.loss, one.theta.numpy().tobytes()) for digest, one in found.items() if one is not None}


def timeless(value: Any) -> Any:
    """A value of an answer without what the wall clock says."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CLOCK}
    return [timeless(v) for v in value] if isinstance(value, (list, tuple)) else value
