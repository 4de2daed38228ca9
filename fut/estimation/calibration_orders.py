"""Which orders are retrained to calibrate an estimator, or to verify it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from estimators.orders.graded import graded_order
from estimators.orders.order import Order, random_order
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint.positions import position_table
from fut.orders.editing import random_edits
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from fut.methods.context import Context


CHOSEN = "chosen"
"""The kind of calibration orders that lie between the best and the worst by their estimates."""
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
        return graded_orders(run, count, seed, readout)
    drawn = random_edits(run.reference, kind, count, seed)
    return [one.apply(run.reference, lambda order, key: order) for one in drawn]


def graded_orders(run: Context, count: int, seed: int, readout: str) -> list[Order]:
    """Orders from the best to the worst that the run's table of positions knows, every other one good, from nearly random to
    extreme, each another one.

    Raises:
        UsageError: where the run has no table of the read-out, or too few orders.
    """
    try:
        table = position_table(run, readout)
    except NotCachedError as error:
        raise UsageError(
            f"calibrate: expected a table of positions to choose orders by, got none; leave --chosen out, or make it: {error}"
        ) from error
    pairs, seen, found = math.ceil(count / 2), {run.problem.canonical(run.reference)}, list[Order]()
    for i in range(count):
        grade = (i // 2 + 1) / pairs * (-1 if i % 2 == 0 else 1)
        for again in range(TRIES):
            order = graded_order(run.reference, table, grade, seed, i, again)
            if run.problem.canonical(order) not in seen:
                break
        else:
            raise UsageError(
                f"calibrate: expected {count} chosen orders, each another one, got {i}; ask for fewer --orders"
            )
        seen.add(run.problem.canonical(order))
        found.append(order)
    return found


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
