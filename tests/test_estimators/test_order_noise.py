"""Order variance in closed form against all permutations, and against real training, in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators.errors import OrderError, RuleError
from estimators.noise.floors import (
    bracket_floor,
    by_place,
    hoeffding_variance,
    lindeberg,
    linear_statistic,
    order_floor,
    permutations_of,
    quantiles,
)
from estimators.noise.kernel import displacement, impulse_kernel, impulse_kernels
from estimators.noise.replay import replayed
from estimators.noise.slopes import SLOPE_RULES, WARM_RATE, warm_state, warmed
from estimators.noise.small_network import SmallNetwork
from estimators.orders.order import Order
from estimators.parameters import ParameterLayout
from estimators.replay import OrderBatch, RuleTransition, replay
from estimators.rules import AdamW, Grouped, Momentum, make_rule
from estimators.rules.base import Rule
from estimators.rules.grouped import Group
from estimators.schedule import Schedule
from estimators.state import State

N, D = 5, 7
PERMUTATIONS = list(itertools.permutations(range(N)))
ORDERS = [Order.of(p) for p in PERMUTATIONS]
RATES = [0.03 * (1 - t / 9) for t in range(N)]
LAYOUT = ParameterLayout(("a.weight", "b.bias"), ((2, 2), (3,)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


G = normal(N, D)
LINEAR: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "sgd, coupled decay": ("sgd", {"weight_decay": 0.3}),
    "sgd, decoupled decay": ("sgd", {"weight_decay": 0.3, "decay": "decoupled"}),
    "ema": ("momentum", {"kind": "ema"}),
    "heavy ball, decay, clipped": ("momentum", {"weight_decay": 0.2, "clip": 1.5}),
    "nesterov, decay": ("momentum", {"kind": "nesterov", "weight_decay": 0.2}),
    "clock-matched": ("momentum_clock_matched", {"reference_rate": 0.02, "weight_decay": 0.2}),
}


def warm(rule: Rule, steps: int = 4) -> State:
    state = rule.init(normal(D, seed=1))
    for t in range(steps):
        state, _ = rule.step(state, normal(D, seed=20 + t), 0.03)
    return state


def clipped(rule: Rule, gradients: Tensor) -> Tensor:
    norms = gradients.norm(dim=-1, keepdim=True)
    return gradients if rule.clip is None else gradients * (rule.clip / (norms + 1e-6)).clamp(max=1.0)


def sample_trace(ends: Tensor) -> float:
    return float(ends.var(0, correction=0).sum())


@pytest.mark.parametrize(("name", "options"), LINEAR.values(), ids=LINEAR)
def test_the_kernel_is_the_rule_on_frozen_gradients_and_its_floor_their_variance(
    name: str, options: dict[str, Any]
) -> None:
    rule = make_rule(name, **options)
    state = warm(rule)
    kernels, given = impulse_kernels(rule, state, RATES), clipped(rule, G)
    ends = torch.cat(list(replayed(rule, state, G, lambda t: RATES[t], ORDERS)))
    expected = torch.stack([displacement(kernels, state, given[list(p)]) for p in PERMUTATIONS])
    assert (ends - expected).abs().max() < 1e-13
    floor = order_floor(kernels, given, readout=(probe := normal(D, seed=3)))
    assert floor.trace == pytest.approx(sample_trace(ends), rel=1e-11)
    assert floor.variance == pytest.approx(float((ends @ probe).var(correction=0)), rel=1e-11)


@pytest.mark.parametrize("name", ["adamw", "nadam", "adamw_clock_matched"])
def test_the_kernel_of_a_frozen_preconditioner_is_the_rule_with_its_second_moment_held(name: str) -> None:
    """b2 at 1 within rounding holds v; its bias correction is then given by the state."""
    options = {"decay": "decoupled"} if name == "nadam" else {}
    rule = make_rule(name, betas=(0.9, 1 - 1e-15), weight_decay=0.1, **options)
    began = rule.init(normal(D, seed=1))
    memory = {"m": normal(D, seed=4), "v": normal(D, seed=5).square() + 0.1}
    state = State(
        began.theta, memory, began.clock | {"step": 6.0, "p2": 0.4} | ({"p1": 0.5} if "p1" in began.clock else {})
    )
    if "mu_product" in state.clock:
        state.clock["mu_product"] = 0.02
    kernels = impulse_kernels(rule, state, RATES)
    (end,) = replayed(rule, state, G, lambda t: RATES[t], [Order.of(range(N))])
    assert (end[0] - displacement(kernels, state, G)).abs().max() < 1e-11


def test_a_second_moment_that_goes_on_as_on_average_is_a_frozen_one_where_it_does_not_move() -> None:
    rule = AdamW(betas=(0.9, 1 - 1e-15), weight_decay=0.1)
    state = rule.init(normal(D, seed=1))._replace(
        memory={"m": normal(D, seed=4), "v": normal(D, seed=5).square() + 0.1},
        clock={"step": 6.0, "p1": 0.5, "p2": 0.4},
    )
    (frozen,), (moving,) = (impulse_kernels(rule, state, RATES, squares) for squares in (None, G.square().mean(0)))
    assert moving.averaged is not None
    assert frozen.preconditioner is not None
    assert torch.allclose(moving.averaged, frozen.weights[:, None] * frozen.preconditioner, rtol=1e-11)
    one, two = (order_floor([kernel], G, readout=normal(D, seed=3)) for kernel in (frozen, moving))
    assert two.trace == pytest.approx(one.trace, rel=1e-10)
    assert two.variance == pytest.approx(one.variance, rel=1e-10)


def test_a_cold_second_moment_is_better_averaged_than_not_at_all() -> None:
    """From the first state of all, where none can be frozen: within a factor of two of all orders."""
    rule = AdamW()
    state = rule.init(normal(D, seed=1))
    ends = torch.cat(list(replayed(rule, state, G, lambda t: RATES[t], ORDERS)))
    floor = order_floor(impulse_kernels(rule, state, RATES, G.square().mean(0)), G)
    assert 0.5 < floor.trace / sample_trace(ends) < 2


@pytest.mark.parametrize("warmth", ["cold", "warm"])
def test_positional_weights_of_adam_are_those_of_the_closed_form(warmth: str) -> None:
    """Warm: w_s = rate (1 - b1^(T - s + 1)). Cold: debiasing weighs the first batches more."""
    rule, steps = AdamW(), 12
    state = rule.init(torch.zeros(1, dtype=torch.float64))
    clock = {"step": 9999.0, "p1": 0.0, "p2": 0.0} if warmth == "warm" else {"step": 1.0, "p1": 1.0, "p2": 0.999}
    weights = impulse_kernel(rule, state._replace(clock=clock), [1e-3] * steps)
    if warmth == "warm":
        closed = [1e-3 * (1 - 0.9 ** (steps - s)) for s in range(steps)]
        assert weights.weights.tolist() == pytest.approx(closed, rel=1e-12)
        assert weights.attribution[0] == pytest.approx(1.55, abs=0.005)
    else:
        closed = [1e-4 * sum(0.9 ** (t - s) / (1 - 0.9 ** (t + 1)) for t in range(s, steps)) for s in range(steps)]
        assert weights.weights.tolist() == pytest.approx(closed, rel=1e-12)
        assert weights.attribution[0] > 2.6 > 0.15 > weights.attribution[-1]


def test_groups_have_kernels_of_their_own() -> None:
    groups = (
        Group(name="decayed", rule=AdamW(weight_decay=0.1), tensors=("*.weight",)),
        Group(name="plain", rule=Momentum(kind="ema", beta=0.5, clip=0.7), scale=2.0),
    )
    rule = Grouped(groups=groups).on(LAYOUT)
    state, probe = warm(rule), normal(D, seed=3)
    kernels = impulse_kernels(rule, state, RATES)
    tiny = [rate * 1e-6 for rate in RATES]
    slow = impulse_kernels(rule, state, tiny)
    assert [k.take(torch.arange(D, dtype=torch.float64)).tolist() for k in kernels] == [[0, 1, 2, 3], [4, 5, 6]]
    assert kernels[1].weights[-1] == pytest.approx(2 * 0.5 * RATES[-1])
    ends = torch.cat(list(replayed(rule, state, G, lambda t: tiny[t], ORDERS)))
    plain = ends[:, 4:]
    floor = order_floor(slow, G, readout=probe)
    assert floor.shares[1] == pytest.approx(sample_trace(plain), rel=1e-9)
    assert floor.trace == pytest.approx(sum(floor.shares))
    moved = torch.stack([displacement(slow, state, G[list(p)]) for p in PERMUTATIONS])
    assert floor.variance == pytest.approx(float((moved @ probe).var(correction=0)), rel=1e-11)


@pytest.mark.parametrize(
    ("name", "options", "steps", "message"),
    [
        ("lion", {}, 3, "linear memory"),
        ("adam", {"weight_decay": 0.1}, 3, "decoupled decay"),
        ("adamw", {}, 0, "second moment"),
        ("adamw_mols", {}, 3, "no longer change"),
    ],
)
def test_rules_without_such_weights_are_refused(name: str, options: dict[str, Any], steps: int, message: str) -> None:
    rule = make_rule(name, **options).on(ParameterLayout(("up.weight",), ((D, 1),)))
    with pytest.raises(RuleError, match=rf"{message}.*replay frozen gradients"):
        impulse_kernels(rule, warm(rule, steps), RATES)


def test_replay_is_the_limit_of_training_for_every_rule() -> None:
    """R1, with the second moment and the sign in it: the error of its displacement falls with the rate."""
    network = SmallNetwork(N)
    history = warmed(network, range(N))
    frozen, _ = network.gradients(
        0, OrderBatch.pack(ORDERS[:1] * N).at(0)._replace(items=torch.arange(N)[:, None]), history[-1].expand(N, -1)
    )
    for name in ("adamw", "lion", "momentum"):
        errors = []
        for rate in (1e-5, 1e-4):
            rule = SLOPE_RULES[name](rate)
            state = warm_state(rule, history)
            moved = trained(network, rule, state, rate) - state.theta
            r1 = torch.cat(list(replayed(rule, state, frozen, lambda step: rate, ORDERS))) / rate  # noqa: B023
            errors.append(float((moved / rate - r1).norm() / r1.norm()))
        assert errors[0] < 1e-2
        assert errors[0] < errors[1] / 2


def trained(network: SmallNetwork, rule: Rule, state: State, rate: float) -> Tensor:
    transition = RuleTransition(rule, lambda t: rate, network.gradients)
    return replay(transition, state.rows(len(ORDERS)), OrderBatch.pack(ORDERS)).theta


@pytest.mark.parametrize("rate", [1e-6, 1e-5, 1e-4])
def test_closed_forms_are_within_a_hundredth_of_all_trained_orders(rate: float) -> None:
    network = SmallNetwork(N)
    history = warmed(network, range(N))
    theta = history[-1]
    gradients = torch.stack([torch.func.grad(network.item_loss)(theta, i) for i in range(N)])
    probe = torch.func.grad(lambda at: network.probe_loss(at[None])[0])(theta)
    for name in ("momentum", "heavy_ball", "adamw"):
        rule = SLOPE_RULES[name](rate)
        state = warm_state(rule, history)
        ends = trained(network, rule, state, rate)
        floor = order_floor(impulse_kernels(rule, state, [rate] * N), gradients, readout=probe)
        assert floor.trace == pytest.approx(sample_trace(ends), rel=0.01), name
        assert floor.variance == pytest.approx(float(network.probe_loss(ends).var(correction=0)), rel=0.01), name

    def product(item: int | None, direction: Tensor) -> Tensor:
        items = range(N) if item is None else [item]
        loss = torch.func.grad(lambda at: sum(network.item_loss(at, i) for i in items) / len(items))
        return torch.func.jvp(loss, (theta,), (direction,))[1]

    rule = SLOPE_RULES["sgd"](rate)
    ends = trained(network, rule, warm_state(rule, history), rate)
    bracket = bracket_floor(gradients, product, rate)
    assert bracket.trace == pytest.approx(sample_trace(ends), rel=0.01)
    alone = bracket_floor(gradients, product, rate, pairs=False)
    assert (alone.linear, alone.pairs) == (pytest.approx(bracket.linear), None)


def test_a_schedule_gives_rules_without_memory_a_floor() -> None:
    cosine = Schedule("cosine", 1e-4, N, final=0.0)
    rates = [cosine.rate_at(t) for t in range(N)]
    network = SmallNetwork(N)
    history = warmed(network, range(N))
    gradients = torch.stack([torch.func.grad(network.item_loss)(history[-1], i) for i in range(N)])
    rule = make_rule("sgd")
    state = warm_state(rule, history)
    transition = RuleTransition(rule, lambda t: rates[t], network.gradients)
    ends = replay(transition, state.rows(len(ORDERS)), OrderBatch.pack(ORDERS)).theta
    assert order_floor(impulse_kernels(rule, state, rates), gradients).trace == pytest.approx(
        sample_trace(ends), rel=0.01
    )
    assert order_floor(impulse_kernels(rule, state, [1e-4] * N), gradients).trace < 1e-30


def test_any_table_of_positions_has_the_variance_of_hoeffding() -> None:
    table = normal(N, N)
    sums = torch.stack([table[torch.arange(N), torch.tensor(p)].sum() for p in PERMUTATIONS])
    assert hoeffding_variance(table) == pytest.approx(float(sums.var(correction=0)), rel=1e-12)
    assert torch.allclose(linear_statistic(table, PERMUTATIONS), sums)
    levels = [0.05, 0.5, 0.95]
    assert quantiles(table, levels) == pytest.approx(np.quantile(sums - sums.mean(), levels).tolist())
    assert lindeberg(table) > 0
    assert lindeberg(torch.zeros(3, 3)) == 0
    with pytest.raises(OrderError, match="expected a table of n positions"):
        hoeffding_variance(normal(1, 1))


def test_many_items_are_sampled() -> None:
    drawn = permutations_of(12, seed=1, drawn=50)
    assert drawn.shape == (50, 12)
    assert (np.sort(drawn) == np.arange(12)).all()
    assert len(permutations_of(4)) == 24


def test_items_that_share_steps_are_reshuffled_over_places() -> None:
    """Steps of 2, 2 and 1 items, batches made anew: all 120 assignments of five items."""
    rule, lengths = Momentum(kind="ema"), [2, 2, 1]
    state = warm(rule)
    ends = list(lengths and itertools.accumulate(lengths, initial=0))
    orders = [Order.of([p[a:b] for a, b in itertools.pairwise(ends)]) for p in PERMUTATIONS]
    moved = torch.cat(list(replayed(rule, state, G, lambda t: RATES[t], orders)))
    floor = order_floor(impulse_kernels(rule, state, RATES[:3]), G, lengths, normal(D, seed=3))
    assert floor.trace == pytest.approx(sample_trace(moved), rel=1e-11)
    assert floor.variance == pytest.approx(float((moved @ normal(D, seed=3)).var(correction=0)), rel=1e-11)
    assert by_place(torch.eye(3), lengths)[0].tolist() == [0.5, 0, 0]


def test_a_rule_that_needs_items_of_a_step_is_not_replayed() -> None:
    rule = make_rule("adamw_corrected")
    with pytest.raises(RuleError, match="measure its order noise by retraining"):
        list(replayed(rule, rule.init(normal(D)), G, lambda t: 0.1, ORDERS))


def test_the_warm_state_of_a_rule_is_at_the_common_end() -> None:
    history = warmed(SmallNetwork(N), range(N))
    states = [warm_state(SLOPE_RULES[name](WARM_RATE), history) for name in ("sgd", "adamw", "lion")]
    assert all(torch.equal(state.theta, history[-1]) for state in states)
    assert states[1].clock["step"] == len(history) - 1
