"""Whether every byte of a run directory is sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fut.artifacts import directory as files
from fut.errors import UsageError
from fut.estimation.calibration import DIRECTORY
from fut.methods.registry import preparations
from fut.methods.settings import read_config
from fut.training.retrained import RetrainedOrders
from storage import CheckpointStore, Damage, Manifest, MissingError, StorageError


def check_path(path: Path) -> list[Damage]:
    """Verify every checksum under a run directory, without needing the run to open; what is damaged, by file."""
    if not path.is_dir() or not any(path.iterdir()):
        raise MissingError(f"check: expected a run directory, got {path}; make one with `fut train --out {path}`")
    damages = [d for part in (files.DATA, files.CHECKPOINTS) for d in CheckpointStore(path / part).check()]
    damages += RetrainedOrders(path / files.RETRAINED).check()
    small = {
        files.MANIFEST: files.read_manifest,
        files.CONFIG: read_config,
        files.ORDER: files.check_order,
    }
    if (path / files.SUMMARY).exists():
        small[files.SUMMARY] = files.read_summary
    damages += [d for name, read in small.items() if (d := _unreadable(path / name, read, path))]
    places = [place for preparation in preparations() for place in preparation.places_in(path)]
    kept = [file for place in places if place != files.TERMS for file in path.glob(f"{place}/{files.MANIFEST}")]
    kept += [*path.glob(f"{DIRECTORY}/*.json"), *path.glob(f"{files.DIFFICULTY}/*.json")]
    damages += [d for file in kept if (d := _unreadable(file, Manifest.read, file))]
    damages += _missing_checkpoints(path)
    return damages + [d for preparation in preparations() for d in preparation.check(path)]


def _missing_checkpoints(path: Path) -> list[Damage]:
    try:
        expected = range(read_config(path).steps + 1) if (path / files.SUMMARY).exists() else range(0)
    except (UsageError, StorageError):
        return []
    store = CheckpointStore(path / files.CHECKPOINTS)
    return [Damage(str(store.path(t)), "absent from a finished run") for t in expected if not store.has(t)]


def _unreadable(file: Path, read: Callable[[Path], object], argument: Path) -> Damage | None:
    try:
        read(argument)
    except (StorageError, UsageError) as error:
        return Damage(str(file), str(error))
    return None
