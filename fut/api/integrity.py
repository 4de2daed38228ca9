"""Whether every byte of a run directory is sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fut.artifacts import directory as files
from fut.artifacts.location import located
from fut.errors import UsageError
from fut.estimation.calibration import DIRECTORY
from fut.methods.registry import preparations
from fut.methods.settings import read_config
from fut.training.retrained import RetrainedOrders
from storage import CheckpointStore, Damage, Manifest, MissingError, StorageError, address, fetch_all, irregular


def check_path(path: Path | str) -> list[Damage]:
    """Verify every checksum under a run directory, without needing the run to open; what is damaged, by file."""
    path = located(path)
    fetch_all(path)
    if not path.is_dir() or not any(path.iterdir()):
        raise MissingError(
            f"check: expected a run directory, got {address(path)}; make one with `fut train --out {address(path)}`"
        )
    if damages := list(irregular(path)):  # nothing is opened beside what would not end, or lies elsewhere
        return damages
    owner = _owner(path)
    parts = (files.DATA, files.START, files.CHECKPOINTS)
    damages += [d for part in parts for d in CheckpointStore(path / part, owner).check()]
    damages += RetrainedOrders(path / files.RETRAINED, owner=owner).check()
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
    damages += [d for file in kept if (d := _unreadable(file, Manifest.read, file))]
    owned = [*path.glob(f"{DIRECTORY}/*.json"), *path.glob(f"{files.DIFFICULTY}/*.json")]
    damages += [d for file in owned if (d := _unreadable(file, lambda f: _require_owned(f, owner), file))]
    damages += _missing_checkpoints(path)
    damages += [d for preparation in preparations() for d in preparation.check(path, owner)]
    return list({(d.path, d.reason): d for d in damages}.values())


def _owner(path: Path) -> str:
    """The run's digest; "" where its manifest cannot be read, which is named as damage itself."""
    try:
        return files.owner_of(files.read_manifest(path))
    except StorageError:
        return ""


def _require_owned(file: Path, owner: str) -> None:
    found = Manifest.read(file)
    if owner:
        files.require_owned(found.environment.get(files.OWNER, ""), owner, file)


def _missing_checkpoints(path: Path) -> list[Damage]:
    try:
        expected = files.read_summary(path)["checkpoints"] if (path / files.SUMMARY).exists() else []
    except (UsageError, StorageError):
        return []
    start = CheckpointStore(path / files.START)
    if expected and not start.has(0):
        return [Damage(str(start.path(0)), "absent from a finished run")]
    store = CheckpointStore(path / files.CHECKPOINTS)
    return [Damage(str(store.path(t)), "absent from a finished run") for t in expected if not store.has(t)]


def _unreadable(file: Path, read: Callable[[Path], object], argument: Path) -> Damage | None:
    try:
        read(argument)
    except (StorageError, UsageError) as error:
        return Damage(str(file), str(error))
    return None
