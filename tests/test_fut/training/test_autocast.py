"""Training under autocast: forward and backward passes in bfloat16, parameters in float32, differences without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import MakeRun, small_config
from torch import nn

import fut
from fut.errors import UsageError
from fut.models.autodiff import gradient, hessian_vector, hessian_vector_difference
from fut.models.factory import build_module
from fut.models.objective import Objective

BF16 = {"autocast": "bfloat16"}


def objectives() -> tuple[Objective, Objective]:
    """The same model with and without autocast."""
    module = build_module(small_config().model, 256, 12)
    return Objective(module, autocast=torch.bfloat16), Objective(module)


def item(seed: int = 0) -> tuple[torch.Tensor]:
    return (torch.randint(256, (4, 13), generator=torch.Generator().manual_seed(seed)),)


def test_its_gradient_is_that_of_torch_under_autocast() -> None:
    coarse, fine = objectives()
    theta, module = coarse.start(), build_module(small_config().model, 256, 12)
    with torch.autocast("cpu", torch.bfloat16):
        loss = coarse.loss_function(module, *item())
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
    found = gradient(coarse, theta, item())
    assert torch.equal(found, expected)
    error = (found - gradient(fine, theta, item())).norm() / found.norm()
    assert 1e-4 < error < 5e-2, "rounded to eight bits, and no more than that"


def test_differences_are_taken_in_full_precision() -> None:
    coarse, fine = objectives()
    theta, u = coarse.start(), torch.randn(coarse.size, generator=torch.Generator().manual_seed(1))
    expected = hessian_vector_difference(fine, theta, item(), u)
    assert torch.equal(hessian_vector_difference(coarse, theta, item(), u), expected)
    exact = hessian_vector(coarse, theta, item(), u)
    assert (exact - expected).norm() / expected.norm() < 0.05, "of the rounded function, which has that curvature"


def test_a_module_of_the_users_own_has_products_too(recwarn: object) -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    objective = Objective(net, lambda m, x: m(x).square().mean(), autocast=torch.bfloat16)
    theta, x = objective.start(), (torch.randn(64, 5, generator=torch.Generator().manual_seed(2)),)
    u = torch.randn(objective.size, generator=torch.Generator().manual_seed(3))
    found, right = hessian_vector(objective, theta, x, u), hessian_vector_difference(objective, theta, x, u)
    assert (found - right).norm() / right.norm() < 0.05


def test_parameters_that_are_not_cast_are_refused(tmp_path: Path) -> None:
    config = small_config(model=small_config().model.model_dump() | BF16 | {"dtype": "float64"})
    with pytest.raises(UsageError, match=r"model\.autocast: expected parameters in float32"):
        fut.train(tmp_path / "run", config, device="cpu")


def test_a_run_under_autocast_answers_and_is_opened_again(make_run: MakeRun) -> None:
    run = make_run("adjoint", model=small_config().model.model_dump() | BF16)
    plain = make_run("adjoint")
    assert run.reference_loss != plain.reference_loss
    assert run.estimate(["identity"], known=False)[0].value == run.reference_loss
    assert (
        abs(run.estimate(["reverse"], known=False)[0].value - plain.estimate(["reverse"], known=False)[0].value) < 0.05
    )
    assert run.retrain("identity").loss == run.reference_loss, "the identity order gives the reference bit for bit"
