"""What a calibration says of an order: its sampling error beyond the calibration's own, and its distance from the reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from estimators.intervals import calibrate, calibrate_anchored
from estimators.orders.distance import Distance
from estimators.orders.order import Order
from fut.estimation.calibration import Calibrated
from fut.estimation.results import estimated

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
