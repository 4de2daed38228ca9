"""What each method costs: gradients before the first order, gradients per order, bytes on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fut.artifacts import directory as files
from fut.artifacts.directory import directory_bytes
from fut.config.training import TrainingConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.positions import TABLES
from fut.methods.lowrank.estimator import refresh_interval
from fut.methods.lowrank.terms import DIRECTORY as BASE
from fut.methods.lowrank.terms import open_base
from fut.methods.pairwise.store import pairwise_config
from fut.methods.pairwise.terms import COST
from fut.methods.registry import base_name, option
from fut.methods.reweighting.terms import DIRECTORY as REWEIGHTING
from fut.methods.reweighting.terms import open_sensitivities

if TYPE_CHECKING:
    from fut.methods.context import Context


NEEDS = {
    "reference": (),
    "replay": ("gradient", "norm"),
    "fut": ("update", "jvp"),
    "fut++": ("update", "jvp", "second"),
}


def needs(run: Context, name: str) -> list[str]:
    """The terms an estimator replays, under the run's cache configuration."""
    wanted = NEEDS.get(name, ())
    return [n for n in wanted if pairwise_config(run).derivative == "jvp" or n not in ("jvp", "second")]


def precompute_gradients(run: Context, name: str) -> int:
    """Gradient evaluations before the first query, beyond the reference run's own (of one item each; a product counts two)."""
    names = needs(run, name)
    per_pair = (1 if names else 0) + sum(COST[n] for n in names if COST[n] > 1)
    if name in ("adjoint", "positions"):
        return open_expansion(run).gradients()
    if name == "curved":
        return open_base(run).gradients()
    if name == REWEIGHTING:
        return open_sensitivities(run).gradients()
    return per_pair * run.steps * run.items


def query_gradients(run: Context, spec: str) -> int:
    """Gradient evaluations per order, evaluations of the probe loss not counted (a product counts two)."""
    name, refresh = base_name(spec), option(spec, "refresh")
    if name == "curved":
        return open_base(run).query_gradients(None if refresh is None else refresh_interval(refresh))
    return {"retrain": run.config.consumed, "replay-exact": exact_gradients(run.config)}.get(name, 0)


def exact_gradients(config: TrainingConfig) -> int:
    """Gradient evaluations of one order by `replay-exact`, at most: for every item consumed its gradient and a product, which
    counts two. Steps that stand where the reference run did, as the first one does, take no product."""
    return 3 * config.consumed


def store_bytes(run: Context, name: str) -> int:
    """Bytes on disk that an estimator reads: its terms, and all checkpoints where it streams them."""
    if name == "replay-exact":
        return run.checkpoints.nbytes()
    if name == "positions":
        return max(directory_bytes(run.path / files.ADJOINT / "terms" / "arrays" / n) for n in TABLES)
    if name in ("adjoint", BASE, REWEIGHTING):
        return directory_bytes(run.path / name)
    return sum(directory_bytes(run.path / files.TERMS / "arrays" / n) for n in needs(run, name))


def costs(run: Context, spec: str) -> dict[str, int]:
    """The cost columns of an accuracy table, of an estimator with its options."""
    name = base_name(spec)
    return {
        "precompute_gradients": precompute_gradients(run, name),
        "query_gradients": query_gradients(run, spec),
        "store_bytes": store_bytes(run, name),
    }
