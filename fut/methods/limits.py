"""Whether a stage fits the memory that is there: refused with both numbers before anything of it is computed."""

from __future__ import annotations

from collections.abc import Sequence

from fut.methods.base import Estimator
from fut.methods.footprint import Footprint, footprint_of
from fut.methods.lowrank.costs import BaseFootprint
from fut.methods.lowrank.estimator import Curved
from fut.methods.lowrank.terms import Base
from fut.methods.pairwise.replay import Replay
from fut.methods.pairwise.taylor import Fut
from fut.methods.query_footprint import QueryFootprint
from fut.methods.settings import Config
from fut.resources.memory import require_memory
from fut.training.problem import Problem

LESS = "lower data.batch, data.context or the model's size"
ADVICE = {
    "centre": f"lower adjoint.mixture, or {LESS}",
    "backward sweep": f"lower adjoint.mixture or adjoint.pool, or {LESS}",
    "sample": "lower adjoint.simulated or adjoint.mixture",
    "fold": "lower adjoint.coordinates or adjoint.anchors",
    "pairwise": f"lower cache.item_block, or {LESS}",
    "adjoint": "lower adjoint.coordinates or adjoint.anchors",
    "low-rank curvature": f"lower curved.rank or curved.pool, or {LESS}",
    "refresh gradients": f"lower curved.pool, or {LESS}",
    "curved": "lower curved.rank or adjoint.anchors",
    "low rank": "lower adjoint.rank",
    "replay": "lower cache.coordinates or data.items",
    "fut": "lower cache.size or data.items",
}
"""What to lower where a stage does not fit."""


def require_training(problem: Problem, config: Config) -> None:
    """ResourceError unless training fits the memory that is there."""
    found = footprint_of(problem, config.adjoint, config.cache)
    require_memory("reference run", found.least(), problem.device, LESS)  # before a gradient is measured
    _require(found, "reference run", found.training(), LESS)


def require_expansion(footprint: Footprint) -> None:
    """ResourceError unless every stage of the expansion fits the memory that is there."""
    peaks = {
        "centre": footprint.centre,
        **({"low rank": footprint.low_rank} if footprint.expansion.rank else {}),
        "backward sweep": footprint.sweep,
        "sample": footprint.sample,
        "anchors": footprint.anchors,
        "fold": footprint.fold,
    }
    for stage, peak in peaks.items():
        _require(footprint, stage, peak(), ADVICE.get(stage, LESS))


def require_base(footprint: Footprint, base: Base) -> None:
    """ResourceError unless every stage of the curved estimator's terms fits the memory that is there."""
    for stage, peak in BaseFootprint(footprint, base).peaks().items():
        _require(footprint, stage, peak(), ADVICE.get(stage, LESS))


def require_pairwise(footprint: Footprint, names: Sequence[str]) -> None:
    """ResourceError unless a block of the named terms fits the memory that is there."""
    _require(footprint, f"terms {', '.join(names)}", footprint.pairwise(names), ADVICE["pairwise"])


def _require(footprint: Footprint, stage: str, planned: int, advice: str) -> None:
    require_memory(stage, planned - footprint.resident, footprint.problem.device, advice)


def require_tables(footprint: Footprint, estimator: Estimator) -> None:
    """ResourceError unless the tables that an estimator loads fit the memory that is there; none where they are not cached."""
    if estimator.name == "adjoint":
        nbytes = QueryFootprint(footprint).adjoint_tables()
    elif isinstance(estimator, Curved):
        nbytes = BaseFootprint(footprint, estimator.base).tables(1)
    elif isinstance(estimator, (Replay, Fut)) and estimator.cached:
        nbytes = QueryFootprint(footprint).pairwise_tables(estimator.needs)
    else:
        return
    advice = ADVICE.get(estimator.name.rstrip("+"), LESS)
    require_memory(f"tables of {estimator.name}", nbytes, footprint.problem.device, f"{advice} and cache again")
