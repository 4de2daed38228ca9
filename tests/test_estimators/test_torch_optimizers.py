"""Optimizers of torch as rules: read in mid training they go on as torch does, and are given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, NAdam, Optimizer, RAdam

from estimators.errors import RuleError
from estimators.parameters import ParameterLayout
from estimators.rules import make_rule
from estimators.rules.grouped import Grouped
from estimators.rules.rates import GroupRates
from estimators.torch_optimizers import from_optimizer, to_optimizer

BEFORE, AFTER = 7, 50


@pytest.fixture(autouse=True)
def _double_counters() -> Iterator[None]:
    """What torch keeps as single numbers, as the product of NAdam's betas, has the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.late = nn.Parameter(torch.ones(4))

    def forward(self, tokens: Tensor, late: bool) -> Tensor:
        hidden = self.norm(self.embed(tokens).tanh())
        out: Tensor = self.head(hidden * self.late if late else hidden)
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def loss(model: nn.Module, step: int, late: bool = True, parts: dict[str, Tensor] | None = None) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    tokens, labels = torch.randint(7, (6,), generator=draw), torch.randint(3, (6,), generator=draw)
    out = model(tokens, late) if parts is None else torch.func.functional_call(model, parts, (tokens, late))
    return nn.functional.cross_entropy(out, labels)


def steps(
    model: Net, optimizers: list[Optimizer], first: int, last: int, clip: float | None = None, late: bool = True
) -> None:
    for step in range(first, last):
        model.zero_grad(set_to_none=True)
        loss(model, step, late).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step()


def groups(model: Net) -> list[dict[str, Any]]:
    decayed = [model.embed.weight, model.head.weight]
    plain = [p for p in model.parameters() if all(p is not d for d in decayed)]
    return [
        {"params": decayed, "weight_decay": 0.1, "name": "decayed"},
        {"params": plain, "weight_decay": 0.0, "lr": 0.01},
    ]


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


MAKERS: dict[str, Callable[[Net], list[Optimizer]]] = {
    "adamw": lambda m: [AdamW(m.parameters(), lr=0.02, weight_decay=0.05)],
    "adam": lambda m: [Adam(m.parameters(), lr=0.02, weight_decay=0.05)],
    "adam, decoupled": lambda m: [Adam(m.parameters(), lr=0.02, weight_decay=0.05, decoupled_weight_decay=True)],
    "amsgrad": lambda m: [AdamW(m.parameters(), lr=0.02, betas=(0.9, 0.7), weight_decay=0.05, amsgrad=True)],
    "radam": lambda m: [RAdam(m.parameters(), lr=0.02, betas=(0.9, 0.95), weight_decay=0.05)],
    "sgd": lambda m: [SGD(m.parameters(), lr=0.1, weight_decay=0.05)],
    "momentum": lambda m: [SGD(m.parameters(), lr=0.1, momentum=0.9)],
    "nesterov": lambda m: [SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True)],
    "groups": lambda m: [AdamW(groups(m), lr=0.02)],
    "tensors": lambda m: [AdamW(m.parameters(), lr=double(0.02), betas=(double(0.9), double(0.95)))],
    "two optimizers": lambda m: [AdamW(groups(m)[:1], lr=0.02), SGD(groups(m)[1]["params"], lr=0.05, momentum=0.9)],
    "nadam": lambda m: [NAdam(m.parameters(), lr=0.02, betas=(0.9, 0.95), weight_decay=0.05, momentum_decay=0.1)],
    "adafactor": lambda m: [Adafactor(m.parameters(), lr=0.05, beta2_decay=-0.7, weight_decay=0.05, d=1.1)],
    "adafactor, some": lambda m: [Adafactor(groups(m)[:1], lr=0.05), SGD(groups(m)[1]["params"], lr=0.05)],
    "muon": lambda m: [
        Muon([m.head.weight, m.embed.weight], lr=0.02, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        AdamW(groups(m)[1]["params"], lr=0.01, amsgrad=True),
    ],
    "some tensors": lambda m: [AdamW(groups(m)[:1], lr=0.02)],
}


def replayed(model: Net, optimizers: list[Optimizer], clip: float | None) -> tuple[Tensor, Tensor]:
    """Where the rule goes from where torch stands, and where it started."""
    rule, rates, state, _ = from_optimizer(optimizers, model, clip)
    start, layout = state.theta, rule.parameters
    for step in range(BEFORE, BEFORE + AFTER):
        gradient = torch.func.grad(
            lambda theta, step=step: loss(model, step, parts=dict(zip(layout.names, layout.split(theta), strict=True)))
        )(state.theta)
        state = rule.step(state, gradient, rates)[0]
    return state.theta, start


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("name", MAKERS)
def test_a_rule_read_in_mid_training_goes_on_as_torch(name: str, clip: float | None) -> None:
    model = net()
    optimizers = MAKERS[name](model)
    steps(model, optimizers, 0, BEFORE, clip)
    ours, start = replayed(model, optimizers, clip)
    steps(model, optimizers, BEFORE, BEFORE + AFTER, clip)
    expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert (ours - expected).norm() <= 1e-10 * (expected - start).norm()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "tensors"])
