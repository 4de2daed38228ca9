"""How good is an estimate? The accuracy protocol: estimated against retrained losses of random orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from estimators.orders.order import Order
from fut.display.agreement import Agreement, table_row, table_units
from fut.display.notebook import Displayable, draw_agreement
from fut.display.numbers import from_fields, jsonable_fields
from fut.display.scale import NATS, Scale
from fut.divergence import divergence_note
from fut.estimation.accuracy import LEAST, accuracy
from fut.estimation.results import Answers
from fut.methods.registry import is_baseline

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Verification(Displayable):
    """The protocol's table. orders: as item lists; losses in the read-out's unit; seconds of one retraining; diverged: orders
    that were drawn and could not be trained, which nothing else counts; surrogate: what a learner of the
    retrained orders alone has, as `Surrogate` says; None for too few orders."""

    orders: list[Any]
    reference_loss: float
    true_losses: list[float]
    estimated_losses: dict[str, list[float]]
    retrain_seconds: float
    estimators: dict[str, dict[str, Any]]
    readout: str = "probe"
    unit: str = NATS
    diverged: list[Any] = field(default_factory=list)
    surrogate: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return jsonable_fields(asdict(self) | {"true_sd": float(np.std(self.true_losses, ddof=1))})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Verification:
        """From `as_dict`; an estimate that was not finite comes back as None."""
        return from_fields(cls, content)

    def title(self) -> str:
        return f"{self.readout}: estimated against retrained values of {len(self.true_losses)} orders"

    def rows(self) -> list[dict[str, Any]]:
        """A row per estimator: the accuracy table of `fut.display.agreement`."""
        return [table_row(name, row) for name, row in self.estimators.items()]

    def units(self) -> dict[str, str]:
        return table_units(self.unit)

    def agreement(self, name: str) -> Agreement:
        """What an estimator's scatter shows."""
        return Agreement.of(self.true_losses, self.estimated_losses[name], self.reference_loss, self.unit)

    @property
    def remarks(self) -> list[str]:
        """What has to be said of the table: orders that diverged, too few for an interval, and what estimators say against
        themselves."""
        learnt = [] if self.surrogate is None else [Surrogate(**self.surrogate).words]
        return [*self.divergence(), *few_orders(len(self.true_losses)), *learnt, *said_against(self.estimators)]

    def notes(self) -> list[str]:
        return ["low … high: 90 % bootstrap interval of spearman; skill: 1 − mae / mae of `reference`", *self.remarks]

    def divergence(self) -> list[str]:
        """What is to be said of orders that diverged; nothing where none did."""
        return [divergence_note(len(self.orders), list(map(Order.of, self.diverged)))] if self.diverged else []

    def draw(self, axes: Axes) -> None:
        shown = {name: self.agreement(name) for name in self.estimated_losses if not is_baseline(name)}
        draw_agreement(axes, shown, Scale(self.unit, 0))


@dataclass(frozen=True)
class Surrogate:
    """What is learnt of orders from one half of those that were retrained, judged on the other half; both ways.

    Args:
        learnt_from: orders of a half.
        spearman: mean of both halves.
        mae, skill: over all orders, as of an estimator.
    """

    learnt_from: int
    spearman: float | None
    mae: float
    skill: float

    @classmethod
    def of(cls, halves: Sequence[NDArray[np.float64]], truths: Sequence[float], reference: float) -> Surrogate:
        """From values of every other order, and of the rest, as `fut.estimation.surrogate.halves_learnt` gives them."""
        true = [np.asarray(truths[first::2]) for first in range(2)]
        ranks = [accuracy(t, guess, reference).spearman for t, guess in zip(true, halves, strict=True)]
        known = [rank for rank in ranks if rank is not None]
        whole = accuracy(np.concatenate(true), np.concatenate(halves), reference)
        return cls(len(truths) // 2, sum(known) / len(known) if known else None, whole.mae, whole.skill)

    @property
    def words(self) -> str:
        """In a line."""
        rank = "none" if self.spearman is None else f"{self.spearman:.2f}"
        return (
            f"a learner of retrained orders alone, from {self.learnt_from} of them, has Spearman {rank} and skill "
            f"{self.skill:+.2f} on the others: what a method has to beat"
        )


def few_orders(count: int) -> list[str]:
    """That a correlation has no interval, where it is of too few orders."""
    few = f"Spearman of {count} orders has no interval: below {LEAST} orders a bootstrap interval shrinks to a point"
    return [few] if count < LEAST else []


def said_against(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What estimators say against themselves, by their rows of the table."""
    return [f"{name}: {row['caution']}" for name, row in rows.items() if row.get("caution")]


def verify(
    orders: Sequence[Order],
    reference_loss: float,
    retrain: Callable[[Order], tuple[float, float]],
    estimators: dict[str, Callable[[Sequence[Order]], Answers]],
    costs: Mapping[str, Mapping[str, float]] | None = None,
    readout: str = "probe",
    unit: str = NATS,
) -> Verification:
    """Retrain every order, ask every estimator about all of them, and compare.

    retrain: order -> (loss, seconds). estimators: name -> (orders -> Answers). costs: further columns per estimator.
    """
    truths = [retrain(order) for order in orders]
    losses = [loss for loss, _ in truths]
    rows, estimated = {}, {}
    for name, ask in estimators.items():
        answers = ask(orders)
        row = accuracy(losses, answers.values, reference_loss, answers.intervals, answers.endpoint_error).as_dict()
        if answers.uncalibrated is not None:
            raw = accuracy(losses, answers.uncalibrated, reference_loss)
            row |= {"mae_uncalibrated": raw.mae, "skill_uncalibrated": raw.skill}
            row |= {"interval_width": float(np.mean([high - low for low, high in answers.intervals or []]))}
        row |= {"caution": answers.caution} if answers.caution else {}
        rows[name] = row | {"seconds_per_order": answers.seconds / len(orders)} | dict((costs or {}).get(name, {}))
        estimated[name] = answers.values
    seconds = float(np.mean([s for _, s in truths]))
    listed = [o.tolist() for o in orders]
    return Verification(listed, reference_loss, losses, estimated, seconds, rows, readout, unit)
