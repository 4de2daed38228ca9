"""The order effect: its spread and the spread's interval, on numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from fut.studies.noise.spread import order_effect


def test_figures_of_a_known_list() -> None:
    found = order_effect([1.0, 2.0, 3.0, 6.0], 2.5)
    assert (found.count, found.mean, found.offset, found.better) == (4, 3.0, 0.5, 0.5)
    assert found.sd == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    assert (found.lowest, found.highest) == (1.0, 6.0)
    assert found.as_dict()["sd_interval"] == list(found.sd_interval)


def test_the_interval_of_the_spread_covers_as_it_says() -> None:
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = order_effect(draw.normal(2.0, 0.3, 12), 2.0).sd_interval
        inside += low <= 0.3 <= high
    assert 0.86 < inside / 400 < 0.94


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_has_no_spread_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="n >= 2 finite values"):
        order_effect(values, 0.0)
