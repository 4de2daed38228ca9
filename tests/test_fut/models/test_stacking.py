"""Several items in one pass against item by item, in float64, and what is left to the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import small_config
from torch import Tensor, nn

from fut.data.text import build_dataset
from fut.models import autodiff as derivatives
from fut.models.autodiff import gradient, gradient_and_loss, item_gradients, mean_gradient_and_loss, stackable
from fut.models.factory import build_module
from fut.models.objective import Item, Objective

ITEMS = build_dataset(small_config(data={"items": 7})).items
SINGLE = build_dataset(small_config(data={"items": 7, "batch": 1})).items
WEIGHTS = [0.5, 0.125, 0.0625, 0.0625, 0.125, 0.0625, 0.0625]


@pytest.fixture
def objective() -> Objective:
    return Objective(build_module(small_config().model, 256, 12), dtype=torch.float64)


def by_hand(objective: Objective, items: tuple[Item, ...]) -> tuple[Tensor, float]:
    theta = objective.start()
    found = [gradient_and_loss(objective, theta, item) for item in items]
    g = sum(w * g for w, (g, _) in zip(WEIGHTS, found, strict=True))
    return g, sum(w * loss for w, (_, loss) in zip(WEIGHTS, found, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("items", [ITEMS, SINGLE], ids=["batches", "sequences"])
@pytest.mark.parametrize("stacked", [1 << 13, 80, 1])
def test_the_mean_gradient_is_the_loops(
    objective: Objective, items: tuple[Item, ...], stacked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derivatives, "STACKED", stacked)
    g, loss = mean_gradient_and_loss(objective, objective.start(), items, WEIGHTS)
    expected, value = by_hand(objective, items)
    assert expected.norm() > 1e-3
    assert (g - expected).norm() < 1e-12 * expected.norm()
    assert loss == pytest.approx(value, rel=1e-13)
    assert objective.vectorises is True


def test_one_item_of_weight_one_is_its_gradient_bit_for_bit(objective: Objective) -> None:
    theta = objective.start()
    found, loss = mean_gradient_and_loss(objective, theta, ITEMS[:1], [1.0])
    expected, value = gradient_and_loss(objective, theta, ITEMS[0])
    assert torch.equal(found, expected)
    assert loss == value


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 100])
def test_gradients_of_single_sequences_are_the_loops(objective: Objective, chunk: int | None) -> None:
    theta = objective.start()
    found = item_gradients(objective, theta, SINGLE, chunk)
    expected = torch.stack([gradient(objective, theta, item) for item in SINGLE])
    assert ((found - expected).norm(dim=1) < 1e-12 * expected.norm(dim=1)).all()


def test_gradients_are_made_within_the_stated_bytes(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    stacked = derivatives._stacked_gradients

    def watched(objective: Objective, theta: Tensor, items: tuple[Item, ...]) -> Tensor:
        sizes.append(len(items))
        return stacked(objective, theta, items)

    stackable(objective, SINGLE)
    monkeypatch.setattr(derivatives, "_stacked_gradients", watched)
    monkeypatch.setattr(derivatives, "GRADIENT_BYTES", 3 * 8 * objective.size)
    item_gradients(objective, objective.start(), SINGLE)
    assert sizes == [3, 3, 1]
    item_gradients(objective, objective.start(), ITEMS)
    assert sizes[3:] == [1] * 7, "items of several sequences go one by one"


def test_gradients_of_batches_are_the_loops_bit_for_bit(objective: Objective) -> None:
    theta = objective.start()
    expected = torch.stack([gradient(objective, theta, item) for item in ITEMS])
    assert torch.equal(item_gradients(objective, theta, ITEMS), expected)


def test_in_single_precision_stacking_is_a_matter_of_rounding() -> None:
    objective = Objective(build_module(small_config().model, 256, 12))
    theta = objective.start()
    expected = torch.stack([gradient(objective, theta, item) for item in SINGLE])
    assert (item_gradients(objective, theta, SINGLE) - expected).abs().max() < 1e-6 * expected.abs().max()


class Deciding(nn.Module):
    """A forward pass that looks at its data, which no transform can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).square() if x.sum() > 0 else self.weight * x


def squared(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).mean()


NUMBERS = tuple((torch.randn(1, 4, generator=torch.Generator().manual_seed(i)),) for i in range(7))
SEVERAL_SHAPES = (*SINGLE[:6], (SINGLE[6][0][:, :9],))


@pytest.mark.parametrize(
    ("make", "items"),
    [
        (lambda: Objective(Deciding().eval(), squared, dtype=torch.float32), NUMBERS),
        (lambda: Objective(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), squared), NUMBERS),
        (lambda: Objective(build_module(small_config().model, 256, 12)), SEVERAL_SHAPES),
    ],
    ids=["data-dependent", "noise", "shapes"],
)
def test_what_cannot_be_stacked_goes_item_by_item(make: Any, items: tuple[Item, ...]) -> None:
    objective = make()
    theta = objective.start()
    assert not stackable(objective, items)
    expected = torch.stack([gradient(objective, theta, item) for item in items])
    assert torch.equal(item_gradients(objective, theta, items), expected)
    found = mean_gradient_and_loss(objective, theta, items, WEIGHTS)[0]
    assert torch.allclose(found, torch.tensor(WEIGHTS) @ expected, rtol=0, atol=1e-6)


def test_a_module_in_evaluation_mode_is_stacked() -> None:
    objective = Objective(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval(), squared)
    assert stackable(objective, NUMBERS)
