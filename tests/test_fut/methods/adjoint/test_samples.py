"""Samples of coordinates and their halves, the weights of their sums, and what the tables take of them; no run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.adjoint import independent_halves
from estimators.control_variates import control_weights
from estimators.orders.order import Order
from estimators.replay import OrderBatch
from fut.methods.adjoint import quadratic
from fut.methods.adjoint.control_variate import HALVES, SIGNED, Control, all_weights, part_of, weights_of
from fut.methods.adjoint.quadratic import as_clipped, sample_weighted, weighted_by
from fut.methods.adjoint.spec import FUNCTIONAL_SIGNS, SAMPLES, SUMS

DRAW = torch.Generator().manual_seed(9)
P = torch.cat([torch.ones(3), 0.1 + 0.8 * torch.rand(9, generator=DRAW)]).double()
SEED = 40
EXPANSION: Any = SimpleNamespace(
    probabilities=P, indices=torch.arange(len(P)), spec=SimpleNamespace(config=SimpleNamespace(seed=SEED))
)


def test_a_half_is_held_with_its_own_probabilities() -> None:
    places, probabilities = part_of(EXPANSION, None)
    assert places is None
    assert torch.equal(probabilities, P)
    first, second, either = independent_halves(P, SEED + HALVES)
    for sample, held in (("first", first), ("second", second)):
        places, probabilities = part_of(EXPANSION, sample)
        assert places is not None
        assert places.tolist() == torch.nonzero(held).squeeze(-1).tolist()
        assert torch.equal(probabilities, either[places])
    assert {0, 1, 2} <= {*places.tolist()}  # type: ignore[union-attr]


def test_weights_of_all_samples_stand_one_after_the_other() -> None:
    """Those of a half on its coordinates, and 0 elsewhere; signs of different samples are drawn apart."""
    found = all_weights(EXPANSION)
    assert found.shape == (len(SAMPLES) * SUMS, len(P))
    for number, sample in enumerate(SAMPLES):
        rows, (places, weights) = found[number * SUMS : (number + 1) * SUMS], weights_of(EXPANSION, sample)
        probabilities = part_of(EXPANSION, sample)[1]
        assert torch.equal(weights, control_weights(probabilities, SEED + SIGNED + number))
        held = torch.arange(len(P)) if places is None else places
        assert torch.equal(rows[:, held], weights)
        assert rows.count_nonzero() == weights.count_nonzero()
    signs = [found[n * SUMS + 1 : (n + 1) * SUMS, 3:].sign() for n in range(len(SAMPLES))]
    assert not torch.equal(signs[0], signs[1])


def test_a_table_on_samples_has_the_injections_under_each_of_their_weights() -> None:
    injection, weights = torch.randn(2, len(P), generator=DRAW), all_weights(EXPANSION)
    found = sample_weighted(injection, weights)
    expected = [
        own.double() * weights[number * SUMS + row]
        for own in injection
        for number in range(len(SAMPLES))
        for row in range(1 + FUNCTIONAL_SIGNS)
    ]
    assert torch.equal(found, torch.stack(expected))
    assert found.dtype == torch.float64


def test_inner_products_are_taken_in_chunks_and_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic, "CHUNK", 5)
    injection, gradients = torch.randn(3, 12, generator=DRAW), torch.randn(4, 12, generator=DRAW)
    found = weighted_by(injection, gradients)
    assert torch.allclose(found, injection.double() @ gradients.double().T, rtol=1e-13, atol=1e-14)
    assert weighted_by(injection[:0], gradients).shape == (0, 4)
    with pytest.raises(ValueError, match="shorter"):
        weighted_by(injection, gradients[:, :5])


def test_a_control_looks_orders_up_against_the_reference() -> None:
    table = torch.randn(2, 3, 4, dtype=torch.float64, generator=DRAW)
    control = Control(torch.zeros(2, 1), table, Order.of([0, 1]))
    orders = [Order.of([0, 1]), Order.of([3, [0, 2]])]

    def slow(first: Tensor, second: Tensor) -> Tensor:
        return first + second - table[0, :, 0] - table[1, :, 1]

    found = control.looked_up(OrderBatch.pack(orders))
    assert not found[0].any()
    torch.testing.assert_close(found[1], slow(table[0, :, 3], (table[1, :, 0] + table[1, :, 2]) / 2))


def test_far_longer_gradients_are_taken_as_clipping_leaves_them() -> None:
    """Beside the others, which are clipped too; those of usual length, and all without clipping, stay as they are."""
    norms, median = torch.tensor([1.0, 2.0, 3.0, 100.0, 1.5]), torch.tensor(2.0)
    gradients = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert as_clipped(gradients, norms, median, None) is gradients
    assert as_clipped(gradients, norms, median, 20.0) is gradients, "five times as long as clipping lets it be"
    found = as_clipped(gradients, norms, median, 0.5)
    assert torch.equal(found[[0, 1, 2, 4]], gradients[[0, 1, 2, 4]])
    assert torch.allclose(found[3], gradients[3] * 0.02)
    assert torch.allclose(as_clipped(gradients, norms, median, 5.0)[3], gradients[3] * 0.05)
    assert as_clipped(gradients, norms, torch.tensor(50.0), 0.5) is gradients, "all items count, not those at hand"
