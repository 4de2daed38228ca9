"""What is learnt of a run's orders: from items of any type, and from enough orders alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fut
from estimators.orders.order import random_orders
from fut.estimation.surrogate import BY_CONTENT, BY_GRADIENT, BY_ITEM, halves_learnt, item_similarities


@pytest.mark.parametrize(
    ("dtype", "known"), [(torch.int64, True), (torch.float32, True), (torch.bfloat16, False)], ids=str
)
def test_items_of_a_type_that_numpy_lacks_are_like_themselves_alone(dtype: torch.dtype, known: bool) -> None:
    items = [(torch.arange(8).reshape(2, 4).add(i).to(dtype),) for i in range(3)]
    data: Any = SimpleNamespace(items=3, problem=SimpleNamespace(data=SimpleNamespace(items=items)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fut.estimation.surrogate.Adjoint", refuse)
        found = item_similarities(data)
    assert (BY_CONTENT in found) == known
    assert np.array_equal(found[BY_ITEM], np.eye(3))


def refuse(context: Any) -> None:
    raise fut.NotCachedError("no expansion")


def test_each_half_is_learnt_from_the_other(small_run: fut.Run) -> None:
    orders = random_orders(small_run.reference, 16, 0)
    truths = np.random.default_rng(0).normal(size=16)
    first = halves_learnt(small_run.context, orders, truths.tolist())
    changed = truths.copy()
    changed[0::2] += 1.0  # what is judged in the first half
    second = halves_learnt(small_run.context, orders, changed.tolist())
    assert first is not None
    assert second is not None
    assert np.array_equal(first[0], second[0]), "the first half's values use the second half's truths alone"
    assert not np.allclose(first[1], second[1])
    assert halves_learnt(small_run.context, orders[:15], truths[:15].tolist()) is None
    assert BY_GRADIENT in item_similarities(small_run.context)
