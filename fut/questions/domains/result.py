"""Domain order: items carry labels; what do the order of whole domains, and the place of one of them or of one item, change?

A *domain order* trains on one domain after another, each in the reference order's own sequence; steps keep their lengths. A
*placement* moves one domain as a block, or one item, from first to last among all others, which keep their order. All
answers come from an `estimate(orders)` callable.

`Domains.as_dict()`, as it is kept in `RUN/answers/domains-<key>.json`:

    question             "domains"
    estimator, readout, unit, reference_loss
    labels               {label: [items]}
    orders               [{name "web>books>code", labels [..], order [..], value, delta, interval [low, high] or null, note,
                           truth (loss retrained) or null}]
    placements           [{name, kind "domain" or "item", places [..] (first place or step), answers [as an entry of orders],
                           late_minus_early {delta, interval or null, truth or null}}]
    checked              {count, measures} of the retrained orders, or null: see `fut.estimation.accuracy`
    seed, note

Losses in the read-out's unit; `delta` against the reference order, negative is better for a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.orders.order import Order
from fut.data.labels import Labels
from fut.display.notebook import COLOURS, GREY, Displayable, labelled
from fut.display.numbers import from_fields, jsonable_fields
from fut.estimation.accuracy import accuracy
from fut.estimation.ranking import best, ranked, worst
from fut.questions.domains.blocks import Moved

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Answer:
    """What is said of one order; fields as of `fut.protocols.Value`."""

    value: float
    delta: float
    interval: tuple[float, float] | None
    note: str


Estimates = Callable[[Sequence[Order]], Sequence[Answer]]
Truth = Callable[[Order], "float | None"]
"""The loss of an order that has been retrained; None where it has not."""


@dataclass(frozen=True)
class Entry:
    """One order and what is said of it."""

    name: str
    labels: list[str]
    order: list[Any]
    value: float
    delta: float
    interval: tuple[float, float] | None
    note: str
    truth: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Entry:
        """From its fields in JSON; a value that was not finite comes back as NaN."""
        lost = {name: float("nan") for name in ("value", "delta") if content[name] is None}
        return cls(**{**content, **lost})


@dataclass(frozen=True)
class Difference:
    """The last placement's loss minus the first's; interval: their errors taken as independent; truth where both are known."""

    delta: float
    interval: tuple[float, float] | None
    truth: float | None


@dataclass(frozen=True)
class Placement:
    """A domain or an item at several places. places: of a domain, how many others' items come before it; of an item, its step."""

    name: str
    kind: str
    places: list[int]
    answers: list[Entry]
    late_minus_early: Difference


