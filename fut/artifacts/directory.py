"""The files of a run directory: names, and reading and writing of the small ones."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

from estimators.errors import OrderError
from estimators.orders.order import Order
from storage import (
    FORMAT,
    CheckpointStore,
    DamagedError,
    IdentityError,
    Manifest,
    MissingError,
    absent_bytes,
    address,
    fingerprint,
    read_json,
    require_plain,
)

MANIFEST, CONFIG, SUMMARY, ORDER = "manifest.json", "config.toml", "summary.json", "order.json"
DATA, START, CHECKPOINTS, WARMUP, TERMS, ADJOINT = "data", "start", "checkpoints", "warmup", "terms", "adjoint"
RETRAINED, ENDPOINTS, VERIFICATION = "retrained", "endpoints", "verification"
DIFFICULTY, MEMORIZATION, ANSWERS, CALIBRATION = "difficulty", "memorization", "answers", "calibration"
OWNER, MODEL = "run", "model"
"""Fields of an environment: the digest of the run that a file belongs to, and the class of the module that was trained."""
VECTORS = 64
"""Vectors of whole size, in double precision, that a lifted state has at most."""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def directory_bytes(path: Path) -> int:
    """Bytes of all files under a directory, those that are to be fetched included; 0 where there is none."""
    there = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.exists() else 0
    return there + absent_bytes(path)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a run directory, which is looked at first: what a link or a FIFO in it leads to is not opened."""
    require_plain(path)
    if not (path / MANIFEST).exists():
        raise MissingError(
            f"run: expected a run directory with {MANIFEST}, got {address(path)}; make one with `fut train --out "
            f"{address(path)}`"
        )
    manifest = Manifest.read(path / MANIFEST)
    if manifest.kind == "run":
        _require_fields(manifest, path)
    if manifest.format != FORMAT or manifest.kind != "run":
        raise IdentityError(
            f"run {path}: expected kind=run, format={FORMAT}, got kind={manifest.kind}, format={manifest.format}; "
            "open it with the version of fut that made it"
        )
    return manifest


def _require_fields(manifest: Manifest, path: Path) -> None:
    """DamagedError unless a run's manifest has what is read of it, in the form that it is read in."""
    identity = manifest.identity
    try:
        shapes = [[int(length) for length in shape] for _, shape in identity["model"]["parameters"]]
        texts = [
            identity["order"],
            manifest.environment[CONFIG],
            *identity["data"]["items"],
            identity["model"]["start"],
        ]
        fixed = [identity["config"], identity["data"], identity["model"]["fixed"], {}]
        sound = all(length >= 0 for shape in shapes for length in shape) and all(type(text) is str for text in texts)
        if sound and all(type(part) is dict for part in fixed):
            return
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise DamagedError(
        f"{path / MANIFEST}: expected what a run is made of (config, data, model, order), got something else; restore the file"
    )


def owner_of(manifest: Manifest) -> str:
    """The digest of what a run is, which every file that belongs to it holds."""
    return fingerprint(manifest.identity)


def require_owned(owner: str, expected: str, file: Path) -> None:
    """IdentityError for a file of another run.

    Args:
        owner: the digest that it holds.
        expected: the run's; "" where it is not known.
        file: for the message.
    """
    if expected and owner != expected:
        raise IdentityError(
            f"{file}: expected a file of this run ({expected[:12]}…), got one of another ({str(owner)[:12]}…); put the run's own "
            "file back, or remove it"
        )


def open_checkpoints(path: Path, manifest: Manifest, part: str = CHECKPOINTS) -> CheckpointStore:
    """Lifted states of a run, or another store of vectors of its size; no file is read that is larger than its model implies."""
    numbers = sum(math.prod(shape) for _, shape in manifest.identity["model"]["parameters"])
    return CheckpointStore(path / part, owner_of(manifest), most=8 * VECTORS * numbers + (1 << 20))


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


UNIT = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,40}")
"""A unit of losses, as a configuration may have it."""


def read_summary(path: Path) -> dict[str, Any]:
    if not (path / SUMMARY).exists():
        raise MissingError(
            f"run {address(path)}: expected a finished reference run, got an interrupted one; repeat the "
            "`fut train` command to finish it"
        )
    found = Manifest.read(path / SUMMARY)
    require_owned(found.environment.get(OWNER, ""), owner_of(read_manifest(path)), path / SUMMARY)
    numbers = [found.identity.get(name) for name in ("reference_loss", "start_loss", "parameters")]
    unit = found.identity.get("unit", "")
    texts = type(found.identity.get("source")) is str and type(unit) is str and UNIT.fullmatch(unit)
    steps = found.identity.get("checkpoints")
    listed = isinstance(steps, list) and all(type(step) is int and step >= 0 for step in steps)
    if not all(type(number) in (int, float) for number in numbers) or not texts or not listed:
        raise DamagedError(
            f"{path / SUMMARY}: expected the losses of a finished run, got something else; restore the file"
        )
    return found.identity
