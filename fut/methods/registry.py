"""The methods by name, one line each, and how they are opened on a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fut.errors import UsageError
from fut.methods.adjoint.method import ADJOINT_METHOD, POSITIONS
from fut.methods.base import Estimator, Method
from fut.methods.baseline import REFERENCE
from fut.methods.context import Context
from fut.methods.coupling import condition_of
from fut.methods.footprint import Footprint
from fut.methods.lowrank.estimator import LOW_RANK_METHOD
from fut.methods.lowrank.pipeline import LOW_RANK_TERMS
from fut.methods.pairwise.method import REPLAY, REPLAY_EXACT, TAYLOR1, TAYLOR2
from fut.methods.retrain import RETRAIN
from fut.methods.reweighting.estimator import REWEIGHTING_METHOD
from fut.methods.stages import Preparation
from fut.readouts.readout import PROBE, step_of
from fut.registry import Registry
from fut.resources.memory import require_memory

METHODS: Registry[Method] = Registry(
    "estimator",
    "fut.methods",
    [
        REFERENCE,
        TAYLOR1,
        TAYLOR2,
        REPLAY,
        REPLAY_EXACT,
        ADJOINT_METHOD,
        POSITIONS,
        LOW_RANK_METHOD,
        REWEIGHTING_METHOD,
        RETRAIN,
    ],
    UsageError,
)
DEFAULT, WITHOUT_DERIVATIVE = ADJOINT_METHOD, REPLAY
"""What answers where nothing is named: of a rule that it takes, and of others."""
ENDPOINTS, EXACT = LOW_RANK_METHOD, REPLAY_EXACT
"""What answers shorter orders and rebuilds parameters: where its terms are cached, and where they are not."""


def preparations() -> list[Preparation[Any]]:
    """What the methods compute before the first order, in the order in which it is computed."""
    found = {m.preparation.name: m.preparation for m in METHODS if m.preparation is not None}
    return sorted(found.values(), key=lambda preparation: preparation.rank)


def rebuilding(context: Context) -> Method:
    """What rebuilds parameters where nothing is named: the low-rank method where its terms were begun."""
    return ENDPOINTS if LOW_RANK_TERMS.begun_terms(context.path) else EXACT


def base_name(spec: str) -> str:
    """The method's name in a specification like `taylor1:moments=replayed`."""
    name = spec.partition(":")[0]
    return METHODS[name].name if name in METHODS else name


def canonical(spec: str) -> str:
    """A specification with the method's own name in place of an alias."""
    _, colon, options = spec.partition(":")
    return f"{base_name(spec)}{colon}{options}"


def is_baseline(spec: str) -> bool:
    """Whether a specification, of this or of another version, is of a method that says the same of every order."""
    return base_name(spec) in METHODS and method_of(spec).capabilities.baseline


def options_of(spec: str) -> dict[str, str]:
    """The options in a specification."""
    return {key: value for key, _, value in (part.partition("=") for part in spec.split(":")[1:])}


def method_of(spec: str) -> Method:
    """The method that a specification names; UsageError listing the known names."""
    return METHODS[base_name(spec)]


def costs(context: Context, spec: str) -> dict[str, int]:
    """The cost columns of an accuracy table, of a method with its options: gradients before the first order and per order, and
    bytes on disk."""
    method = method_of(spec)
    return {
        "precompute_gradients": method.gradients_before(context),
        "query_gradients": method.gradients_per_order(context, options_of(spec)),
        "store_bytes": method.read_bytes(context),
    }


def require_movable(question: str, names: Sequence[str]) -> None:
    """UsageError if one of the methods cannot answer the random orders that a question is about."""
    fixed = [n for n in names if base_name(n) in METHODS and not method_of(n).capabilities.moves_items]
    if fixed:
        raise UsageError(
            f"{question}: expected estimators of orders that move items, got {', '.join(fixed)}, which answers weights of "
            "items in their own steps; `fut lds RUN` measures its error against retrained subsets"
        )


def make_estimator(context: Context, spec: str, readout: str = PROBE, **options: str) -> Estimator:
    """An estimator by name, with options after colons: `fut`, `taylor1:moments=replayed:reading=evaluated`.

    Raises:
        UsageError: listing the known names, or naming the option that it does not take.
    """
    method = method_of(spec)
    if step_of(readout) is not None and not (method.capabilities.early or method.capabilities.any_length):
        able = [m.name for m in METHODS if m.capabilities.early or m.capabilities.any_length]
        raise UsageError(
            f"{method.name}: expected a read-out at the end of the window, got `{readout}`, which this method cannot answer; use "
            f"one of {', '.join(able)}"
        )
    try:
        return method.open(context, readout, **(options_of(spec) | options))
    except TypeError as error:
        raise UsageError(
            f"estimator: expected options that `{method.name}` takes, got `{spec}` ({error}); correct them"
        ) from error


def default_estimator(context: Context) -> str:
    """The name of the method that answers when none is named: the first that takes the run's rule."""
    rule = context.problem.rule
    taking = (m for m in (DEFAULT, WITHOUT_DERIVATIVE, EXACT) if condition_of(m.capabilities, rule) is not None)
    return next(taking, RETRAIN).name


def open_estimator(context: Context, spec: str, readout: str = PROBE, **options: str) -> Estimator:
    """An estimator of one read-out of a run; ResourceError where its tables do not fit in memory. Options as in
    `make_estimator`."""
    method, made = method_of(spec), make_estimator(context, spec, readout, **options)
    if nbytes := method.table_bytes(made, Footprint(context.problem)):
        advice = f"{method.advice} and cache again"
        require_memory(f"tables of {method.name}", nbytes, context.problem.device, advice)
    return made
