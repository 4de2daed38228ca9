"""Control variates over samples of coordinates: unbiased, with the variance they state, and tame."""

from __future__ import annotations

import pytest
import torch

from estimators.adjoint import poisson_sample, weighted_sums
from estimators.control_variates import SIGNS, Bounded, control_weights, signed_variance

draw = torch.Generator().manual_seed(7)
VALUES = torch.randn(400, dtype=torch.float64, generator=draw)
TABLE = VALUES + 0.2 * torch.randn(400, dtype=torch.float64, generator=draw)
P = 0.05 + 0.95 * torch.rand(400, dtype=torch.float64, generator=draw) ** 3


def test_estimates_are_unbiased_with_the_variance_that_the_signed_sums_state() -> None:
    found, stated = [], []
    for seed in range(600):
        kept = poisson_sample(P, seed)
        weights = control_weights(P[kept], seed + 10_000)
        sums = weights @ (VALUES - TABLE)[kept]
        found.append(float(sums[0] + TABLE.sum()))
        stated.append(float(signed_variance(sums[1:])))
    errors = torch.tensor(found) - VALUES.sum()
    variance = float(((VALUES - TABLE).square() * (1 - P) / P).sum())
    assert abs(errors.mean()) < 4 * (variance / 600) ** 0.5
    assert abs(errors.var() / variance - 1) < 0.25
    assert abs(torch.tensor(stated).mean() / variance - 1) < 0.1
    assert variance < 0.1 * float((VALUES.square() * (1 - P) / P).sum()), "than without"


@pytest.mark.parametrize("run", [1, 3, 8])
def test_weighted_sums_are_of_runs_of_coordinates(run: int) -> None:
    """The last run is as long as what is left; each weight has a row of its own."""
    contributions = torch.randn(2, 1, 7, dtype=torch.float64, generator=draw)
    weights = torch.randn(3, 7, dtype=torch.float64, generator=draw)
    found = weighted_sums(contributions, weights, run)
    parts = [slice(first, first + run) for first in range(0, 7, run)]
    slow = [[[(c[0] * w)[part].sum() for part in parts] for w in weights] for c in contributions]
    torch.testing.assert_close(found, torch.tensor(slow), rtol=1e-12, atol=1e-14)
    assert weighted_sums(contributions.float(), weights, run).dtype == torch.float32


def test_the_signed_weights_hold_the_variance_of_every_coordinate() -> None:
    """Squared, (1 - p)/p², of which the mean over samples, p times that, is a coordinate's variance; signs are fair."""
    weights = control_weights(P, 11)
    assert torch.equal(weights[0], 1 / P)
    torch.testing.assert_close(weights[1:].square(), ((1 - P) / P.square()).expand(SIGNS, -1), rtol=1e-12, atol=0)
    assert abs(weights[1:].sign().mean()) < 4 / (SIGNS * len(P)) ** 0.5
    assert len(torch.unique(weights[1:].sign(), dim=0)) == SIGNS, "no row of signs twice"


def test_what_is_surely_kept_has_no_variance() -> None:
    weights = control_weights(torch.ones(5, dtype=torch.float64), 3)
    assert weights.shape == (1 + SIGNS, 5)
    assert weights[0].tolist() == [1.0] * 5
    assert not weights[1:].any()
    assert torch.equal(control_weights(P, 4), control_weights(P, 4))
    assert not torch.equal(control_weights(P, 4), control_weights(P, 5))


def test_the_share_is_a_regression_held_between_nothing_and_all() -> None:
    table = torch.tensor([[1.0, 1.0, 2.0, 0.0, 1.0], [2.0, 1.0, -1.0, 0.0, 1.0]])[:, None]  # [n, r, k]
    values = torch.tensor([[0.5, 3.0, -2.0, 1.0, 1.0], [1.0, 3.0, 1.0, 1.0, -1.0]])[:, None]
    largest = torch.tensor([[1.0, 3.0, 2.0, 1.0, 1.0]])
    bounded = Bounded.of(values, table, largest)
    assert bounded.share.tolist() == [[0.5, 1.0, 0.0, 0.0, 0.0]]
    assert bounded.bound.tolist() == [[10.0, 30.0, 20.0, 10.0, 10.0]]
    entries = torch.tensor([[[0.4, -90.0, 1.0, 1.0, 1.0], [-40.0, 2.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    assert bounded(entries).tolist() == [[[0.2, -30.0, 0.0, 0.0, 0.0], [-5.0, 2.0, 0.0, 0.0, 0.0]]]
    part = bounded.part(slice(1, 2))
    assert part(entries[..., 1:2]).tolist() == [[[-30.0], [2.0]]]