def test_a_rule_is_given_back_as_optimizers(name: str) -> None:
    model, other = net(), net()
    optimizers = MAKERS[name](model)
    steps(model, optimizers, 0, BEFORE)
    rule, rates, state, _ = from_optimizer(optimizers, model)
    with torch.no_grad():
        for p, part in zip(other.parameters(), rule.parameters.split(state.theta), strict=True):
            p.copy_(part)
    back = to_optimizer(rule, other, rates, state)
    steps(model, optimizers, BEFORE, BEFORE + AFTER)
    steps(other, back, BEFORE, BEFORE + AFTER)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_tensors_that_joined_later_are_a_group_of_their_own() -> None:
    model = net()
    optimizer = AdamW(model.parameters(), lr=0.02)
    steps(model, [optimizer], 0, BEFORE - 3, late=False)
    steps(model, [optimizer], BEFORE - 3, BEFORE)
    rule = from_optimizer(optimizer, model).rule
    assert isinstance(rule, Grouped)
    assert [g.name for g in rule.groups] == ["0, 7 steps", "0, 3 steps"]
    ours, _ = replayed(model, [optimizer], None)
    steps(model, [optimizer], BEFORE, BEFORE + AFTER)
    torch.testing.assert_close(
        ours, torch.cat([p.detach().reshape(-1) for p in model.parameters()]), rtol=0, atol=1e-11
    )


def test_rates_are_those_of_the_groups() -> None:
    model = net()
    rates = from_optimizer(MAKERS["groups"](model), model).rates
    assert isinstance(rates, GroupRates)
    assert (float(rates), rates.groups) == (0.02, {"decayed": 0.02, "1": 0.01})


def test_reading_leaves_the_optimizer_alone() -> None:
    model = net()
    [optimizer] = MAKERS["adamw"](model)
    steps(model, [optimizer], 0, BEFORE)
    before = {k: v.clone() for k, v in optimizer.state[model.late].items()}
    replayed(model, [optimizer], None)
    assert all(torch.equal(before[k], v) for k, v in optimizer.state[model.late].items())


class Mine(AdamW):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Mine(m.parameters()), "got .*Mine"),
        (lambda m: SGD(m.parameters(), momentum=0.9, dampening=0.1), "dampening=0, got 0.1"),
        (lambda m: AdamW(m.parameters(), maximize=True), "maximize=False"),
        (lambda m: AdamW([nn.Parameter(torch.ones(2))]), "tensors of the module"),
        (lambda m: [AdamW(m.parameters()), AdamW([m.late])], "`late` in two"),
        (lambda m: [], "at least one tensor"),
    ],
)
def test_optimizers_that_are_no_rules(make: Callable[[Net], Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        from_optimizer(make(model := net()), model)


def test_optimizers_that_cannot_be_replayed_are_named() -> None:
    strange = type("AdamWScheduleFree", (AdamW,), {"__module__": "schedulefree.adamw"})
    with pytest.raises(RuleError, match=r"schedulefree.*evaluated at"):
        from_optimizer(strange(net().parameters()), net())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("muon", {"precision": "parameters"}, "precision bfloat16"),
        ("muon", {"precision": "bfloat16", "scale": "none"}, "scale none"),
        ("muon", {"precision": "bfloat16", "decay": "coupled"}, "decoupled decay"),
        ("adafactor", {"clipping": 0.5}, "clipping >= 1"),
        ("sgd", {"decay": "decoupled"}, "coupled decay"),
        ("lamb", {}, "torch.optim has"),
    ],
)
def test_rules_that_torch_does_not_have_are_named(name: str, options: dict[str, Any], message: str) -> None:
    module = nn.Linear(3, 2, bias=False)
    rule = make_rule(name, **options).on(ParameterLayout(("weight",), ((2, 3),)))
    with pytest.raises(RuleError, match=message):
        to_optimizer(rule, module, 0.1)


@pytest.mark.parametrize("name", ["adamw", "momentum", "nadam", "adafactor"])
def test_what_has_not_been_stepped_is_given_back_new(name: str) -> None:
    model, other = net(), net()
    rule, rates, state, _ = from_optimizer(MAKERS[name](model), model)
    back = to_optimizer(rule, other, rates, state)
    optimizers = MAKERS[name](model)
    steps(model, optimizers, 0, 5)
    steps(other, back, 0, 5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
