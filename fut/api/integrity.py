"""What a run is, what each estimator costs, and whether every byte of it is sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fut.artifacts import directory as files
from fut.errors import UsageError
from fut.estimation.calibration import DIRECTORY
from fut.methods import settings_file
from fut.methods.adjoint.files import PARTS
from fut.methods.lowrank.terms import DIRECTORY as BASE
from fut.methods.lowrank.terms import SCRATCH
from fut.methods.pairwise import store as pairwise_store
from fut.methods.reweighting.terms import DIRECTORY as REWEIGHTING
from fut.training.retrained import RetrainedOrders
from storage import CheckpointStore, Damage, Manifest, MissingError, StorageError, TermStore

SWEPT = (files.ADJOINT, REWEIGHTING, files.MEMORIZATION)


def check_path(path: Path) -> list[Damage]:
    """Verify every checksum under a run directory, without needing the run to open; what is damaged, by file."""
    if not path.is_dir() or not any(path.iterdir()):
        raise MissingError(f"check: expected a run directory, got {path}; make one with `fut train --out {path}`")
    damages = [d for part in (files.DATA, files.CHECKPOINTS) for d in CheckpointStore(path / part).check()]
    damages += RetrainedOrders(path / files.RETRAINED).check()
    small = {
        files.MANIFEST: files.read_manifest,
        files.CONFIG: settings_file.read_config,
        files.ORDER: files.check_order,
    }
    if (path / files.SUMMARY).exists():
        small[files.SUMMARY] = files.read_summary
    damages += [d for name, read in small.items() if (d := _unreadable(path / name, read, path))]
    kept = [*path.glob(f"{DIRECTORY}/*.json"), *path.glob(f"{BASE}/{files.MANIFEST}")]
    kept += [file for part in SWEPT for file in path.glob(f"{part}/{files.MANIFEST}")]
    kept += path.glob(f"{files.DIFFICULTY}/*.json")
    damages += [d for file in kept if (d := _unreadable(file, Manifest.read, file))]
    damages += _missing_checkpoints(path)
    damages += [
        d
        for swept in (files.ADJOINT, files.MEMORIZATION)
        for part in PARTS
        for d in CheckpointStore(path / swept / part).check()
    ]
    damages += [d for part in SCRATCH for d in CheckpointStore(path / BASE / part).check()]
    damages += [
        d
        for part in ("sample", "scratch/sweep", "scratch/costate")
        for d in CheckpointStore(path / REWEIGHTING / part).check()
    ]
    damages += _damaged_terms(path / files.TERMS) if pairwise_store.has_terms(path) else []
    built = [where for part in (*SWEPT, BASE) if (where := path / part / "terms").exists()]
    return damages + [d for where in built for d in _damaged_terms(where)]


def _damaged_terms(path: Path) -> list[Damage]:
    try:
        return TermStore.open(path).check()
    except StorageError as error:
        return [Damage(str(path), str(error))]


def _missing_checkpoints(path: Path) -> list[Damage]:
    try:
        expected = range(settings_file.read_config(path).steps + 1) if (path / files.SUMMARY).exists() else range(0)
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
