"""What a run is, what each estimator costs, and whether every byte of it is sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import CheckpointStore, Damage, Manifest, MissingError, StorageError, TermStore

from . import layout as files
from .base import DIRECTORY as BASE
from .base import SCRATCH, has_base
from .calibration import DIRECTORY
from .curved import refresh_interval
from .data import detokenize
from .difference import kept_error
from .errors import FutError, UsageError
from .estimation import ESTIMATORS, base_name, option
from .expansion import Expansion
from .folding import anchor_error
from .layout import directory_bytes
from .positions import TABLES
from .readouts import PROBE
from .retrained import RetrainedOrders
from .sensitivity import DIRECTORY as REWEIGHTING
from .sensitivity import stored_config
from .stores import PARTS
from .terms import COST

if TYPE_CHECKING:
    from .run import Run

NEEDS = {
    "reference": (),
    "replay": ("gradient", "norm"),
    "fut": ("update", "jvp"),
    "fut++": ("update", "jvp", "second"),
}


def needs(run: Run, name: str) -> list[str]:
    """The terms an estimator replays, under the run's cache configuration."""
    wanted = NEEDS.get(name, ())
    return [n for n in wanted if run.cache_config.derivative == "jvp" or n not in ("jvp", "second")]


def precompute_gradients(run: Run, name: str) -> int:
    """Gradient evaluations before the first query, beyond the reference run's own (of one item each; a product counts two)."""
    names = needs(run, name)
    per_pair = (1 if names else 0) + sum(COST[n] for n in names if COST[n] > 1)
    if name in ("adjoint", "positions"):
        return run.expansion().gradients()
    if name == "curved":
        return run.base().gradients()
    if name == REWEIGHTING:
        return run.sensitivities().gradients()
    return per_pair * run.steps * run.items


def query_gradients(run: Run, spec: str) -> int:
    """Gradient evaluations per order, evaluations of the probe loss not counted (a product counts two)."""
    name, refresh = base_name(spec), option(spec, "refresh")
    if name == "curved":
        return run.base().query_gradients(None if refresh is None else refresh_interval(refresh))
    return {"retrain": run.config.consumed, "replay-exact": 3 * run.config.consumed}.get(name, 0)


def store_bytes(run: Run, name: str) -> int:
    """Bytes on disk that an estimator reads: its terms, and all checkpoints where it streams them."""
    if name == "replay-exact":
        return run.checkpoints.nbytes()
    if name == "positions":
        return max(directory_bytes(run.path / files.ADJOINT / "terms" / "arrays" / n) for n in TABLES)
    if name in ("adjoint", BASE, REWEIGHTING):
        return directory_bytes(run.path / name)
    return sum(directory_bytes(run.path / files.TERMS / "arrays" / n) for n in needs(run, name))


def costs(run: Run, spec: str) -> dict[str, int]:
    """The cost columns of an accuracy table, of an estimator with its options."""
    name = base_name(spec)
    return {
        "precompute_gradients": precompute_gradients(run, name),
        "query_gradients": query_gradients(run, spec),
        "store_bytes": store_bytes(run, name),
    }


def info(run: Run) -> dict[str, Any]:
    """Size, cost and state of a run, ready for JSON. Losses in nats/token; costs in gradient evaluations and bytes."""
    names = [*ESTIMATORS, "retrain"]
    terms = run.path / files.TERMS
    expanded = files.has_expansion(run.path)
    done, total = TermStore.open(terms).progress() if files.has_terms(run.path) else (0, None)
    return {
        "path": str(run.path),
        "steps": run.steps,
        "items": run.items,
        "items_per_step": run.config.data.per_step,
        "parameters": run.parameters,
        "rule": run.config.rule.name,
        "schedule": run.config.schedule.model_dump(),
        "text": run.summary["source"],
        "reference_loss": run.reference_loss,
        "start_loss": run.summary["start_loss"],
        "unit": "nats/token",
        "estimators": names,
        "precompute_gradients": {n: precompute_gradients(run, n) for n in names},
        "query_gradients": {n: query_gradients(run, n) for n in names},
        "term_bytes": {n: store_bytes(run, n) for n in names},
        "store_bytes": directory_bytes(run.path),
        "term_blocks": {"done": done, "total": total},
        "cache": run.cache_config.model_dump(),
        "adjoint": (files.read_expansion_config(run.path) if expanded else run.config.adjoint).model_dump(),
        "adjoint_cached": expanded and run.expansion().complete(),
        "adjoint_begun": expanded,
        "adjoint_anchor_error": anchor_error(run.expansion()) if expanded and run.expansion().complete() else None,
        "adjoint_anchor_choice": _choice(run.expansion()) if expanded else None,
        "adjoint_difference_error": kept_error(run.expansion()) if expanded else None,
        "adjoint_own_error": _own_error(run) if expanded and run.expansion().complete() else None,
        "curved": run.base().config.model_dump(),
        "curved_cached": has_base(run.path),
        "readouts": run.expansion().names,
        "reweighting": run.sensitivities().config.model_dump(),
        "reweighting_cached": stored_config(run.path) is not None,
        "retrained_orders": len(list((run.path / files.RETRAINED).glob("*/*.h5"))),
        "environment": run.manifest.environment,
    }


