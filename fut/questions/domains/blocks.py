"""Orders of labelled blocks: domain after domain, one domain or one item among all others; steps keep their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, permutations
from math import factorial
from typing import NamedTuple

import numpy as np

from estimators.orders.order import Order
from fut.data.labels import Labels
from fut.errors import UsageError
from fut.orders.editing import with_item_at

TRIES = 50


class Moved(NamedTuple):
    """A domain or an item at several places: the orders that have it there."""

    name: str
    kind: str
    places: list[int]
    orders: list[Order]


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
    block = [pair for pair in _pairs(reference) if pair[0] in items]
    rest = [pair for pair in _pairs(reference) if pair[0] not in items]
    return _refilled(reference, [*rest[:place], *block, *rest[place:]])


def arrangements(labels: Sequence[str], most: int, seed: int) -> list[tuple[str, ...]]:
    """All orders of the labels, or `most` of them: the given one, its reverse, and others drawn from the seed."""
    if factorial(len(labels)) <= most:
        return list(permutations(labels))
    draw = np.random.default_rng([seed, 53])
    drawn = (tuple(labels[i] for i in draw.permutation(len(labels))) for _ in range(TRIES * most))
    return list(islice(dict.fromkeys([tuple(labels), tuple(labels)[::-1], *drawn]), most))


def placements(reference: Order, labels: Labels, items: Sequence[int], count: int) -> list[Moved]:
    """Every domain as a block at `count` evenly spread places among all others, from first to last; every item at every step."""
    moved, steps = [], list(range(len(reference)))
    for label, domain in labels.items():
        others = sum(item not in domain for item, _ in _pairs(reference))
        places = sorted(set(np.linspace(0, others, max(count, 2)).round().astype(int).tolist()))
        moved.append(Moved(label, "domain", places, [placed_block(reference, domain, place) for place in places]))
    at_steps = {item: [with_item_at(reference, item, step) for step in steps] for item in items}
    return moved + [Moved(f"item {item}", "item", steps, orders) for item, orders in at_steps.items()]


def _pairs(reference: Order) -> list[tuple[int, float]]:
    return [pair for step in reference.entries for pair in step]


def _refilled(reference: Order, pairs: Sequence[tuple[int, float]]) -> Order:
    left = iter(pairs)
    return Order.of_entries([next(left) for _ in step] for step in reference.steps)
