"""The files of a run directory: names, and reading and writing of the small ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from estimators.errors import OrderError
from estimators.orders.order import Order
from storage import FORMAT, DamagedError, IdentityError, Manifest, MissingError, read_json

MANIFEST, CONFIG, SUMMARY, ORDER = "manifest.json", "config.toml", "summary.json", "order.json"
DATA, CHECKPOINTS, WARMUP, TERMS, ADJOINT = "data", "checkpoints", "warmup", "terms", "adjoint"
RETRAINED, ENDPOINTS, VERIFICATION = "retrained", "endpoints", "verification"
DIFFICULTY, MEMORIZATION, ANSWERS = "difficulty", "memorization", "answers"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def directory_bytes(path: Path) -> int:
    """Bytes of all files under a directory; 0 where there is none."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.exists() else 0


def read_manifest(path: Path) -> Manifest:
    if not (path / MANIFEST).exists():
        raise MissingError(
            f"run: expected a run directory with {MANIFEST}, got {path}; make one with `fut train --out {path}`"
        )
    manifest = Manifest.read(path / MANIFEST)
    if manifest.format != FORMAT or manifest.kind != "run":
        raise IdentityError(
            f"run {path}: expected kind=run, format={FORMAT}, got kind={manifest.kind}, format={manifest.format}; "
            "open it with the version of fut that made it"
        )
    return manifest


def check_order(path: Path) -> None:
    """DamagedError unless `order.json` holds the order that the manifest pins."""
    expected = read_manifest(path).identity["order"]
    try:
        content = read_json(path / ORDER)
        found = {content["digest"], Order.of(content["order"]).digest}
    except (OrderError, KeyError, TypeError) as error:
        raise DamagedError(f"{path / ORDER}: expected the reference order, got {error}; restore the file") from error
    if found != {expected}:
        raise DamagedError(
            f"{path / ORDER}: expected the order {expected[:12]}… of the manifest, got another; restore the file"
        )


def read_summary(path: Path) -> dict[str, Any]:
    if not (path / SUMMARY).exists():
        raise MissingError(
            f"run {path}: expected a finished reference run, got an interrupted one; repeat the `fut train` command to finish it"
        )
    return Manifest.read(path / SUMMARY).identity
