"""The estimators by name."""

from __future__ import annotations

from collections.abc import Sequence

from estimators.order import Order
from estimators.replay import batches

from .adjoint import Adjoint
from .curved import Curved
from .errors import UsageError
from .estimator import Estimator, Reference
from .paper import Fut, FutPlusPlus
from .positions import Positions
from .replays import ReferenceEstimator, Replay, ReplayExact
from .reweighting import Reweighting

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


def make_estimator(spec: str, reference: Reference, **options: str) -> Estimator:
    """An estimator by name, with options after colons: `fut`, `fut:moments=replayed:reading=evaluated`.

    UsageError listing the known names, or naming the option that it does not take.
    """
    name, *written = spec.split(":")
    if name not in ESTIMATORS:
        raise UsageError(f"estimator: expected one of {', '.join(NAMES)}, got `{name}`; correct the name")
    pairs = [part.partition("=") for part in written]
    try:
        return ESTIMATORS[name](reference, **{k: v for k, _, v in pairs} | options)  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(
            f"estimator: expected options that `{name}` takes, got `{spec}` ({error}); correct them"
        ) from error


def batch_size(width: int, budget: int = 1 << 28) -> int:
    """Orders replayed at once, so that a batch's state of `width` numbers and three buffers fits in `budget` numbers."""
    return max(1, min(256, budget // (6 * max(width, 1))))


def raw_estimates(estimator: Estimator, orders: Sequence[Order]) -> tuple[list[float], list[float]]:
    """Uncalibrated values of the read-out for checked orders, and the variance of each over a sample of coordinates."""
    losses, variances = [0.0] * len(orders), [0.0] * len(orders)
    for places, batch in batches(orders, batch_size(estimator.width())):
        positions = estimator.positions(batch)
        found = zip(estimator.losses(positions, len(batch[0])), estimator.variances(positions), strict=True)
        for place, (loss, variance) in zip(places, found, strict=True):
            losses[place], variances[place] = loss, variance
    return losses, variances
