"""Groups of tensors with rules of their own, against `torch.optim` with parameter groups and schedulers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from transformers import get_scheduler

from estimators.contract import CHECKS, LAYOUTS
from estimators.errors import RuleError
from estimators.parameters import ParameterLayout
from estimators.rules import Grouped, make_rule
from estimators.rules.base import Rule
from estimators.rules.rates import GroupRates
from estimators.schedule import Schedule

STEPS, LONG, RATE = 50, 64, 0.02
LAYOUT = ParameterLayout(("embed.weight", "norm.weight", "norm.bias", "head.weight"), ((7, 4), (4,), (4,), (3, 4)))
DECAYED = {"name": "decayed", "tensors": ["embed.*", "head.*"], "options": {"weight_decay": 0.1, "betas": [0.9, 0.95]}}
ALIKE: dict[str, Any] = {"weight_decay": 0.1, "betas": [0.9, 0.95]}
PLAIN = {"name": "plain", "options": {"betas": [0.9, 0.95]}}
MOMENTUM = {"name": "plain", "rule": "momentum", "options": {"beta": 0.8, "weight_decay": 0.01}, "scale": 0.5}
CLIPPED = {"name": "plain", "options": {"clip": 0.05}}
FROZEN = {"name": "plain", "frozen": True}


def grouped(*groups: dict[str, Any], clip: float | None = None) -> Grouped:
    rule = make_rule("grouped", groups=list(groups), clip=clip)
    assert isinstance(rule, Grouped)
    return rule


@pytest.mark.parametrize("layout", ["matrices", "groups"])
@pytest.mark.parametrize("clip", [None, 2.0])
@pytest.mark.parametrize("other", [PLAIN, MOMENTUM, CLIPPED, FROZEN], ids=["adamw", "momentum", "clipped", "frozen"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_groups_keep_the_contract_of_rules(
    check: Callable[[Rule, ParameterLayout], None], other: dict[str, Any], clip: float | None, layout: str
) -> None:
    check(grouped(DECAYED | {"tensors": ["*.weight"]}, other, clip=clip), LAYOUTS[layout])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.embed(tokens).tanh()))
        return out


def batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randint(7, (6,), generator=draw), torch.randint(3, (6,), generator=draw)


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


Optimizers = Callable[[Net], list[torch.optim.Optimizer]]


def torch_adamw(model: Net) -> list[torch.optim.Optimizer]:
    decayed, plain = [model.embed.weight, model.head.weight], [model.norm.weight, model.norm.bias]
    tables = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return [torch.optim.AdamW(tables, lr=RATE, betas=(0.9, 0.95))]


def torch_two(model: Net) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.AdamW([model.embed.weight, model.head.weight], lr=RATE, betas=(0.9, 0.95), weight_decay=0.1),
        torch.optim.SGD(model.norm.parameters(), lr=RATE / 2, momentum=0.8, weight_decay=0.01),
    ]


def torch_frozen(model: Net) -> list[torch.optim.Optimizer]:
    return torch_two(model)[:1]


def by_torch(
    model: Net, optimizers: list[torch.optim.Optimizer], make: Any, clip: float | None, steps: int = STEPS
) -> Tensor:
    schedulers = [make(optimizer) for optimizer in optimizers]
    for step in range(steps):
        tokens, labels = batch(step)
        model.zero_grad()
        nn.functional.cross_entropy(model(tokens), labels).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    return LAYOUT.join([p.detach() for p in model.parameters()])


def by_rule(model: Net, rule: Rule, schedule: Schedule, steps: int = STEPS) -> Tensor:
    names = list(LAYOUT.names)

    def loss(theta: Tensor, step: int) -> Tensor:
        tokens, labels = batch(step)
        parts = dict(zip(names, LAYOUT.split(theta), strict=True))
        return nn.functional.cross_entropy(torch.func.functional_call(model, parts, (tokens,)), labels)

    state = rule.on(LAYOUT).init(LAYOUT.join([p.detach() for p in model.parameters()]))
    for step in range(steps):
        gradient = torch.func.grad(loss)(state.theta, step)
        state = rule.on(LAYOUT).step(state, gradient, schedule.rate_at(step))[0]
    return state.theta


def cosine(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def warm(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10) * (1 - step / STEPS))


@pytest.mark.parametrize("clip", [None, 0.2], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("make", [cosine, warm], ids=["cosine", "warm"])
@pytest.mark.parametrize(
    ("optimizers", "other"),
    [(torch_adamw, PLAIN), (torch_two, MOMENTUM), (torch_frozen, FROZEN)],
    ids=["adamw", "two optimizers", "frozen"],
)
def test_groups_train_as_torch(optimizers: Optimizers, other: dict[str, Any], make: Any, clip: float | None) -> None:
    expected = by_torch(model := net(), optimizers(model), make, clip)
    schedule = Schedule.of_scheduler(make, STEPS, RATE)
    ours = by_rule(net(), grouped(DECAYED, other, clip=clip), schedule)
    start = LAYOUT.join([p.detach() for p in net().parameters()])
    assert (ours - expected).norm() <= 1e-10 * (expected - start).norm()


def test_a_group_with_rates_of_its_own() -> None:
    def per_group(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda s: 1 - s / STEPS, lambda s: min(1.0, s / 5)])

    def optimizers(model: Net) -> list[torch.optim.Optimizer]:
        [one] = torch_adamw(model)
        one.param_groups[1]["lr"] = 3 * RATE
        return [one]

    expected = by_torch(model := net(), optimizers(model), per_group, None)
    schedule = Schedule.of_scheduler(per_group, STEPS, RATE, {"plain": 3 * RATE})
    rate = schedule.rate_at(1)
    assert isinstance(rate, GroupRates)
    assert (float(rate), rate.groups) == (pytest.approx(RATE * (1 - 1 / STEPS)), {"plain": pytest.approx(3 * RATE / 5)})
    ours = by_rule(net(), grouped(DECAYED, PLAIN), schedule)
    assert (ours - expected).abs().max() < 1e-10
    shared = by_rule(net(), grouped(DECAYED, PLAIN), Schedule.recorded(schedule.rates))
    assert (shared - expected).abs().max() > 1e-3


def test_one_group_is_its_rule_bit_for_bit() -> None:
    schedule = Schedule("cosine", RATE, STEPS)
    alone = by_rule(net(), make_rule("adamw", weight_decay=0.1, clip=0.2), schedule)
    options = {"options": {"weight_decay": 0.1}}
    both = by_rule(net(), grouped(DECAYED | options, PLAIN | options, clip=0.2), schedule)
    assert torch.equal(alone, both)


def test_a_clip_of_a_group_is_by_its_own_norm() -> None:
    rule = grouped(
        {"name": "a", "tensors": ["a"], "rule": "sgd", "options": {"clip": 1.0}}, {"name": "b", "rule": "sgd"}
    )
    bound = rule.on(ParameterLayout(("a", "b"), ((2,), (1,))))
    moved = bound.step(bound.init(torch.zeros(3)), torch.tensor([3.0, 4.0, 100.0]), 1.0)[1]
    torch.testing.assert_close(moved, torch.tensor([-0.6, -0.8, -100.0]), atol=1e-5, rtol=0)
    assert rule.coupling == "global"


def test_memory_is_one_vector_for_all_groups() -> None:
    buffers = grouped(DECAYED, MOMENTUM).buffers(LAYOUT)
    assert buffers == {"m": LAYOUT.size, "v": LAYOUT.size}


def test_groups_of_one_momentum_carry_it_in_the_sketch() -> None:
    rule = grouped(DECAYED | {"scale": 2.0}, PLAIN).on(LAYOUT)
    state = rule.init(torch.zeros(LAYOUT.size, dtype=torch.float64))
    single = make_rule("adamw", betas=(0.9, 0.95))
    expected = single.linear_momentum(single.init(state.theta), 0.1)
    assert rule.linear_momentum(state, 0.1) == pytest.approx(expected)
    with pytest.raises(RuleError, match="moves the parameters alike"):
        rule.linear_momentum(state, GroupRates(0.1, {"plain": 0.3}))
    mixed = grouped(DECAYED, MOMENTUM).on(LAYOUT)
    with pytest.raises(RuleError, match="moves the parameters alike"):
        mixed.linear_momentum(mixed.init(state.theta), 0.1)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([DECAYED], r"`norm.weight` in none"),
        ([DECAYED, PLAIN | {"tensors": ["*"]}], r"`embed.weight` in two: decayed, plain"),
        ([DECAYED, DECAYED], "names that differ"),
        ([PLAIN, PLAIN | {"name": "more"}], "one group without `tensors` at most"),
        ([DECAYED, PLAIN | {"lr": 1.0}], "got `lr`"),
        ([DECAYED, PLAIN | {"tensors": "norm"}], "a list of patterns"),
        ([DECAYED, PLAIN | {"scale": -1.0}], r"groups.plain.scale"),
        ([DECAYED, FROZEN | {"scale": 1.0}], "nothing but tensors"),
        ([], "at least one group"),
        (["decayed"], "got 'decayed'"),
    ],
)
def test_groups_that_are_none(groups: list[Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        grouped(*groups).on(LAYOUT)


def test_labels_of_a_layout_are_the_groups() -> None:
    labelled = ParameterLayout(LAYOUT.names, LAYOUT.shapes, ("plain", "plain", "decayed", "decayed"))
    assert grouped(DECAYED, PLAIN).on(labelled).parameters.groups == labelled.groups
    strange = ParameterLayout(LAYOUT.names, LAYOUT.shapes, ("plain", "plain", "other", "other"))
    with pytest.raises(RuleError, match="got `other`"):
        grouped(DECAYED, PLAIN).on(strange)


def test_decay_for_all_groups_is_refused() -> None:
    with pytest.raises(RuleError, match="in the options of the groups"):
        make_rule("grouped", groups=[DECAYED, PLAIN], weight_decay=0.1)


def test_64_steps_in_single_precision_with_a_scheduler_of_transformers() -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        return get_scheduler("cosine", optimizer, num_warmup_steps=5, num_training_steps=LONG)

    model = net().float()
    start = LAYOUT.join([p.detach() for p in model.parameters()]).clone()
    schedule = Schedule.of_scheduler(make, LONG, RATE)
    ours = by_rule(model, grouped(DECAYED, PLAIN), schedule, LONG)
    one = by_rule(model, make_rule("adamw", **ALIKE), schedule, LONG)
    expected = by_torch(model, torch_adamw(model), make, None, LONG)
    moved = (expected - start).norm()
    assert (ours - expected).norm() <= 1e-5 * moved
    assert (one - expected).norm() >= 1e-3 * moved, "decay on all tensors is another training"


class Wrapped:
    """A scheduler around another, as packages that prepare training have."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


