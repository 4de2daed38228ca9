"""Tensors that items give no gradient: refused by name, or trained as torch does; and a loss that depends on no parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_torch import Body, by_fut, by_torch, cross_entropy, pairs, perceptron
from torch import Tensor, nn

from fut.errors import ModelError

PAIRS = pairs(11)
ORDERS = (list(range(8)), [5, 2, 7, 0, 6, 1, 4, 3])


class Routed(nn.Module):
    """A part for every item, chosen by `how`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.body, self.parts = how, nn.Linear(6, 8), nn.ModuleList([nn.Linear(8, 2), nn.Linear(8, 2)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        if self.how == "experts":  # hard routing by a gate that is no parameter
            return self.parts[int(x.sum() > 0)](h)
        if self.how == "layer drop":
            return self.parts[0](h) + (self.parts[1](h) if torch.rand(()) < 0.5 else 0)
        if self.how == "early exit":
            return self.parts[1](h) if h.detach().abs().mean() > 0.45 else self.parts[0](h)
        return self.parts[0](h)


class Tasks(nn.Module):
    """A loss of two tasks, one of which an item has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.second = nn.Parameter(torch.ones(2))

    def forward(self, m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        z = m(x) * (self.scale if int(y[0]) else self.second)
        return nn.functional.cross_entropy(z, y)


ROUTED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "experts": (lambda: Routed("experts"), cross_entropy, r"`parts\.[01]\.bias`"),
    "layer drop": (lambda: Routed("layer drop"), cross_entropy, r"`parts\.1\.bias`"),
    "early exit": (lambda: Routed("early exit"), cross_entropy, r"`parts\.[01]\.bias`"),
    "tasks of the loss": (perceptron, Tasks(), r"`loss\.(scale|second)`"),
}


@pytest.mark.parametrize("rule", ["adamw", "adam"])
@pytest.mark.parametrize("name", ROUTED)
def test_a_tensor_that_some_items_give_no_gradient_is_refused_by_name(name: str, rule: str, tmp_path: Path) -> None:
    make, loss, said = ROUTED[name]
    with pytest.raises(
        ModelError, match=rf"item \d: expected a gradient for every trained tensor, got None for {said}"
    ):
        by_fut(tmp_path / "run", make(), loss, PAIRS[:8], PAIRS[8:], rule)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["experts", "tasks of the loss"])
def test_a_rule_without_memory_and_decay_treats_it_as_torch_does(name: str, tmp_path: Path) -> None:
    make, loss, _ = ROUTED[name]
    net = make()
    run = by_fut(tmp_path / "run", net, loss, PAIRS[:8], PAIRS[8:], "sgd")
    for order in ORDERS:
        expected = by_torch(net, loss, PAIRS[:8], PAIRS[8:], order, "sgd")
        assert run.retrain(order).loss == pytest.approx(expected, abs=2e-6)


def test_gradients_of_zeros_by_the_losss_own_doing_are_trained_as_torch_does(tmp_path: Path) -> None:
    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(m, x, y) + 0 * sum(p.sum() for p in m.parameters())

    net = Routed("experts")
    run = by_fut(tmp_path / "run", net, loss, PAIRS[:8], PAIRS[8:])
    for order in ORDERS:
        expected = by_torch(net, loss, PAIRS[:8], PAIRS[8:], order)
        assert run.retrain(order).loss == pytest.approx(expected, abs=2e-6)


def test_a_tensor_that_no_item_trains_stays_as_torch_leaves_it(tmp_path: Path) -> None:
    net: Any = Routed("first alone")
    with pytest.raises(ModelError, match=r"got None of all items for `parts\.1\.bias`.*freeze it"):
        by_fut(tmp_path / "run", net, cross_entropy, PAIRS[:8], PAIRS[8:])
    run = by_fut(tmp_path / "undecayed", net, cross_entropy, PAIRS[:8], PAIRS[8:], "adam")
    expected = by_torch(net, cross_entropy, PAIRS[:8], PAIRS[8:], range(8), "adam")
    assert run.reference_loss == pytest.approx(expected, abs=2e-6)
    end = run.context.problem.objective.state_dict(run.retrain("reverse").theta)
    assert torch.equal(end["parts.1.weight"], net.parts[1].weight)
    net.parts[1].requires_grad_(False)
    run = by_fut(tmp_path / "frozen", net, cross_entropy, PAIRS[:8], PAIRS[8:])
    expected = by_torch(net, cross_entropy, PAIRS[:8], PAIRS[8:], range(8))
    assert run.reference_loss == pytest.approx(expected, abs=2e-6)


def test_a_gradient_that_goes_missing_while_training_is_refused_then(tmp_path: Path) -> None:
    class Leaving(Body):
        """The body is left out once the head has moved."""

        first: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", self.head.weight.detach().clone())

        def forward(self, x: Tensor) -> Tensor:
            h, moved = self.hidden(x), (self.head.weight.detach() - self.first).abs().max()
            return self.head(h.detach() if moved > 0.015 else h)

    net = Leaving()
    with pytest.raises(ModelError, match=r"item \d: .* got None for `f\.bias`, `f\.weight`, which other items train"):
        by_fut(tmp_path / "run", net, cross_entropy, PAIRS[:8], PAIRS[8:])
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("how", ["detach", "item", "other"])
def test_a_loss_that_does_not_depend_on_the_module_it_is_given_is_refused(how: str, tmp_path: Path) -> None:
    net = perceptron()

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if how == "other":
            return cross_entropy(net, x, y)
        value = cross_entropy(m, x, y)
        return value.detach() if how == "detach" else torch.tensor(value.item())

    with pytest.raises(ModelError, match=r"parameters of the module that it is given, got one that is detached"):
        by_fut(tmp_path / "run", net, loss, PAIRS[:8], PAIRS[8:])
