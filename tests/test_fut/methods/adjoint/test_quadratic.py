"""The quadratic term of an order from its table of functionals: written out, and unbiased over samples of coordinates."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import OrderBatch
from fut.methods.adjoint.quadratic import Bend

SIGNS = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
KNOWN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
ASKED, MEMBERS = Order.of([1]), [Order.of([2]), Order.of([3])]
DRAW = torch.Generator().manual_seed(6)
CONTRIBUTIONS = torch.randn(3, 5, dtype=torch.float64, generator=DRAW)
"""What the asked order adds to each of three functionals, coordinate by coordinate [m, k]."""
ADDED = torch.tensor([[0.8, -0.4, 0.1], [-0.5, 0.9, 0.3]], dtype=torch.float64)
"""What the members add, as it is estimated [c, m]."""
P = torch.tensor([0.3, 0.9, 0.5, 1.0, 0.6], dtype=torch.float64)


def bend(gain: float | None, kept: Tensor | None = None) -> Bend:
    """A window of one step, with the reference order's item, the asked order's, and those of two members of an ensemble.

    gain: how much of what is estimated of the members is true; None for a mixture, which has none.
    kept: which coordinates are in the sample [k]; what is known of the variance is said by four sums that are alike.
    """
    table = torch.zeros(1, 3, 1 if kept is None else 5, 4, dtype=torch.float64)
    table[0, :, 0, 1] = CONTRIBUTIONS.sum(-1) if kept is None else (CONTRIBUTIONS / P)[:, kept].sum(-1)
    table[0, :, 0, 2:] = ADDED.T
    if kept is not None:
        variance = (CONTRIBUTIONS.square() * (1 - P) / P.square())[:, kept].sum(-1)
        table[0, :, 1:, 1] = variance.sqrt()[:, None]
    own = torch.zeros(0, 3).double() if gain is None else KNOWN + gain * ADDED
    return Bend(table, Order.of([0]), SIGNS, KNOWN, [] if gain is None else MEMBERS, own)


def read(made: Bend, order: Order = ASKED) -> tuple[float, float]:
    change, variance = made.read(made.looked_up(OrderBatch.pack([order])))
    return change.item(), variance.item()


def change(gain: float) -> float:
    """½ sum s c² beyond the reference order's, with functionals of which a share is taken."""
    values = KNOWN + gain * CONTRIBUTIONS.sum(-1)
    return 0.5 * (SIGNS * (values.square() - KNOWN.square())).sum().item()


@pytest.mark.parametrize("gain", [None, 1.0, 0.4, 0.0])
def test_the_term_is_half_the_squares_with_as_much_as_the_members_confirm(gain: float | None) -> None:
    found, variance = read(bend(gain))
    assert found == pytest.approx(change(1.0 if gain is None else gain), rel=1e-12)
    assert variance == 0
    assert read(bend(gain), Order.of([0])) == (0.0, 0.0)


@pytest.mark.parametrize(("true", "taken"), [(1.8, 1.0), (-0.6, 0.0)])
def test_the_gain_is_held_between_nothing_and_all(true: float, taken: float) -> None:
    assert bend(true).response.gain == taken


def test_a_gain_of_members_is_the_regression_about_their_mean() -> None:
    own = KNOWN + torch.tensor([[0.5, -0.1, 0.2], [-0.1, 0.4, 0.3]], dtype=torch.float64)
    made = Bend(bend(1.0).table, Order.of([0]), SIGNS, KNOWN, MEMBERS, own)
    true, guess = torch.cat([KNOWN[None], own]), torch.cat([torch.zeros(1, 3).double(), ADDED])
    true, guess = true - true.mean(0), guess - guess.mean(0)
    slope = ((true * guess).sum() / guess.square().sum()).item()
    assert 0.1 < slope < 0.9
    assert made.response.gain == pytest.approx(slope, rel=1e-12)
    assert made.response.mean.tolist() == pytest.approx((KNOWN + (own - KNOWN).sum(0) / 3).tolist(), rel=1e-12)
    assert made.response.origin.tolist() == pytest.approx((ADDED.sum(0) / 3).tolist(), rel=1e-12)


@pytest.mark.parametrize("gain", [None, 1.0, 0.4])
def test_the_term_of_a_sample_is_unbiased_and_states_its_variance_to_first_order(gain: float | None) -> None:
    """Over all samples of five coordinates: what sampling adds to the squares is taken off, with the square of the gain."""
    total, share = 0.0, 1.0 if gain is None else gain
    for held in itertools.product((False, True), repeat=len(P)):
        kept = torch.tensor(held)
        found, variance = read(bend(gain, kept))
        total += torch.where(kept, P, 1 - P).prod().item() * found
        values = KNOWN + share * (CONTRIBUTIONS / P)[:, kept].sum(-1)
        spread = (CONTRIBUTIONS.square() * (1 - P) / P.square())[:, kept].sum(-1).sqrt()
        assert variance == pytest.approx((share * (SIGNS * values * spread).sum()).item() ** 2, rel=1e-9, abs=1e-15)
    assert total == pytest.approx(change(share), rel=1e-12)