PLATEAUS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "alone": lr_scheduler.ReduceLROnPlateau,
    "chained": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o), lr_scheduler.ReduceLROnPlateau(o)]),
    "in sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ReduceLROnPlateau(o)], milestones=[5]
    ),
    "wrapped": lambda o: Wrapped(lr_scheduler.ReduceLROnPlateau(o)),
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_rates_that_depend_on_losses_are_refused(name: str) -> None:
    with pytest.raises(RuleError, match=r"got ReduceLROnPlateau, whose rates depend on the losses"):
        Schedule.of_scheduler(PLATEAUS[name], STEPS, RATE)


def test_other_errors_of_a_scheduler_are_its_own() -> None:
    with pytest.raises(ValueError, match="factor"):
        Schedule.of_scheduler(lambda o: lr_scheduler.ConstantLR(o, factor=2.0), STEPS, RATE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rates": (0.1,)}, "a rate for each of 2 steps, got 1"),
        ({"rates": (0.1, -0.1)}, r"rates\[1\]"),
        ({"rates": (0.1, 0.1), "groups": (("a", (0.1,)),)}, "`a`: expected a rate for each"),
    ],
)
def test_recorded_rates_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        Schedule("recorded", 0.1, 2, **arguments)


def test_a_list_of_rates_needs_its_kind() -> None:
    with pytest.raises(RuleError, match="set kind = recorded"):
        Schedule("cosine", 0.1, 2, rates=(0.1, 0.1))


def test_group_rates_are_a_number_that_pickles() -> None:
    rate = pickle.loads(pickle.dumps(GroupRates(0.5, {"a": 0.25})))
    assert (rate, rate.groups, 2 * rate) == (0.5, {"a": 0.25}, 1.0)
