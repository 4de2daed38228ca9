"""Treatments change what they say and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from estimators.orders.order import Order
from estimators.rules import make_rule
from estimators.rules.rates import GroupRates
from estimators.state import State
from fut.errors import UsageError
from fut.training.interventions import Point, key_of, normal, parse

RULE = make_rule("adamw", betas=(0.9, 0.99))


def trained(seed: int) -> State:
    state, generator = RULE.init(torch.zeros(4, dtype=torch.float64)), torch.Generator().manual_seed(seed)
    for _ in range(3):
        state = RULE.step(state, torch.randn(4, generator=generator, dtype=torch.float64), 0.1)[0]
    return state


def point(donor: bool = True) -> Point:
    state = trained(0)
    return Point(
        state,
        RULE.init(state.theta),
        trained(1) if donor else None,
        torch.zeros(4, dtype=torch.float64),
        lambda: normal(key_of(0, "noise", 0), state.theta),
    )


def changed(source: str, written: str, at: Point | None = None) -> State:
    treatment, arguments = parse(source, written)
    state: State = treatment.change(at or point(), arguments)
    return state


def differing(found: State) -> set[str]:
    before = trained(0)
    names = {n for n, b in found.memory.items() if not torch.equal(b, before.memory[n])}
    names |= {"theta"} if not torch.equal(found.theta, before.theta) else set()
    return names | {n for n, c in found.clock.items() if c != before.clock[n]}


@pytest.mark.parametrize(
    ("source", "written", "touched"),
    [
        ("optimizer", "nothing", set()),
        ("optimizer", "reset", {"m", "v", "step", "p1", "p2"}),
        ("optimizer", "reset:m", {"m", "p1"}),
        ("optimizer", "reset:v", {"v", "p2"}),
        ("optimizer", "reset-memory", {"m", "v"}),
        ("optimizer", "scale:0.5", {"m", "v"}),
        ("optimizer", "scale:-1:m", {"m"}),
        ("optimizer", "log-scale:0.3", {"v"}),
        ("optimizer", "swap", {"m", "v"}),
        ("optimizer", "swap:v", {"v"}),
        ("path", "noise:0.1", {"theta"}),
        ("path", "swap", {"theta"}),
    ],
)
def test_only_what_is_named_changes(source: str, written: str, touched: set[str]) -> None:
    assert differing(changed(source, written)) == touched


def test_a_reset_is_the_rule_before_its_first_step() -> None:
    found, empty = changed("optimizer", "reset"), RULE.init(trained(0).theta)
    assert found.clock == empty.clock
    assert all(torch.equal(found.memory[n], empty.memory[n]) for n in empty.memory)


def test_memory_reset_without_its_counters_takes_a_first_step_that_is_too_long() -> None:
    """(1 − β₁) / √(1 − β₂) times the rate, once the counters are far: the known fault, which is a treatment of its own."""
    rule = make_rule("adamw", betas=(0.9, 0.999), weight_decay=0.0)
    state = rule.init(torch.zeros(1, dtype=torch.float64))
    old = state._replace(clock=dict.fromkeys(state.clock, 0.0) | {"step": 1e5})
    step = rule.step(old, torch.ones(1, dtype=torch.float64), 1e-3)[0].theta.abs().item() / 1e-3
    assert step == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-6)


def test_log_scale_multiplies_the_preconditioner() -> None:
    before, after = trained(0).memory["v"].sqrt(), changed("optimizer", "log-scale:0.3").memory["v"].sqrt()
    torch.testing.assert_close(after, before * math.exp(0.3))


def test_noise_has_the_size_that_it_says() -> None:
    moved = trained(0).theta.norm()
    torch.testing.assert_close((changed("path", "noise:0.1").theta - trained(0).theta).norm(), 0.1 * moved)


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("swap:0:3", [0, 1, 5, 3, 4, 2, 6, 7]),
        ("move:0:3", [0, 1, 3, 4, 5, 2, 6, 7]),
        ("reverse", [0, 1, 5, 4, 3, 2, 6, 7]),
    ],
)
def test_orders_change_inside_the_window_alone(written: str, steps: list[int]) -> None:
    treatment, arguments = parse("order", written)
    assert treatment.change(Order.of(range(8)), 2, 4, key_of(0, "order", 0), arguments) == Order.of(steps)


@pytest.mark.parametrize("written", ["permute", "reshuffle", "with-replacement"])
def test_drawn_orders_keep_what_is_outside_and_are_the_same_again(written: str) -> None:
    treatment, arguments = parse("order", written)
    order = Order.of(range(40))
    first, again, other = (treatment.change(order, 10, 20, key_of(0, "order", s), arguments) for s in (0, 0, 1))
    assert first == again != other
    assert first.steps[:10] == order.steps[:10]
    assert written == "reshuffle" or first.steps[30:] == order.steps[30:]
    assert (first.multiset_digest == order.multiset_digest) is treatment.same_items


def test_rates_change_inside_the_window_alone() -> None:
    def rate(step: int) -> float:
        return GroupRates(step + 1.0, {"norms": step + 2.0})

    scale, arguments = parse("schedule", "scale:0.5")
    found = scale.change(rate, 2, 2, arguments)
    assert [float(found(t)) for t in range(5)] == [1, 2, 1.5, 2, 5]
    assert [found(t).groups["norms"] for t in range(5)] == [2, 3, 2, 2.5, 6]
    rewind, arguments = parse("schedule", "rewind:2")
    assert [float(rewind.change(rate, 2, 2, arguments)(t)) for t in range(5)] == [1, 2, 1, 2, 5]


@pytest.mark.parametrize(
    ("source", "written", "said"),
    [
        ("batchnorm", "reset", "expected a source of optimizer, order"),
        ("optimizer", "zero", "expected a treatment of the source `optimizer`: reset"),
        ("optimizer", "scale", "expected `scale:FACTOR"),
        ("optimizer", "scale:much", "expected a finite number behind `scale:`, got `much`"),
        ("optimizer", "scale:-1:v", "expected a factor >= 0 for a second moment"),
        ("optimizer", "reset:w", "expected a buffer of m, v, got `w`"),
        ("order", "swap:0", "expected `swap:I:J`"),
        ("order", "swap:0:9", "expected a whole number from 0 to 3"),
        ("schedule", "scale:-1", "expected a factor >= 0 of the learning rate"),
        ("path", "noise:inf", "expected a finite number"),
    ],
)
def test_what_cannot_be_meant_is_refused(source: str, written: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        applied(source, written)


def applied(source: str, written: str) -> object:
    """What a treatment makes of what its source is."""
    treatment, arguments = parse(source, written)
    if source == "order":
        return treatment.change(Order.of(range(8)), 2, 4, np.random.default_rng(0), arguments)
    if source == "schedule":
        return treatment.change(lambda step: 1.0, 2, 4, arguments)
    return treatment.change(point(), arguments)


@pytest.mark.parametrize(("source", "written"), [("optimizer", "swap"), ("path", "swap")])
def test_one_seed_has_nothing_to_swap_with(source: str, written: str) -> None:
    with pytest.raises(UsageError, match="expected at least 2 seeds for `swap`"):
        changed(source, written, point(donor=False))


def test_a_rule_without_memory_has_none_to_treat() -> None:
    state = State(torch.zeros(2), {}, {})
    with pytest.raises(UsageError, match="expected a rule that keeps memory"):
        changed("optimizer", "reset", Point(state, state, None, torch.zeros(2), lambda: torch.zeros(2)))
