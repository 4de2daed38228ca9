"""Exact Hessian-vector products of models for which torch lacks forward derivatives: right, said, and never the process's end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE
from plain_torch import by_fut, cross_entropy, numbers, pairs, perceptron, tokens
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

import fut
from fut.errors import FutWarning
from fut.models.autodiff import central_difference, gradient, hessian_vector
from fut.models.objective import Item, Objective
from fut.models.products import DIFFERENCE, FORWARD, REVERSE
from fut.resources.memory import peak_bytes

PAIRS = pairs(12)
StartPython = Callable[..., "subprocess.Popen[str]"]


def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A regression on what the module says of the numbers' sum."""
    return lambda m, x, y: function(m(x)[:, 0], x.sum(-1))


def written_out(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (m(x)[:, 0] - x.sum(-1)).square().mean()


def distances(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(m(x), m(x + 0.5)).square().mean()


def sampled(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    grid = torch.tanh(m(x)).view(1, 4, 1, 2)
    return functional.grid_sample(numbers(1, 1, 5, 5).to(x), grid, align_corners=False).square().mean()


def aligned(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Connectionist temporal classification of four frames."""
    frames = m(x).log_softmax(-1)[:, None]
    return functional.ctc_loss(frames, torch.ones(1, 2, dtype=torch.long), torch.tensor([4]), torch.tensor([2]))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.r, self.o = kind(6, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x[None])[0][0])


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

    def forward(self, t: Tensor) -> Tensor:
        return torch.tanh(self.o(self.e(t)))


class Once(torch.autograd.Function):
    """A function with a first derivative alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


def once(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return Once.apply(m(x)).mean()


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 2))


FORMS: dict[str, tuple[Callable[[], nn.Module], Any, Item, str]] = {
    "written out": (perceptron, written_out, PAIRS[0], FORWARD),
    "cross-entropy": (perceptron, cross_entropy, PAIRS[0], FORWARD),
    "mse_loss": (perceptron, of(functional.mse_loss), PAIRS[0], REVERSE),
    "huber_loss": (perceptron, of(functional.huber_loss), PAIRS[0], REVERSE),
    "smooth_l1_loss": (perceptron, of(functional.smooth_l1_loss), PAIRS[0], ""),
    "cdist": (perceptron, distances, PAIRS[0], ""),
    "EmbeddingBag": (Bags, lambda m, t: m(t).square().mean(), tokens(1)[0], ""),
    "weight_norm, whose second derivative torch has wrong": (normed, cross_entropy, PAIRS[0], DIFFERENCE),
    "LSTM": (lambda: Recurrent(nn.LSTM), cross_entropy, PAIRS[0], ""),
    "GRU": (lambda: Recurrent(nn.GRU), cross_entropy, PAIRS[0], ""),
    "grid_sample": (perceptron, sampled, PAIRS[0], ""),
    "ctc_loss": (lambda: perceptron(classes=3), aligned, PAIRS[0], ""),
    "once differentiable": (perceptron, once, PAIRS[0], DIFFERENCE),
}


@pytest.mark.filterwarnings("ignore::fut.errors.FutWarning")
@pytest.mark.parametrize("name", FORMS)
def test_a_product_is_the_derivative_of_the_gradient(name: str) -> None:
    make, loss, item, form = FORMS[name]
    item = tuple(t.double() if t.is_floating_point() else t for t in item)
    objective = Objective(make(), loss, dtype=torch.float64)
    theta = objective.start()
    u = torch.randn(objective.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = hessian_vector(objective, theta, item, u)
    expected = central_difference(lambda at: gradient(objective, at, item), theta, u, 1e-5)
    assert expected.norm() > 1e-4
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert objective.exact_form == form or not form
    assert torch.equal(hessian_vector(objective, theta, item, u), found)
    peak_bytes(objective.device, lambda: hessian_vector(objective, theta, item, u))
    assert objective.exact_form == form or not form


def test_another_form_than_the_first_is_said() -> None:
    for name, said in (
        ("mse_loss", "reverse over reverse, which is as exact"),
        ("once differentiable", "central differences"),
    ):
        make, loss, item, _ = FORMS[name]
        objective = Objective(make(), loss)
        with pytest.warns(FutWarning, match=said):
            hessian_vector(objective, objective.start(), item, objective.start())


@pytest.mark.filterwarnings("ignore::fut.errors.FutWarning")
@pytest.mark.parametrize("name", ["mse_loss", "LSTM", "once differentiable"])
def test_answers_that_take_exact_products_are_near_the_truth(name: str, tmp_path: Path) -> None:
    make, loss, _, _ = FORMS[name]
    run = by_fut(tmp_path / "run", make(), loss, PAIRS[:8], PAIRS[8:], schedule={"rate": 2e-3})
    truth, reference = run.retrain("reverse").loss, run.reference_loss
    end = run.endpoint("reverse", estimator="replay-exact")
    assert abs(end.evaluated_loss - truth) < 0.5 * abs(truth - reference) + 1e-6
    run.cache(["adjoint"], adjoint=fut.load_config(adjoint={"products": "exact"}).adjoint)
    assert abs(run.estimate(["reverse"], known=False)[0].value - truth) < 0.5 * abs(truth - reference) + 1e-6


SCRIPT = """
import sys, torch, warnings
from torch import nn
import fut
warnings.simplefilter("ignore")
torch.set_num_threads(1)
x = torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(0))
pairs = tuple(zip(x, x.sum(-1, keepdim=True)))
for name in sys.argv[2:]:
    loss = getattr(nn.functional, name)
    config = fut.load_config(data={"items": 12}, warmup={"steps": 0}, schedule={"kind": "constant", "rate": 1e-2})
    run = fut.train(f"{sys.argv[1]}/{name}", config, module=nn.Linear(6, 1), loss=lambda m, x, y: loss(m(x), y),
        data=fut.Dataset(pairs[:12], pairs[12:]), device="cpu")
    planned = len(run.plan().stages) > 5
    run.cache(["adjoint"], adjoint=fut.load_config(adjoint={"products": "exact"}).adjoint)
    print(name, planned, run.estimate(["reverse"], known=False)[0].value > 0, flush=True)
"""


def test_planning_and_caching_do_not_end_the_process(tmp_path: Path, start_python: StartPython) -> None:
    losses = ("mse_loss", "huber_loss")
    process = start_python(SCRIPT, tmp_path, *losses)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out.splitlines()) == (0, [f"{name} True True" for name in losses]), err