@dataclass(frozen=True)
class Domains(Displayable):
    """Domain orders and placements; fields as in the module's text."""

    estimator: str
    readout: str
    unit: str
    reference_loss: float
    labels: Labels
    orders: list[Entry]
    placements: list[Placement]
    checked: dict[str, Any] | None
    note: str
    seed: int = 0
    question: str = "domains"

    @property
    def best(self) -> Entry:
        """The domain order of the least estimate; one that is not finite comes last."""
        return self.orders[best([entry.value for entry in self.orders])]

    @property
    def worst(self) -> Entry:
        return self.orders[worst([entry.value for entry in self.orders])]

    def as_dict(self) -> dict[str, Any]:
        return jsonable_fields(asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Domains:
        """From `as_dict`."""
        placements = [
            Placement(
                **p
                | {
                    "answers": [Entry.from_dict(answer) for answer in p["answers"]],
                    "late_minus_early": Difference(**p["late_minus_early"]),
                }
            )
            for p in content["placements"]
        ]
        orders = [Entry.from_dict(entry) for entry in content["orders"]]
        return from_fields(cls, {**content, "orders": orders, "placements": placements})

    def title(self) -> str:
        return f"{self.readout} by the order of {len(self.labels)} domains: {', '.join(self.labels)}"

    def rows(self) -> list[dict[str, Any]]:
        """A row per domain order, then per placement of every domain and item."""
        rows = [_row("order", None, entry) for entry in self.orders]
        return rows + [
            _row(p.kind, at, entry) for p in self.placements for at, entry in zip(p.places, p.answers, strict=True)
        ]

    def units(self) -> dict[str, str]:
        return dict.fromkeys(("value", "delta", "low", "high", "retrained"), self.unit)

    def notes(self) -> list[str]:
        return ["delta: against the reference order, negative is better; low … high: 90 % interval of value", self.note]

    def draw(self, axes: Axes) -> None:
        """Domain orders from the best estimate, on top, to the worst, with their intervals and what is known of their truth."""
        places = range(len(self.orders))
        shown = [self.orders[place] for place in reversed(ranked([entry.value for entry in self.orders]))]
        for y, entry in zip(places, shown, strict=True):
            if entry.interval is not None:
                ends = [value - self.reference_loss for value in entry.interval]
                axes.plot(ends, [y, y], color=COLOURS[0], linewidth=1.5, alpha=0.5)
        axes.plot([e.value - self.reference_loss for e in shown], places, "o", color=COLOURS[0], label="estimated")
        known = [(e.truth - self.reference_loss, y) for y, e in zip(places, shown, strict=True) if e.truth is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "x", color=COLOURS[1], label="retrained")
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(list(places), [entry.name for entry in shown], fontsize="x-small")
        axes.set_xlabel(labelled(f"{self.readout} − reference", self.unit))
        axes.legend(fontsize="small", frameon=False)


def _row(kind: str, place: int | None, entry: Entry) -> dict[str, Any]:
    low, high = entry.interval or (None, None)
    named = {"kind": kind, "name": entry.name, "place": place, "value": entry.value, "delta": entry.delta}
    return named | {"low": low, "high": high, "retrained": entry.truth}


def domains(
    estimate: Estimates,
    estimate_close: Estimates,
    truth: Truth,
    arranged: Sequence[tuple[Sequence[str], Order]],
    moved: Sequence[Moved],
) -> tuple[list[Entry], list[Placement]]:
    """What is said of every domain order, and of every domain and item at its places.

    Args:
        estimate: asked once about all orders that move domains.
        estimate_close: asked once about all orders that move one item.
        truth: of an order, where it is known.
        arranged: domain orders, with the labels in their sequence.
        moved: domains and items at their places.
    """
    orders, close = asked_orders(arranged, moved)
    answers = iter([*estimate(orders), *(estimate_close(close) if close else ())])

    def entry(name: str, labels: Sequence[str], order: Order) -> Entry:
        answer = next(answers)
        about = (answer.value, answer.delta, answer.interval, answer.note)
        return Entry(name, list(labels), order.tolist(), *about, truth(order))

    entries = [entry(">".join(labels), labels, order) for labels, order in arranged]
    placed = []
    for name, kind, places, at in moved:
        entries_at = [entry(f"{name} at {place}", [name], order) for place, order in zip(places, at, strict=True)]
        placed.append(Placement(name, kind, places, entries_at, difference(entries_at[-1], entries_at[0])))
    return entries, placed


def asked_orders(
    arranged: Sequence[tuple[Sequence[str], Order]], moved: Sequence[Moved]
) -> tuple[list[Order], list[Order]]:
    """The orders that `domains` asks about: those that move domains, and those that move one item."""
    of_kind = {kind: [order for m in moved if m.kind == kind for order in m.orders] for kind in ("domain", "item")}
    return [*(order for _, order in arranged), *of_kind["domain"]], of_kind["item"]


def difference(late: Entry, early: Entry) -> Difference:
    """late minus early; half-widths of their intervals add as those of independent errors do."""
    delta, interval, truth = late.value - early.value, None, None
    if late.interval is not None and early.interval is not None:
        (low, high), (least, most) = late.interval, early.interval
        half, centre = float(np.hypot(high - low, most - least) / 2), (low + high - least - most) / 2
        interval = (centre - half, centre + half)
    if late.truth is not None and early.truth is not None:
        truth = late.truth - early.truth
    return Difference(delta, interval, truth)


def compare(
    entries: Sequence[Entry], reference_loss: float, fitted_on: Callable[[Order], bool] = lambda order: False
) -> dict[str, Any] | None:
    """Accuracy of the estimates of the orders whose truth is known, each order once, the reference order aside.

    fitted_on: whether a calibration saw the truth about an order, which is then left out. None for fewer than three.
    """
    different = [e for e in entries if e.truth is not None and e.delta and not fitted_on(Order.of(e.order))]
    known = {str(e.order): (e.truth, e.value, e.interval) for e in different}
    if len(known) < 3:
        return None
    truths, losses, intervals = zip(*known.values(), strict=True)
    measures = accuracy(truths, losses, reference_loss, None if None in intervals else intervals).as_dict()
    return {"count": len(known), "measures": measures}
