"""A run that an optimizer object trains: by the rule that it is, or step by step as the object itself goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import fut
from fut.training.optimizers import constants

STEPS, RATE = 6, 0.05
CONFIG = fut.load_config(
    None,
    (),
    schedule={"kind": "constant"},
    warmup={"steps": 0},
    model={"dtype": "float64"},
    cache={"sketch": "identity"},
)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


def data() -> fut.Dataset:
    draw = torch.Generator().manual_seed(1)
    items = tuple(
        (torch.randn(5, 4, generator=draw, dtype=torch.float64), torch.randint(2, (5,), generator=draw))
        for _ in range(STEPS + 1)
    )
    return fut.Dataset(items[:STEPS], items[STEPS:])


class Slowing(Optimizer):
    """Sign descent that slows down, which nobody else has."""

    def __init__(self, params: Any, lr: float = RATE, power: float = 0.5) -> None:
        super().__init__(params, {"lr": lr, "power": power})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                p.data -= group["lr"] / state["count"] ** group["power"] * p.grad.sign()


def two_rates(module: nn.Module) -> list[dict[str, Any]]:
    vectors = [p for p in module.parameters() if p.ndim < 2]
    return [{"params": [p for p in module.parameters() if p.ndim > 1]}, {"params": vectors, "lr": RATE / 5}]


OWN: dict[str, Callable[[nn.Module], Optimizer]] = {
    "slowing": lambda m: Slowing(m.parameters()),
    "rprop": lambda m: torch.optim.Rprop(m.parameters(), lr=RATE),
    "rmsprop, two rates": lambda m: torch.optim.RMSprop(two_rates(m), lr=RATE, momentum=0.5),
    "sgd with dampening": lambda m: torch.optim.SGD(m.parameters(), lr=RATE, momentum=0.9, dampening=0.1),
}
TRANSLATED: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=RATE, weight_decay=0.1),
    "adamw, two rates": lambda m: torch.optim.AdamW(two_rates(m), lr=RATE),
    "some tensors": lambda m: torch.optim.RAdam(m[2].parameters(), lr=RATE),  # type: ignore[index]
}


def by_torch(make: Callable[[nn.Module], Optimizer], order: Iterable[int]) -> Tensor:
    """Where the object itself ends on the items of an order."""
    module, items = net(), data().items
    optimizer = make(module)
    for item in order:
        optimizer.zero_grad()
        loss(module, *items[item]).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def trained(path: Path, make: Callable[[nn.Module], Optimizer], config: fut.Config = CONFIG) -> fut.Run:
    module = net()
    return fut.train(path, config, module=module, loss=loss, data=data(), optimizer=make(module), device="cpu")


@pytest.mark.parametrize("name", OWN | TRANSLATED)
def test_it_trains_and_is_retrained_as_the_object_goes(name: str, tmp_path: Path) -> None:
    make = (OWN | TRANSLATED)[name]
    run = trained(tmp_path / "run", make)
    assert (run.context.config.rule.name == "optimizer") is (name in OWN)
    for order in (range(STEPS), [3, 5, 0, 1, 4, 2]):
        found = run.retrain(list(order)).theta
        torch.testing.assert_close(found, by_torch(make, order), rtol=0, atol=1e-10)


def test_an_object_that_is_no_rule_is_needed_again_and_compared(tmp_path: Path) -> None:
    end = trained(tmp_path / "run", OWN["slowing"]).context.state(STEPS).theta
    with pytest.raises(fut.UsageError, match=r"expected the optimizer that trains the run, got none"):
        _ = fut.open(tmp_path / "run", module=net(), loss=loss)
    again = fut.open(tmp_path / "run", module=(module := net()), loss=loss, optimizer=Slowing(module.parameters()))
    assert torch.equal(again.retrain("identity").theta, end), "the reference order, bit for bit"
    with pytest.raises(fut.UsageError, match="with the constants that the configuration gives"):
        fut.open(tmp_path / "run", module=net(), loss=loss, optimizer=lambda m: Slowing(m.parameters(), power=1.0))
    with pytest.raises(fut.UsageError, match="with the constants that the configuration gives"):
        fut.open(tmp_path / "run", module=net(), loss=loss, optimizer=lambda m: torch.optim.Rprop(m.parameters(), lr=1))


def test_a_translated_one_is_opened_without_it(tmp_path: Path) -> None:
    trained(tmp_path / "run", TRANSLATED["adamw, two rates"])
    run = fut.open(tmp_path / "run", module=net(), loss=loss)
    assert run.context.config.rule.name == "grouped"
    assert [group["scale"] for group in run.context.config.rule.options["groups"]] == [1.0, pytest.approx(0.2)]


def test_it_is_replayed_and_verified_and_says_what_it_cannot_do(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", OWN["sgd with dampening"])
    run.cache(["gradient", "norm"])
    found = run.verify(3, 0, ["replay", "replay-exact", "retrain"])
    assert run.methods.default == "replay"
    truth = found.true_losses
    assert found.estimated_losses["retrain"] == truth
    assert found.estimators["replay-exact"]["skill"] > 0.5
    with pytest.raises(fut.UsageError, match=r"expected a rule with a derivative.*got `optimizer`"):
        run.cache(["adjoint"])


def test_a_clip_may_be_given_beside_it(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rule": fut.load_config(None, ["rule.options.clip=0.1"]).rule})
    bound = trained(tmp_path / "clipped", OWN["sgd with dampening"], config)
    free = trained(tmp_path / "free", OWN["sgd with dampening"])
    assert bound.context.config.rule.options["clip"] == 0.1
    assert not torch.equal(bound.context.state(1).theta, free.context.state(1).theta)
    moved = bound.context.state(1).theta - bound.context.state(0).theta
    assert moved.norm() == pytest.approx(RATE * 0.1, rel=1e-4)


def stepped(module: nn.Module) -> Optimizer:
    optimizer = torch.optim.AdamW(module.parameters())
    loss(module, *data().items[0]).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (stepped, "has not stepped yet"),
        (lambda m: torch.optim.AdamW(net().parameters()), "parameters of the module alone"),
        (lambda m: 3, "or a function of the module"),
        (lambda m: lambda other: 3, "from the function, got int"),
        (lambda m: lambda other: Slowing(net().parameters()), "parameters of the module alone"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.0), "`lr` > 0"),
    ],
)
def test_what_is_no_optimizer_of_the_run_is_refused(
    make: Callable[[nn.Module], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(fut.UsageError, match=message):
        trained(tmp_path / "run", make)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_stepped_or_replayed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fut.RuleError, match=r"needs nothing but gradients, got TypeError from LBFGS"):
        trained(tmp_path / "run", lambda m: torch.optim.LBFGS(m.parameters()))
    strange = type("Free", (Slowing,), {"__module__": "schedulefree.adamw"})
    with pytest.raises(fut.RuleError, match=r"schedulefree.*cannot be replayed"):
        trained(tmp_path / "run", lambda m: strange(m.parameters()))
    assert not (tmp_path / "run").exists()


def test_one_rule_is_given_once(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rule": fut.load_config(None, ["rule.name=lion"]).rule})
    with pytest.raises(fut.UsageError, match="expected the rule `lion`"):
        trained(tmp_path / "run", TRANSLATED["adamw"], config)
    with pytest.raises(fut.UsageError, match="expected the module that the Slowing updates"):
        fut.train(tmp_path / "run", CONFIG, data=data(), optimizer=Slowing(net().parameters()))
    with pytest.raises(fut.UsageError, match="rule `optimizer`: expected the optimizer that trains the run"):
        fut.train(tmp_path / "run", fut.load_config(None, ["rule.name=optimizer"]))


def test_its_constants_are_written_as_a_configuration_holds_them() -> None:
    group = {
        "params": [],
        "lr": 0.1,
        "name": "all",
        "betas": (0.9, torch.tensor(0.5)),
        "k": None,
        "f": print,
        "n": True,
    }
    assert constants(group) == {"betas": [0.9, 0.5], "f": "builtin_function_or_method", "n": True}
