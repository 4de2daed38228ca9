"""Orders of labelled blocks: domain after domain, one domain or one item among all others; steps keep their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, permutations
from math import factorial

import numpy as np

from estimators.orders.order import Order
from fut.data.labels import Labels
from fut.errors import UsageError
from fut.orders.editing import with_item_at

TRIES = 50
Moved = tuple[str, str, list[int], list[Order]]
"""Name, kind, places, and the orders that have it there."""


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


def domain_moved(reference: Order, label: str, items: Sequence[int], places: int) -> Moved:
    """A domain as a block at `places` evenly spread places among all others, the first and the last among them."""
    others = len(_pairs(reference)) - len(_pairs_of(reference, items))
    at = sorted(set(np.linspace(0, others, max(places, 2)).round().astype(int).tolist()))
    return label, "domain", at, [placed_block(reference, items, place) for place in at]


def item_moved(reference: Order, item: int) -> Moved:
    """One item at every step."""
    at = list(range(len(reference)))
    return f"item {item}", "item", at, [with_item_at(reference, item, step) for step in at]


def _pairs(reference: Order) -> list[tuple[int, float]]:
    return [pair for step in reference.entries for pair in step]


def _pairs_of(reference: Order, items: Sequence[int]) -> list[tuple[int, float]]:
    block = set(items)
    return [pair for pair in _pairs(reference) if pair[0] in block]


def _refilled(reference: Order, pairs: Sequence[tuple[int, float]]) -> Order:
    left = iter(pairs)
    return Order.of_entries([next(left) for _ in step] for step in reference.steps)
