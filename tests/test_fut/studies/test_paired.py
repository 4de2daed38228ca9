"""Paired effects against the textbook's formulas, and their intervals against simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from fut.studies.paired import paired_effect

VALUES = [0.4, -0.1, 0.3, 0.5, 0.2, 0.6]


def test_mean_interval_and_sd_are_those_of_a_one_sample_t_test() -> None:
    found = paired_effect(VALUES)
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(VALUES))
    assert found.sd == pytest.approx(np.std(VALUES, ddof=1))
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_the_sign_flip_test_counts_all_signs() -> None:
    seen = abs(sum(VALUES))
    sums = [abs(sum(s * v for s, v in zip(signs, VALUES, strict=True))) for signs in product((1, -1), repeat=6)]
    assert paired_effect(VALUES).p_value == pytest.approx(np.mean([s >= seen - 1e-12 for s in sums]))


@pytest.mark.parametrize("count", [2, 5, 6, 16])
def test_the_least_p_value_is_reached_where_all_signs_agree(count: int) -> None:
    found = paired_effect([1.0 + i for i in range(count)])
    assert found.p_value == found.least_p_value == 2.0 ** (1 - count)


def test_many_seeds_draw_their_signs() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 40)
    exact = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    ).pvalue
    assert paired_effect(list(values)).p_value == pytest.approx(exact, abs=0.01)


def test_one_pair_has_no_interval_and_no_test() -> None:
    found = paired_effect([0.2])
    assert (found.sd, found.interval, found.bootstrap, found.p_value) == (None, None, None, None)


@pytest.mark.parametrize("bad", [[], [float("nan")], [[1.0, 2.0]]])
def test_what_is_no_list_of_differences_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="paired effect: expected"):
        paired_effect(bad)


def test_the_t_interval_holds_and_the_bootstrap_holds_too_seldom() -> None:
    """Five pairs of a normal law: 0.95 are claimed, the percentile bootstrap holds about 0.83."""
    draw, held, boot = np.random.default_rng(0), 0, 0
    for _ in range(400):
        found = paired_effect(list(draw.normal(0, 1, 5)))
        assert found.interval is not None
        assert found.bootstrap is not None
        held += found.interval[0] <= 0 <= found.interval[1]
        boot += found.bootstrap[0] <= 0 <= found.bootstrap[1]
    assert 0.92 <= held / 400 <= 0.98
    assert 0.76 <= boot / 400 <= 0.89
