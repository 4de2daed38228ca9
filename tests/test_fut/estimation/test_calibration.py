"""What a calibration says of an order: its sampling error beyond the calibration's own, and its distance from the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fut
from estimators.intervals import calibrate, calibrate_anchored
from estimators.orders.distance import Distance
from estimators.orders.order import Order, random_order
from fut.errors import UsageError
from fut.estimation.calibration import Calibrated
from fut.estimation.calibration_orders import CHOSEN, TRIES, calibration_orders, fresh_orders
from fut.estimation.results import estimated
from fut.methods.adjoint.positions import position_table
from fut.orders.parsing import named_orders

REFERENCE, VARIANCE = 2.1, 3e-4
DRAW = np.random.default_rng(2)
GUESS = 2.0 + 0.05 * DRAW.normal(size=9)
TRUE = 0.3 + 0.9 * GUESS + 0.01 * DRAW.normal(size=9)
ORDER = Order.of([3, 1, 2, 0])


class Named(NamedTuple):
    """A read-out, of which a figure only says the name and the unit."""

    name: str = "probe"
    unit: str = "nats/token"


def calibrated(edit: str | None = None) -> Calibrated:
    true, guess, anchor = TRUE.tolist(), GUESS.tolist(), None if edit is None else REFERENCE
    fit = calibrate(true, guess) if anchor is None else calibrate_anchored(true, guess, anchor)
    return Calibrated(fit, "adjoint", [], [], true, guess, VARIANCE, 0, edit=edit, anchor=anchor)


def answer(fit: Calibrated, variance: float, share: float) -> Any:
    return estimated(ORDER, "adjoint", 2.03, variance, REFERENCE, fit, Named(), share=share)  # type: ignore[arg-type]


def test_only_the_sampling_variance_beyond_the_calibrations_own_widens_an_interval() -> None:
    """Its residuals hold their own sampling error already; where an order has less, the interval stays."""
    found = calibrated()
    for variance, excess in ((0.0, 0.0), (VARIANCE, 0.0), (VARIANCE / 2, 0.0), (VARIANCE + 4e-4, 4e-4)):
        expected = found.fit.interval(2.03, excess)
        assert found.interval(2.03, variance) == pytest.approx(expected, rel=1e-12)
        assert answer(found, variance, 1.0).interval == pytest.approx(expected, rel=1e-12)
    assert np.ptp(found.fit.interval(2.03, 4e-4)) > 1.5 * np.ptp(found.fit.interval(2.03))


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.9])
def test_an_order_near_the_reference_has_its_share_of_offset_and_variances(share: float) -> None:
    """Of the offset the share, of both variances, residual and sampling, twice that, up to all."""
    found, part = calibrated(), min(1.0, 2 * share)
    near = found.nearer(REFERENCE, share)
    offset = found.fit.correct(REFERENCE) - REFERENCE
    assert abs(offset) > 0.05
    assert near.fit.correct(2.03) == pytest.approx(found.fit.correct(2.03) - (1 - share) * offset, rel=1e-12)
    assert near.fit.sd**2 == pytest.approx(part * found.fit.sd**2, rel=1e-12)
    assert near.interval(2.03, part * VARIANCE) == pytest.approx(near.fit.interval(2.03), rel=1e-12)
    assert near.interval(2.03, part * VARIANCE + 4e-4) == pytest.approx(near.fit.interval(2.03, 4e-4), rel=1e-12)
    said = answer(found, VARIANCE, share)
    assert said.value == near.fit.correct(2.03)
    assert said.delta == pytest.approx(said.value - REFERENCE, rel=1e-12)
    assert said.interval == near.interval(2.03, VARIANCE)
    assert f"{100 * share:.0f} % of the calibration offset" in said.note
    assert ("a narrower interval" in said.note) == (share < 0.5)


def test_random_orders_and_single_edits_are_answered_by_the_calibration_as_it_is() -> None:
    """A fit to single edits passes through the reference already: their distance is in it."""
    for found, share in ((calibrated(), 1.0), (calibrated(), 1.7), (calibrated("swap"), 0.1)):
        assert found.nearer(REFERENCE, share) is found
        said = answer(found, VARIANCE, share)
        assert said.value == found.fit.correct(2.03)
        assert said.interval == found.fit.interval(2.03)
        assert "close to the reference" not in said.note
    assert calibrated("swap").fit.correct(REFERENCE) == pytest.approx(REFERENCE)


def test_the_share_of_an_order_is_twice_its_distance_up_to_all() -> None:
    distance = Distance(Order.of(range(9)))
    orders = [Order.of(o) for o in ([1, 0, *range(2, 9)], [4, 1, 2, 3, 0, *range(5, 9)], range(8, -1, -1))]
    shares = [distance.share(order) for order in orders]
    assert shares == pytest.approx([2 * 2 / (80 / 3), 2 * 8 / (80 / 3), 1.0])


def test_a_table_has_every_retrained_order_with_its_interval() -> None:
    found = replace(calibrated(), orders=[[0, 1]] * 9, digests=[f"{i}" * 20 for i in range(9)])
    rows = found.rows()
    for i, row in enumerate(rows):
        low, high = found.fit.interval(GUESS[i])
        expected = {
            "true": TRUE[i],
            "estimate": GUESS[i],
            "calibrated": found.fit.correct(GUESS[i]),
            "low": low,
            "high": high,
        }
        assert row["order"] == f"{i}" * 12
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert set(found.units()) == set(rows[0]) - {"order"}
    assert set(found.units().values()) == {"nats/token"}
    written = found.as_dict()
    assert (written["offset"], written["slope"]) == (found.fit.offset, found.fit.slope)
    assert (written["residual_sd"], written["degrees_of_freedom"], written["level"]) == (found.fit.sd, 7, 0.9)
    assert (written["true_losses"], written["estimated_losses"]) == (found.truths, found.estimates)
    assert (written["digests"], written["orders"], written["seed"]) == (found.digests, found.orders, 0)
    assert (written["sampling_variance"], written["edit"], written["readout"]) == (VARIANCE, None, "probe")
    assert f"sd {found.fit.sd:.2g} nats/token on 7 degrees of freedom" in found.notes()[0]
    assert found.title() == f"adjoint of probe: truth = {found.fit.offset:+.5f} {found.fit.slope:+.4f} × estimate"
    assert found.fitted_on == "9 retrained orders"
    assert calibrated("swap").fitted_on == "9 retrained orders, each one `swap` away from the reference"


def test_fresh_orders_are_the_first_of_a_seed_that_train_anew() -> None:
    """Not the reference order, no two that train the same, and none that was used."""
    reference = Order.of(range(4))
    drawn = [random_order(reference, 3, i) for i in range(200)]
    different = [order for order in dict.fromkeys(drawn) if order != reference]
    assert fresh_orders(reference, Order.canonical, 6, 3, ()) == different[:6]
    used = {different[0].digest, different[4].digest}
    assert fresh_orders(reference, Order.canonical, 6, 3, used) == [different[k] for k in (1, 2, 3, 5, 6, 7)]

    def halves(order: Order) -> Order:
        """As if items 0 and 1 were equal, and 2 and 3."""
        return Order.of([int(item > 1) for (item,) in order.steps])

    found = fresh_orders(reference, halves, 5, 3, ())
    assert len({halves(order) for order in found} | {halves(reference)}) == 6, "all that there are"
    with pytest.raises(UsageError, match=f"mine: expected 6 random orders.* got 5 among {TRIES * 6}"):
        fresh_orders(reference, halves, 6, 3, (), "mine")


def test_chosen_orders_reach_from_the_best_to_the_worst_and_have_named_ones_among_them(small_run: fut.Run) -> None:
    run = small_run.context
    orders, table = calibration_orders(run, 12, 5, CHOSEN), position_table(run)
    assert len({run.problem.canonical(order) for order in orders} - {run.problem.canonical(run.reference)}) == 12
    steps = np.arange(run.steps)
    worth = [float(table[steps, [item for (item,) in order.steps]].sum()) for order in orders[:8]]
    assert max(worth[0::2]) <= min(worth[1::2]), "good and bad in turn"
    names = {run.problem.canonical(order) for order in named_orders(run).values()}
    assert any(run.problem.canonical(order) in names for order in orders[8:])
    assert orders == calibration_orders(run, 12, 5, CHOSEN)


def test_a_calibration_on_chosen_orders_answers_whole_orders_and_says_where_it_extrapolates(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    plain = run.calibrate(4)
    (before,) = run.estimate(["reverse"], known=False)
    found = run.calibrate(14, chosen=True)
    (after,) = run.estimate(["reverse"], known=False)
    assert "calibrated on 4 retrained orders" in before.note
    assert "calibrated on 14 retrained orders, from the best to the worst by their estimates" in after.note
    assert (plain.chosen, found.chosen, found.kind) == (False, True, "chosen")
    assert after.value != before.value
    true, guess = np.array(found.truths), np.array(found.estimates)
    assert found.fit.correct(guess[0]) == pytest.approx(np.polyval(np.polyfit(guess, true, 2), guess[0]), rel=1e-6)
    widest = max(found.estimates)
    said = estimated(ORDER, "adjoint", widest + 1.0, 0.0, REFERENCE, found, Named())  # type: ignore[arg-type]
    assert said.extrapolated
    assert "outside the range" in said.note
    assert not after.extrapolated or "outside the range" in after.note


def test_chosen_orders_need_enough_of_them_and_no_edit(small_run: fut.Run) -> None:
    with pytest.raises(UsageError, match="expected at least 12 orders with `chosen`, got 8"):
        small_run.calibrate(8, chosen=True)
    with pytest.raises(UsageError, match="expected `chosen` or `edit`, got both"):
        small_run.calibrate(16, chosen=True, edit="swap")
