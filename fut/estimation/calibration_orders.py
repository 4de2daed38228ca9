"""Which orders are retrained to calibrate an estimator, or to verify it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from estimators.orders.graded import graded_order
from estimators.orders.order import Order, random_order
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint.positions import position_table
from fut.orders.editing import random_edits
from fut.orders.parsing import named_orders
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from fut.methods.context import Context


CHOSEN = "chosen"
"""The kind of calibration orders that lie between the best and the worst by their estimates, with named ones among them."""
NAMED = 3
"""Every how many chosen orders one has a name."""
TRIES = 20
SMALL = 20
"""Items whose orders can be counted."""


def calibration_orders(
    run: Context, count: int, seed: int, kind: str | None = None, readout: str = PROBE
) -> list[Order]:
    """The orders that a calibration retrains; arguments as in `fut.estimation.calibration.calibrate_run`."""
    if kind is None:
        return fresh_orders(run.reference, run.problem.canonical, count, seed, (), "calibrate")
    if kind == CHOSEN:
        return chosen_orders(run, count, seed, readout)
    drawn = random_edits(run.reference, kind, count, seed)
    return [one.apply(run.reference, lambda order, key: order) for one in drawn]


def chosen_orders(run: Context, count: int, seed: int, readout: str) -> list[Order]:
    """Orders as people choose them, each another one: from the best to the worst that the run's table of positions knows, from
    nearly random to extreme, and as every third one an order that has a name, as `sort:loss`.

    Raises:
        UsageError: where the run has no table of the read-out, or too few orders.
    """
    try:
        table = position_table(run, readout)
    except NotCachedError as error:
        raise UsageError(
            f"calibrate: expected a table of positions to choose orders by, got none; leave --chosen out, or make it: {error}"
        ) from error
    canonical = run.problem.canonical
    seen, found = {canonical(run.reference)}, list[Order]()
    names = list(named_orders(run).values())
    named = [names[i] for i in np.random.default_rng([seed, NAMED]).permutation(len(names))]
    graded = count - count // NAMED
    pairs = math.ceil(graded / 2)
    for i in range(graded):
        grade = (i // 2 + 1) / pairs * (-1 if i % 2 == 0 else 1)
        tries = [graded_order(run.reference, table, grade, seed, i, again) for again in range(TRIES)]
        _add_another(tries, found, seen, canonical)
    while len(found) < count and named:
        _add_another([named.pop()], found, seen, canonical)
    for i in range(TRIES * (count - len(found))):  # where too few orders have names
        if len(found) < count:
            _add_another([random_order(run.reference, seed, i)], found, seen, canonical)
    if len(found) < count:
        raise UsageError(
            f"calibrate: expected {count} orders, each another one, got {len(found)}; ask for fewer --orders"
        )
    return found


def _add_another(
    tries: Sequence[Order], found: list[Order], seen: set[Order], canonical: Callable[[Order], Order]
) -> None:
    """Add the first of some orders that trains differently from all before; none where none does."""
    for order in tries:
        if (form := canonical(order)) not in seen:
            seen.add(form)
            found.append(order)
            return


def fresh_orders(
    reference: Order,
    canonical: Callable[[Order], Order],
    count: int,
    seed: int,
    used: Collection[str],
    question: str = "verify",
) -> list[Order]:
    """The first `count` random orders of a seed that train differently from one another and from the reference order, and whose
    digests are not among `used`: none that was calibrated on.

    Args:
        reference: the reference order.
        canonical: order -> the form that is equal for orders that train the same.
        count: how many.
        seed: of the draw.
        used: digests that are left out.
        question: in whose name too few are refused.

    Raises:
        UsageError: for too few.
    """
    items = sum(map(len, reference.steps))
    if items <= SMALL and count >= math.factorial(items):
        raise UsageError(
            f"{question}: expected at most {math.factorial(items) - 1} random orders, as many as {items} items have other than "
            f"the reference order, got {count}; ask for fewer --orders"
        )
    seen, fresh = {canonical(reference)}, list[Order]()
    for i in range(TRIES * count):
        order = random_order(reference, seed, i)
        form = canonical(order)
        if form not in seen and order.digest not in used:
            fresh.append(order)
        seen.add(form)
        if len(fresh) == count:
            return fresh
    raise UsageError(
        f"{question}: expected {count} random orders, each another one, none of them the reference order's or calibrated on; got "
        f"{len(fresh)} among {TRIES * count}; ask for fewer --orders, or calibrate on fewer"
    )
