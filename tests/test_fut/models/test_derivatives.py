"""Derivatives in float64 against plain backward and finite differences."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small import small_config
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fut.data.text import build_dataset
from fut.models.autodiff import (
    evaluate,
    evaluate_gradient,
    gradient,
    gradient_and_loss,
    hessian_vector,
    hessian_vector_difference,
    hessian_vector_mean,
)
from fut.models.factory import build_module
from fut.models.objective import Objective
from fut.models.transformer import next_token_loss

DATA = build_dataset(small_config())


@pytest.fixture(scope="module")
def objective() -> Objective:
    return Objective(build_module(small_config().model, 256, 12), dtype=torch.float64)


@pytest.fixture(scope="module")
def direction(objective: Objective) -> Tensor:
    return torch.randn(objective.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-3, "a comparison with nothing says nothing"
    return ((found - expected).norm() / expected.norm()).item()


def test_the_gradient_is_that_of_a_plain_backward(objective: Objective) -> None:
    module = build_module(small_config().model, 256, 12).double()
    loss = next_token_loss(module, *DATA.items[1])
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
    found, value = gradient_and_loss(objective, objective.start(), DATA.items[1])
    assert relative(found, expected) < 1e-12
    assert value == pytest.approx(loss.item(), abs=1e-13)
    assert torch.equal(gradient(objective, objective.start(), DATA.items[1]), found)


def test_the_exact_product_is_the_derivative_of_the_gradient(objective: Objective, direction: Tensor) -> None:
    theta, h = objective.start(), 1e-5
    up, down = (gradient(objective, theta + s * h * direction, DATA.items[0]) for s in (1, -1))
    found = hessian_vector(objective, theta, DATA.items[0], direction)
    assert relative(found, (up - down) / (2 * h)) < 1e-7


def test_the_exact_product_is_symmetric_and_linear(objective: Objective, direction: Tensor) -> None:
    theta, other, item = objective.start(), direction.flip(0), DATA.items[0]
    a, b = (hessian_vector(objective, theta, item, u) for u in (direction, other))
    assert (other @ a).item() == pytest.approx((direction @ b).item(), rel=1e-9)
    assert relative(hessian_vector(objective, theta, item, direction - 2 * other), a - 2 * b) < 1e-12


def test_the_difference_errs_by_the_square_of_its_step(objective: Objective, direction: Tensor) -> None:
    theta, item = objective.start(), DATA.items[0]
    exact = hessian_vector(objective, theta, item, direction)
    errors = [
        relative(hessian_vector_difference(objective, theta, item, direction, step), exact)
        for step in (1.2e-3, 6e-4, 3e-4)
    ]
    assert errors[2] < 1e-4
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("where", ["direction", "theta"])
def test_the_difference_is_finite_where_a_norm_vanishes(where: str) -> None:
    module = nn.Linear(3, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    objective = Objective(module, lambda m, x: (m(x) - 1).square().mean(), dtype=torch.float64)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = objective.start() if where == "theta" else objective.start() + 1
    u = torch.zeros(4).double() if where == "direction" else torch.tensor([1.0, 2.0, 0.0, -1.0]).double()
    found = hessian_vector_difference(objective, theta, (x,), u)
    assert torch.allclose(found, hessian_vector(objective, theta, (x,), u), rtol=1e-6, atol=1e-12)


def test_the_back_ends_of_attention_agree(objective: Objective) -> None:
    theta, item = objective.start(), DATA.items[2]
    default = gradient(objective, theta, item)
    with sdpa_kernel(SDPBackend.MATH):
        assert relative(gradient(objective, theta, item), default) < 1e-10


def test_the_probe_is_the_mean_over_its_items(objective: Objective) -> None:
    theta = objective.start()
    probe = DATA.probe if len(DATA.probe) > 1 else DATA.items[:3]
    losses = [objective.loss(theta, item).item() for item in probe]
    assert evaluate(objective, theta, probe) == pytest.approx(sum(losses) / len(losses), abs=1e-13)
    slopes = torch.stack([gradient(objective, theta, item) for item in probe]).mean(0)
    assert relative(evaluate_gradient(objective, theta, probe), slopes) < 1e-12


@pytest.mark.parametrize("size", [1, 3])
def test_the_product_of_a_mean_is_the_mean_of_products(objective: Objective, direction: Tensor, size: int) -> None:
    theta, items = objective.start(), DATA.items[:size]
    expected = sum(hessian_vector(objective, theta, item, direction) for item in items) / size
    assert isinstance(expected, Tensor)
    assert relative(hessian_vector_mean(objective, theta, items, direction), expected) < 1e-12
    one_by_one = Objective(build_module(small_config().model, 256, 12), dtype=torch.float64)
    one_by_one.vectorises = False
    assert relative(hessian_vector_mean(one_by_one, theta, items, direction), expected) < 1e-12
