"""How far an order is from the reference: against every permutation, and for orders that are none."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from estimators.intervals import calibrate
from estimators.orders.distance import Distance
from estimators.orders.order import Order


@pytest.mark.parametrize("steps", [2, 5, 6])
def test_permutations_are_on_average_as_far_as_said(steps: int) -> None:
    distance = Distance(Order.of(range(steps)))
    found = [distance(Order.of(p)) for p in permutations(range(steps))]
    assert np.mean(found) == pytest.approx(1.0)
    assert found[0] == 0
    assert min(found[1:]) > 0
    assert found[-1] == max(found), "the reverse is as far as can be"


def test_it_is_spearmans_footrule_of_steps() -> None:
    distance, mean = Distance(Order.of(range(9))), (9**2 - 1) / 3
    draw = np.random.default_rng(2)
    for order in (draw.permutation(9).tolist() for _ in range(20)):  # the quick way and the other
        weighted = [[(item, 2.0)] for item in order]
        slow = Distance(Order.of_entries([(item, 2.0)] for item in range(9)))
        assert distance(Order.of(order)) == pytest.approx(slow(Order.of_entries(weighted)))
    assert distance(Order.of([0, 7, 2, 3, 4, 5, 6, 1, 8])) == pytest.approx(12 / mean)
    assert distance(Order.of([1, 2, 3, 0, 4, 5, 6, 7, 8])) == pytest.approx(6 / mean)
    pairs = Distance(Order.of([[0, 1], [2, 3], [4, 5]]))
    assert pairs(Order.of([[1, 0], [3, 2], [5, 4]])) == 0, "places within a step are none"
    assert pairs(Order.of([[2, 1], [0, 3], [4, 5]])) == pytest.approx(2 / (6 * 8 / 9))


def test_what_is_left_out_or_repeated_counts_by_its_weight() -> None:
    distance, mean = Distance(Order.of(range(6))), 35 / 3
    weighted = [[(i, 1.0 if i != 3 else 0.25)] for i in range(6)]
    assert distance(Order.of_entries(weighted)) == pytest.approx(0.75 * 6 / mean)
    assert distance(Order.of([0, 1, 2, 2, 4, 5])) == pytest.approx(2 * 6 / mean), "one gone, one more"
    assert distance(Order.of([0, 1, 2, 3, 4, 5, 0])) == pytest.approx(6 / mean)
    assert Distance(Order.of([0]))(Order.of([1])) == 1.0
    assert distance.share(Order.of([5, 4, 3, 2, 1, 0])) == 1.0
    assert distance.share(Order.of([1, 0, 2, 3, 4, 5])) == pytest.approx(2 * 2 / mean)


def test_a_calibration_keeps_the_reference_where_it_is() -> None:
    """Nearer orders have less of the common offset, and of the variance: none at all where the value is known."""
    draw = np.random.default_rng(0)
    guess = 2.0 + 0.1 * draw.standard_normal(9)
    fit, reference = calibrate((0.5 + 0.9 * guess + 0.01 * draw.standard_normal(9)).tolist(), guess.tolist()), 1.95
    there, half, far = (fit.nearer(reference, share) for share in (0.0, 0.5, 1.0))
    assert far.correct(2.2) == pytest.approx(fit.correct(2.2))
    assert far.interval(2.2) == pytest.approx(fit.interval(2.2))
    assert there.correct(reference) == pytest.approx(reference)
    assert there.interval(reference) == pytest.approx((reference, reference))
    assert half.correct(2.2) == pytest.approx((fit.correct(2.2) + there.correct(2.2)) / 2)
    widths = [np.ptp(fit.nearer(reference, share).interval(2.2)) for share in (1.0, 0.5, 0.25, 0.125)]
    assert np.array(widths) == pytest.approx(widths[0] * np.array([1, 1, 2**-0.5, 0.5]))
    assert there.correct(2.2) - there.correct(2.1) == pytest.approx(0.1 * fit.slope)
