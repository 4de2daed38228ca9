"""Random subsets and the linear datamodeling score, on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from leave_out import additive

from fut.estimation.accuracy import accuracy
from fut.questions.accuracy.leave_out import random_subsets


def test_subsets_are_seeded_uniform_and_of_one_size() -> None:
    found = random_subsets(50, 400, 0.1, seed=3)
    assert found[:7] == random_subsets(50, 7, 0.1, seed=3), "a subset depends on its number and the seed alone"
    assert found != random_subsets(50, 400, 0.1, seed=4)
    assert {len(set(s)) for s in found} == {5}
    counts = np.bincount(np.concatenate(found), minlength=50)
    assert len(counts) == 50
    assert np.abs(counts - 40).max() < 4.5 * np.sqrt(40 * 0.9)
    assert [len(s) for s in random_subsets(4, 2, 0.01, 0)] == [1, 1]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 0.99])
def test_a_share_must_leave_something_out_and_something_in(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share between 0 and 1 of 10 items"):
        random_subsets(10, 3, share, 0)


def test_the_score_is_a_rank_correlation_with_an_interval() -> None:
    true = np.linspace(0, 1, 40) ** 3

    def lds(true: np.ndarray, estimated: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
        measures = accuracy(true, estimated, float(true.mean()))
        return measures.spearman, measures.spearman_interval

    assert lds(true, np.exp(5 * true)) == (pytest.approx(1.0), (pytest.approx(1.0), pytest.approx(1.0)))
    assert lds(true, -true)[0] == pytest.approx(-1.0)
    assert lds(true, np.zeros(40)) == (None, None)
    noisy = true + np.random.default_rng(0).normal(0, 0.2, 40)
    score, interval = lds(true, noisy)
    assert score is not None
    assert interval is not None
    assert interval[0] < score < interval[1]
    assert 0.05 < interval[1] - interval[0] < 0.6


def test_attributions_add_up_over_all_steps_of_an_item() -> None:
    table = np.array([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    assert additive(table, [(0, 1), (2, 3), (0, 1)], (1, 2)) == -(2 + 4 + 32)
