"""The estimators by name."""

from __future__ import annotations

from collections.abc import Sequence

from fut.errors import UsageError
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.positions import Positions
from fut.methods.base import Estimator
from fut.methods.baseline import ReferenceEstimator
from fut.methods.context import Context
from fut.methods.footprint import footprint_of
from fut.methods.limits import require_tables
from fut.methods.lowrank.estimator import Curved
from fut.methods.pairwise.replay import Replay, ReplayExact
from fut.methods.pairwise.store import pairwise_config
from fut.methods.pairwise.taylor import Fut, FutPlusPlus
from fut.methods.reweighting.estimator import Reweighting
from fut.readouts.readout import PROBE

ESTIMATORS: dict[str, type[Estimator]] = {
    e.name: e
    for e in (ReferenceEstimator, Fut, FutPlusPlus, Replay, ReplayExact, Adjoint, Positions, Curved, Reweighting)
}
NAMES = (*ESTIMATORS, "retrain")


def base_name(spec: str) -> str:
    """The estimator's name in a specification like `fut:moments=replayed`."""
    return spec.partition(":")[0]


def option(spec: str, name: str) -> str | None:
    """The value of an option in a specification; None where it is not given."""
    pairs = [part.partition("=") for part in spec.split(":")[1:]]
    return next((value for key, _, value in pairs if key == name), None)


def require_movable(question: str, names: Sequence[str]) -> None:
    """UsageError if one of the estimators cannot answer the random orders that a question is about."""
    fixed = [name for name in names if (of := ESTIMATORS.get(base_name(name))) is not None and of.in_place]
    if fixed:
        raise UsageError(
            f"{question}: expected estimators of orders that move items, got {', '.join(fixed)}, which answers weights of "
            "items in their own steps; `fut lds RUN` measures its error against retrained subsets"
        )


def make_estimator(context: Context, spec: str, readout: str = PROBE, **options: str) -> Estimator:
    """An estimator by name, with options after colons: `fut`, `fut:moments=replayed:reading=evaluated`.

    UsageError listing the known names, or naming the option that it does not take.
    """
    name, *written = spec.split(":")
    if name not in ESTIMATORS:
        raise UsageError(f"estimator: expected one of {', '.join(NAMES)}, got `{name}`; correct the name")
    pairs = [part.partition("=") for part in written]
    try:
        return ESTIMATORS[name](context, readout, **{k: v for k, _, v in pairs} | options)
    except TypeError as error:
        raise UsageError(
            f"estimator: expected options that `{name}` takes, got `{spec}` ({error}); correct them"
        ) from error


DEFAULT_ESTIMATOR = "adjoint"


def default_estimator(context: Context) -> str:
    """The estimator that answers when none is named: `adjoint`, or `replay` for a rule without a derivative."""
    return DEFAULT_ESTIMATOR if context.problem.rule.smooth else "replay"


def open_estimator(context: Context, spec: str, readout: str = PROBE, **options: str) -> Estimator:
    """An estimator of one read-out of a run; ResourceError where its tables do not fit in memory. Options as in
    `make_estimator`."""
    made = make_estimator(context, spec, readout, **options)
    require_tables(footprint_of(context.problem, open_expansion(context).resolved, pairwise_config(context)), made)
    return made
