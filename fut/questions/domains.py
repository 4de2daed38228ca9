"""Domain order: items carry labels; what do the order of whole domains, and the place of one of them or of one item, change?

A *domain order* trains on one domain after another, each in the reference order's own sequence; steps keep their lengths. A
*placement* moves one domain as a block, or one item, from first to last among all others, which keep their order. All
answers come from an `estimate(orders)` callable.

`Domains.as_dict()`, as it is kept in `RUN/answers/domains-<key>.json`:

    question             "domains"
    estimator, readout, unit, reference_loss
    labels               {label: [items]}
    orders               [{name "web>books>code", labels [..], order [..], loss, delta, interval [low, high] or null, note,
                           truth (loss really retrained) or null}]
    placements           [{name, kind "domain" or "item", places [..] (first place or step), answers [as an entry of orders],
                           late_minus_early {delta, interval or null, truth or null}}]
    checked              {count, measures} of the retrained orders, or null: see `fut.questions.verify.accuracy`
    seed, note

Losses in the read-out's unit; `delta` against the reference order, negative is better for a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, permutations
from math import factorial
from typing import Any, Protocol

import numpy as np

from estimators.order import Order

from ..answers import jsonable
from ..errors import UsageError
from .cells import with_item_at
from .labels import Labels
from .verify import accuracy

QUESTION = "domains"
TRIES = 50


class Answer(Protocol):
    """What is said about one order: `fut.Estimate` is one."""

    @property
    def loss(self) -> float: ...
    @property
    def delta(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def note(self) -> str: ...


Estimates = Callable[[Sequence[Order]], Sequence[Answer]]
Truth = Callable[[Order], "float | None"]
"""The loss of an order that has really been trained; None where it has not."""


@dataclass(frozen=True)
class Entry:
    """One order and what is said of it."""

    name: str
    labels: list[str]
    order: list[Any]
    loss: float
    delta: float
    interval: tuple[float, float] | None
    note: str
    truth: float | None = None


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
class Domains:
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
    question: str = QUESTION

    @property
    def best(self) -> Entry:
        """The domain order of the least estimated loss."""
        return min(self.orders, key=lambda entry: entry.loss)

    @property
    def worst(self) -> Entry:
        return max(self.orders, key=lambda entry: entry.loss)

    def as_dict(self) -> dict[str, Any]:
        return jsonable({"question": self.question} | asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Domains:
        """From `as_dict`."""
        placements = [
            Placement(
                p["name"],
                p["kind"],
                p["places"],
                [_entry(a) for a in p["answers"]],
                Difference(**p["late_minus_early"]),
            )
            for p in content["placements"]
        ]
        rest = {k: content[k] for k in cls.__dataclass_fields__ if k in content}
        return cls(**rest | {"orders": [_entry(o) for o in content["orders"]], "placements": placements})


def _entry(content: Mapping[str, Any]) -> Entry:
    return Entry(**content)


# --- orders


def domain_order(reference: Order, labels: Labels, arrangement: Sequence[str]) -> Order:
    """The reference order's items domain by domain, each domain in the reference order's sequence; steps keep their lengths.

    UsageError unless the arrangement names every label once.
    """
    if sorted(arrangement) != sorted(labels):
        raise UsageError(
            f"domains: expected every label once, in some order of {', '.join(labels)}, got {', '.join(arrangement) or 'none'}; "
            "correct --orders"
        )
    rank = {item: arrangement.index(label) for label, items in labels.items() for item in items}
    return _refilled(reference, sorted(_pairs(reference), key=lambda pair: rank[pair[0]]))


def placed_block(reference: Order, items: Sequence[int], place: int) -> Order:
    """The items together, after `place` of all others; everything else in the reference order's sequence."""
    block = set(items)
    rest = [pair for pair in _pairs(reference) if pair[0] not in block]
    return _refilled(reference, [*rest[:place], *_pairs_of(reference, items), *rest[place:]])


