"""Losses of the user's own: their tensors are state, and those of training mode alone are refused as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plain_torch import by_fut, by_torch, made, numbers, pairs, perceptron, tokens
from torch import Tensor, nn

from fut.errors import ModelError

PAIRS, TOKENS = pairs(11), tokens(11)
ORDERS = (range(8), [5, 2, 7, 0, 6, 1, 4, 3])


# --- the loss's own tensors


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([0.5]))

    def forward(self, m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(m(x) * self.log.exp(), y)


class Prototypes(nn.Module):
    """Class centres, as ArcFace has them, and a margin that is a buffer."""

    margin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(numbers(2, 2))
        self.register_buffer("margin", torch.tensor(0.2))

    def forward(self, m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        near = nn.functional.normalize(m(x), dim=-1) @ nn.functional.normalize(self.centres, dim=-1).T
        return nn.functional.cross_entropy(3 * (near - self.margin * nn.functional.one_hot(y, 2)), y)


class Uncertainty(nn.Module):
    """Two losses, weighted by learnt log variances."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.ParameterDict({"a": nn.Parameter(torch.zeros(())), "b": nn.Parameter(torch.ones(()))})

    def forward(self, m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        z = m(x)
        a, b = nn.functional.cross_entropy(z, y), z.square().mean()
        return a * (-self.log["a"]).exp() + b * (-self.log["b"]).exp() + self.log["a"] + self.log["b"]


class Weighted(nn.Module):
    """A loss with a buffer alone."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([1.0, 3.0]))

    def forward(self, m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(m(x), y, self.weight)


class Named(nn.Module):
    """A module that has a part called `loss` itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(x)


@pytest.mark.parametrize(
    ("make", "kind", "prefix"),
    [
        (perceptron, Temperature, "loss."),
        (perceptron, Prototypes, "loss."),
        (perceptron, Uncertainty, "loss."),
        (perceptron, Weighted, "loss."),
        (Named, Temperature, "loss_function."),
    ],
)
def test_a_losss_own_tensors_are_state(make: Any, kind: type[nn.Module], prefix: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net, loss = made(make), kind()
    before = {n: t.clone() for n, t in loss.state_dict().items()}
    run = by_fut(tmp_path / "run", net, loss, PAIRS[:8], PAIRS[8:])
    assert run.reference_loss == pytest.approx(by_torch(net, loss, PAIRS[:8], PAIRS[8:], range(8)), abs=2e-6)
    end = run.endpoint("reverse", estimator="retrain", out=tmp_path / "end.safetensors")
    held = load_file(tmp_path / "end.safetensors")
    own = {n.removeprefix(prefix): t for n, t in held.items() if n.startswith(prefix)}
    net.load_state_dict({n: t for n, t in held.items() if not n.startswith(prefix)})
    assert all(torch.equal(t, before[n]) for n, t in loss.state_dict().items()), "what was given stays as it was"
    loss.load_state_dict(own)
    with torch.no_grad():
        score = sum(loss(net, *p).item() for p in PAIRS[8:]) / 3
    assert score == pytest.approx(end.evaluated_loss, rel=1e-6)


# --- losses in training mode alone


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Any = None) -> Any:
        z = self.f(x)
        if self.training:
            return {"class": nn.functional.cross_entropy(z, y), "size": z.square().mean()}
        return [{"label": k.argmax()} for k in z]


def summed(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    losses: list[Tensor] = list(m(x, y).values())
    return losses[0] + losses[1]


def summed_in_training(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return summed(m.train(), x, y)


def test_a_loss_of_training_mode_alone_is_refused_as_such_and_can_choose_its_mode(tmp_path: Path) -> None:
    net = made(Detector)
    with pytest.raises(ModelError, match=r"in evaluation mode, in which the probe is judged, .*module\.train\(\)"):
        by_fut(tmp_path / "run", net, summed, PAIRS[:8], PAIRS[8:])
    run = by_fut(tmp_path / "run", net, summed_in_training, PAIRS[:8], PAIRS[8:])
    assert run.retrain("reverse").loss == pytest.approx(
        by_torch(net, summed_in_training, PAIRS[:8], PAIRS[8:], range(7, -1, -1)), abs=2e-6
    )