def check_path(path: Path) -> list[Damage]:
    """Verify every checksum under a run directory, without needing the run to open; what is damaged, by file."""
    if not path.is_dir() or not any(path.iterdir()):
        raise MissingError(f"check: expected a run directory, got {path}; make one with `fut train --out {path}`")
    damages = [d for part in (files.DATA, files.CHECKPOINTS) for d in CheckpointStore(path / part).check()]
    damages += RetrainedOrders(path / files.RETRAINED).check()
    small = {files.MANIFEST: files.read_manifest, files.CONFIG: files.read_config, files.ORDER: files.check_order}
    if (path / files.SUMMARY).exists():
        small[files.SUMMARY] = files.read_summary
    damages += [d for name, read in small.items() if (d := _unreadable(path / name, read, path))]
    kept = [*path.glob(f"{DIRECTORY}/*.json"), *path.glob(f"{BASE}/{files.MANIFEST}")]
    kept += [file for part in files.SWEPT for file in path.glob(f"{part}/{files.MANIFEST}")]
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
    damages += _damaged_terms(path / files.TERMS) if files.has_terms(path) else []
    built = [where for part in (*files.SWEPT, BASE) if (where := path / part / "terms").exists()]
    return damages + [d for where in built for d in _damaged_terms(where)]


def _choice(expansion: Expansion) -> dict[str, Any] | None:
    """The number of anchors where it was chosen, what each number that was tried would err by, and what was asked."""
    choice = expansion.choice
    if choice is None:
        return None
    errors = [{"anchors": count, "error": error} for count, error in choice.errors.items()]
    return {"anchors": len(choice.anchors), "asked": expansion.config.anchor_error, "tried": errors}


def _own_error(run: Run) -> float | None:
    """What the adjoint errs by on the runs that its own expansion is made of [nats/token]; None where it cannot be asked here."""
    if run.expansion().names[0] != PROBE:  # its own runs are judged by the first read-out, in a unit of its own
        return None
    try:
        return run.estimator("adjoint").own_error()
    except FutError:  # tables that do not fit this machine's memory, or of an earlier version
        return None


def _damaged_terms(path: Path) -> list[Damage]:
    try:
        return TermStore.open(path).check()
    except StorageError as error:
        return [Damage(str(path), str(error))]


def _missing_checkpoints(path: Path) -> list[Damage]:
    try:
        expected = range(files.read_config(path).steps + 1) if (path / files.SUMMARY).exists() else range(0)
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


def show_step(run: Run, step: int, order: Any = "identity") -> list[dict[str, Any]]:
    """Which items, and which text, a step consumed: item number, weight, content hash and the text of every sequence."""
    chosen = run.order(order)
    if not 0 <= step < len(chosen):
        raise UsageError(f"show-batch: expected a step 0..{len(chosen) - 1}, got {step}; correct STEP")
    data = files.read_dataset(run.path)
    hashes = run.manifest.identity["data"]["items"]
    return [
        {"item": i, "weight": w, "hash": hashes[i], "sequences": detokenize(data.items[i], run.config.data)}
        for i, w in chosen.entries[step]
    ]