def arrangements(labels: Sequence[str], most: int, seed: int) -> list[tuple[str, ...]]:
    """All orders of the labels, or `most` of them: the given one, its reverse, and others drawn from the seed."""
    if factorial(len(labels)) <= most:
        return list(permutations(labels))
    draw = np.random.default_rng([seed, 53])
    drawn = (tuple(labels[i] for i in draw.permutation(len(labels))) for _ in range(TRIES * most))
    return list(islice(dict.fromkeys([tuple(labels), tuple(labels)[::-1], *drawn]), most))


def _pairs(reference: Order) -> list[tuple[int, float]]:
    return [pair for step in reference.entries for pair in step]


def _pairs_of(reference: Order, items: Sequence[int]) -> list[tuple[int, float]]:
    block = set(items)
    return [pair for pair in _pairs(reference) if pair[0] in block]


def _refilled(reference: Order, pairs: Sequence[tuple[int, float]]) -> Order:
    left = iter(pairs)
    return Order.of_entries([next(left) for _ in step] for step in reference.steps)


# --- answers


def domains(
    estimate: Estimates,
    estimate_close: Estimates,
    truth: Truth,
    reference: Order,
    labels: Labels,
    chosen: Sequence[Sequence[str]],
    items: Sequence[int],
    places: int,
) -> tuple[list[Entry], list[Placement]]:
    """Every chosen domain order, every domain at `places` evenly spread places, every item of `items` at every step.

    estimate: asked once about all orders that move domains; estimate_close: once about all that move one item.
    """
    blocks = [_domain_moved(reference, label, of, places) for label, of in labels.items()]
    single = [_item_moved(reference, item) for item in items]
    orders = [domain_order(reference, labels, arranged) for arranged in chosen]
    orders += [order for _, _, _, of in blocks for order in of]
    close = [order for _, _, _, of in single for order in of]
    answers = [*estimate(orders), *(estimate_close(close) if close else ())]
    said = iter(list(zip([*orders, *close], answers, strict=True)))
    entries = [_said(">".join(arranged), list(arranged), *next(said), truth) for arranged in chosen]
    placed = []
    for name, kind, at, _ in [*blocks, *single]:
        found = [_said(f"{name} at {place}", [name], *next(said), truth) for place in at]
        placed.append(Placement(name, kind, at, found, difference(found[-1], found[0])))
    return entries, placed


Moved = tuple[str, str, list[int], list[Order]]
"""Name, kind, places, and the orders that have it there."""


def _domain_moved(reference: Order, label: str, items: Sequence[int], places: int) -> Moved:
    others = len(_pairs(reference)) - len(_pairs_of(reference, items))
    at = sorted(set(np.linspace(0, others, max(places, 2)).round().astype(int).tolist()))
    return label, "domain", at, [placed_block(reference, items, place) for place in at]


def _item_moved(reference: Order, item: int) -> Moved:
    at = list(range(len(reference)))
    return f"item {item}", "item", at, [with_item_at(reference, item, step) for step in at]


def _said(name: str, labels: list[str], order: Order, answer: Answer, truth: Truth) -> Entry:
    return Entry(name, labels, order.tolist(), answer.loss, answer.delta, answer.interval, answer.note, truth(order))


def difference(late: Entry, early: Entry) -> Difference:
    """late minus early; half-widths of their intervals add as those of independent errors do."""
    delta, interval, truth = late.loss - early.loss, None, None
    if late.interval is not None and early.interval is not None:
        (low, high), (least, most) = late.interval, early.interval
        half, centre = float(np.hypot(high - low, most - least) / 2), (low + high - least - most) / 2
        interval = (centre - half, centre + half)
    if late.truth is not None and early.truth is not None:
        truth = late.truth - early.truth
    return Difference(delta, interval, truth)


def compare(entries: Sequence[Entry], reference_loss: float) -> dict[str, Any] | None:
    """Accuracy of the estimates of the orders whose truth is known, each order once, the reference order aside.

    None for fewer than three.
    """
    known = {str(e.order): (e.truth, e.loss, e.interval) for e in entries if e.truth is not None and e.delta}
    if len(known) < 3:
        return None
    truths, losses, intervals = zip(*known.values(), strict=True)
    found = accuracy(truths, losses, reference_loss, None if None in intervals else intervals).as_dict()
    return {"count": len(known), "measures": found}
