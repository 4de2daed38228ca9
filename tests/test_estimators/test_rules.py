"""Update rules against torch.optim, against derivatives by other means, and bit for bit against themselves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.errors import RuleError
from estimators.rules import RULES, make_rule
from estimators.rules.adam import Adam
from estimators.rules.base import Rule, next_state
from estimators.rules.clipping import clip_tangent
from estimators.schedule import Schedule
from estimators.state import State

# torch 2.13 compiles its own jvp decompositions with the deprecated torch.jit.script at the first torch.func.jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

SHAPES = ((4, 3), (5,), (2, 2))
D = 21
STEPS = 50
RATE = 0.05
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "heavy_ball": ("momentum", {"kind": "heavy_ball"}),
    "ema": ("momentum", {"kind": "ema"}),
    "nesterov": ("momentum", {"kind": "nesterov"}),
    "adam": ("adam", {"betas": (0.9, 0.95)}),
    "adamw": ("adamw", {"betas": (0.9, 0.95)}),
}
OPTIMIZERS = {
    "sgd": lambda p, wd: torch.optim.SGD(p, RATE, weight_decay=wd),
    "heavy_ball": lambda p, wd: torch.optim.SGD(p, RATE, momentum=0.9, weight_decay=wd),
    "ema": lambda p, wd: torch.optim.SGD(p, RATE * (1 - 0.9), momentum=0.9, weight_decay=wd),
    "nesterov": lambda p, wd: torch.optim.SGD(p, RATE, momentum=0.9, nesterov=True, weight_decay=wd),
    "adam": lambda p, wd: torch.optim.Adam(p, RATE, betas=(0.9, 0.95), weight_decay=wd),
    "adamw": lambda p, wd: torch.optim.AdamW(p, RATE, betas=(0.9, 0.95), weight_decay=wd),
}
SCHEDULES = {
    "constant": Schedule("constant", RATE, STEPS),
    "linear": Schedule("linear", RATE, STEPS, final=0.1),
    "cosine": Schedule("cosine", RATE, STEPS),
    "warm": Schedule("cosine", RATE, STEPS, warmup=7, final=0.2),
}


def variant(name: str, **options: Any) -> Rule:
    rule, given = VARIANTS[name]
    return make_rule(rule, **given, **options)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


MATRIX, TARGETS, START = normal(D, D, seed=1), normal(STEPS, D, seed=2), normal(D, seed=3)


def loss(theta: Tensor, step: int) -> Tensor:
    return torch.log(torch.cosh(MATRIX @ theta - TARGETS[step])).mean()


def trained(rule: Rule, schedule: Schedule) -> Tensor:
    state = rule.init(START)
    for step in range(STEPS):
        gradient = torch.func.grad(loss)(state.theta, step)
        state, _ = rule.step(state, gradient, schedule.rate_at(step))
    return state.theta


def trained_by_torch(
    name: str, schedule: Schedule, coupled: float, clip: float | None, decoupled: float = 0.0
) -> tuple[Tensor, list[float]]:
    """Endpoint and gradient norms; `decoupled` shrinks by hand, for optimizers that know coupled decay only."""
    chunks = START.split([torch.Size(s).numel() for s in SHAPES])
    params = [torch.nn.Parameter(c.clone().reshape(s)) for c, s in zip(chunks, SHAPES, strict=True)]
    optimizer = OPTIMIZERS[name](params, coupled)
    factor = [schedule.rate_at(t) / RATE for t in range(STEPS)]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: factor[min(t, STEPS - 1)])
    norms = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(torch.cat([p.flatten() for p in params]), step).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, torch.inf if clip is None else clip)))
        with torch.no_grad():
            for p in params:
                p.mul_(1 - schedule.rate_at(step) * decoupled)
        optimizer.step()
        scheduler.step()
    return torch.cat([p.detach().flatten() for p in params]), norms


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def lived_in(rule: Rule, n: int | None = None, dtype: torch.dtype = torch.float64, size: int = D) -> State:
    """A state after three steps on random gradients, of one run or n."""
    shape = (size,) if n is None else (n, size)
    state = rule.init(normal(*shape, seed=4, dtype=dtype))
    for step in range(3):
        state, _ = rule.step(state, normal(*shape, seed=10 + step, dtype=dtype), RATE)
    return state


def bits(state: State) -> list[Tensor]:
    return [state.theta, *state.memory.values()]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_torch_optim(name: str, decay: float, clip: float | None, schedule: str) -> None:
    expected, norms = trained_by_torch(name, SCHEDULES[schedule], decay, clip)
    got = trained(variant(name, weight_decay=decay, clip=clip), SCHEDULES[schedule])
    assert worst(got, expected) < 1e-12
    assert clip is None or min(norms) < clip < max(norms), "the problem no longer visits both branches of the clip"


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "adamw"])
def test_decoupled_decay_equals_torch_optim_after_shrinking_by_hand(name: str) -> None:
    expected, _ = trained_by_torch(name, SCHEDULES["cosine"], 0.0, None, decoupled=0.1)
    assert worst(trained(variant(name, weight_decay=0.1, decay="decoupled"), SCHEDULES["cosine"]), expected) < 1e-12


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [1, 7, 37, 1003])
def test_a_stack_of_runs_equals_each_run_alone_bitwise(name: str, decay: str, size: int) -> None:
    rule = variant(name, weight_decay=0.1, decay=decay, clip=1.0)
    stack = rule.init(normal(5, size, seed=5, dtype=torch.float32))
    alone = [stack.row(i) for i in range(5)]
    for step in range(4):
        gradients = normal(5, size, seed=20 + step, dtype=torch.float32)
        stack, _ = rule.step(stack, gradients, RATE)
        alone = [rule.step(s, g.clone(), RATE)[0] for s, g in zip(alone, gradients, strict=True)]
    for i, state in enumerate(alone):
        for ours, theirs in zip(bits(stack.row(i)), bits(state), strict=True):
            assert torch.equal(ours, theirs), f"row {i} differs by {worst(ours, theirs)}"


@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_subset_of_coordinates_equals_the_full_run_bitwise(name: str, n: int | None) -> None:
    rule = variant(name, weight_decay=0.1, clip=0.5)
    assert rule.coupling == "coordinate"
    state = lived_in(rule, n, torch.float32, 501)
    gradient = normal(*state.theta.shape, seed=6, dtype=torch.float32)
    chosen = torch.randperm(501, generator=generator(7))[:45]
    norm = torch.linalg.vector_norm(gradient, dim=-1)
    full, moved = rule.step(state, gradient, RATE, norm)
    part, part_moved = rule.step(state.restrict(chosen), gradient[..., chosen], RATE, norm)
    assert torch.equal(moved[..., chosen], part_moved)
    for ours, theirs in zip(bits(part), bits(full.restrict(chosen)), strict=True):
        assert torch.equal(ours, theirs)


def direction(like: State) -> tuple[State, Tensor]:
    """A direction in which every buffer varies in proportion to itself, so that v stays positive near the state."""
    shape = like.theta.shape
    memory = {k: b * normal(*shape, seed=31 + i) for i, (k, b) in enumerate(like.memory.items())}
    return State(normal(*shape, seed=30), memory, like.clock), normal(*shape, seed=40)


def stepped(rule: Rule, state: State, gradient: Tensor, dstate: State, dgradient: Tensor, by: float | Tensor) -> State:
    memory = {k: b + by * dstate.memory[k] for k, b in state.memory.items()}
    moved = State(state.theta + by * dstate.theta, memory, state.clock)
    return rule.step(moved, gradient + by * dgradient, RATE)[0]


BRANCHES = list(
    itertools.product(
        [None, 0.5, 9.0],  # off, active, inactive by less than a factor of two
        [(0.0, "coupled"), (0.1, "coupled"), (0.1, "decoupled")],
    )
)


@pytest.mark.parametrize(("clip", "decay"), BRANCHES)
@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_tangent_equals_jvp_and_finite_differences(
    name: str, n: int | None, clip: float | None, decay: tuple[Any, ...]
) -> None:
    rule = variant(name, clip=clip, weight_decay=decay[0], decay=decay[1])
    state = lived_in(rule, n)
    gradient = normal(*state.theta.shape, seed=8)
    dstate, dgradient = direction(state)
    tangent = bits(rule.tangent(state, gradient, RATE, dstate, dgradient))

    def along(by: Tensor) -> tuple[Tensor, ...]:
        return tuple(bits(stepped(rule, state, gradient, dstate, dgradient, by)))

    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    jvp = torch.func.jvp(along, (zero,), (one,))[1]
    h = 1e-6
    for ours, exact, ahead, behind in zip(tangent, jvp, along(zero + h), along(zero - h), strict=True):
        assert worst(ours, exact) < 1e-12 * max(1.0, float(exact.abs().max()))
        assert worst(ours, (ahead - behind) / (2 * h)) < 1e-6 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_tangent_is_finite_where_the_root_vanishes_and_jvp_is_not(name: str) -> None:
    rule = variant(name)
    assert isinstance(rule, Adam)
    state, gradient, dgradient = rule.init(START), normal(D, seed=8), normal(D, seed=9)
    state.memory["m"][:] = 1.0  # as where v has underflowed: the masked term would show
    gradient[::3] = 0.0
    dstate = State(START, {"m": torch.zeros(D).double(), "v": (gradient == 0).double()}, state.clock)
    ours = rule.tangent(state, gradient, RATE, dstate, dgradient)
    jvp = torch.func.jvp(lambda g: rule.step(state, g, RATE)[0].theta, (gradient,), (dgradient,))[1] + dstate.theta
    assert jvp[::3].isnan().all()
    assert ours.theta.isfinite().all()
    regular = gradient != 0
    assert torch.allclose(ours.theta[regular], jvp[regular], rtol=1e-12, atol=0)
    # dD = 0 there: only the momentum answers, through 1/eps
    assert worst(ours.theta[::3], (dstate.theta - RATE * dgradient / rule.eps)[::3]) < 1e-12 * RATE / rule.eps


@pytest.mark.parametrize("name", VARIANTS)
def test_clipped_tangent_at_a_zero_gradient_is_finite_and_goes_row_by_row(name: str) -> None:
    rule = variant(name, clip=0.5)
    zero, g, dg = torch.zeros(D).double(), normal(D, seed=8), normal(D, seed=9)
    assert torch.equal(clip_tangent(rule.clip, zero, dg), dg)
    assert worst(clip_tangent(rule.clip, g, dg.expand(4, D)), clip_tangent(rule.clip, g, dg)) < 1e-15


def test_the_generic_tangent_agrees_with_the_closed_one() -> None:
    for name in VARIANTS:
        rule = variant(name)
        state = lived_in(rule, 2)
        dstate, dgradient = direction(state)
        arguments = (state, normal(2, D, seed=8), RATE, dstate, dgradient)
        (ours, memory), (theirs, generic) = rule.update_tangent(*arguments), Rule.update_tangent(rule, *arguments)
        assert worst(ours, theirs) < 1e-12
        assert all(worst(memory[k], generic[k]) < 1e-12 for k in generic)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["sgd", "heavy_ball", "ema", "nesterov"])
def test_carried_momentum_is_exact_for_frozen_gradients(name: str, schedule: str) -> None:
    rule, gradients = variant(name), normal(STEPS, D, seed=50)
    swapped = gradients[torch.randperm(STEPS, generator=generator(51))]
    reference = other = rule.init(START)
    carried = displacement = torch.zeros(D).double()
    for step in range(STEPS):
        rate = SCHEDULES[schedule].rate_at(step)
        own = rule.step(reference, swapped[step], rate)[1] - rule.step(reference, gradients[step], rate)[1]
        carried, moved = rule.carry(reference, rate, carried, own)
        displacement = displacement + moved
        reference, _ = rule.step(reference, gradients[step], rate)
        other, _ = rule.step(other, swapped[step], rate)
        assert worst(displacement, other.theta - reference.theta) < 1e-12


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_carried_momentum_is_exact_for_a_frozen_preconditioner(name: str) -> None:
    rule, preconditioner = variant(name), normal(D, seed=52).abs()
    gradients, swapped = normal(STEPS, D, seed=50), normal(STEPS, D, seed=51)
    clock = rule.init(START)
    assert isinstance(rule, Adam)
    b1, p1, m, moved = rule.betas[0], 1.0, torch.zeros(2, D).double(), torch.zeros(2, D).double()
    carried = displacement = torch.zeros(D).double()
    for step in range(STEPS):
        rate, p1 = SCHEDULES["warm"].rate_at(step), p1 * b1
        both = torch.stack([gradients[step], swapped[step]])
        m = b1 * m + (1 - b1) * both
        moved = moved - rate / (1 - p1) * preconditioner * m
        own = -rate / (1 - p1) * preconditioner * (1 - b1) * (both[1] - both[0])
        carried, change = rule.carry(clock, rate, carried, own)
        displacement = displacement + change
        clock, _ = rule.step(clock, gradients[step], rate)
        assert worst(displacement, moved[1] - moved[0]) < 1e-12


def test_nesterov_has_no_single_momentum_rate_and_says_what_to_use() -> None:
    rule = variant("nesterov")
    with pytest.raises(RuleError, match="use `carry`"):
        rule.linear_momentum(rule.init(START), RATE)
    for name in VARIANTS:
        with pytest.raises(RuleError, match="a rate > 0"):
            variant(name).carry(variant(name).init(START), 0.0, START, START)


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", VARIANTS)
def test_contract(name: str, dtype: torch.dtype, decay: str) -> None:
    rule = variant(name, weight_decay=0.1, decay=decay, clip=1.0)
    for shape in ((D,), (3, D)):
        fresh = rule.init(normal(*shape, seed=4, dtype=dtype))
        assert all(b.shape == shape and b.dtype == dtype and not b.any() for b in fresh.memory.values())
        state = lived_in(rule, None if len(shape) == 1 else 3, dtype)
        gradient = normal(*shape, seed=8, dtype=dtype)
        before, given = [b.clone() for b in bits(state)], dict(state.clock)
        copy = gradient.clone()
        once, moved = rule.step(state, gradient, RATE)
        again, _ = rule.step(state, gradient, RATE)
        assert all(torch.equal(a, b) for a, b in zip(bits(once), bits(again), strict=True)), "not deterministic"
        assert all(torch.equal(a, b) for a, b in zip(bits(state), before, strict=True)), "the state was modified"
        assert torch.equal(gradient, copy)
        assert state.clock == given
        torch.testing.assert_close(once.theta, state.theta + moved, rtol=0, atol=4 * torch.finfo(dtype).eps)
        assert torch.equal(once.theta, next_state(rule, state, gradient, RATE).theta)
        assert all(b.shape == shape and b.dtype == dtype for b in bits(once))
        assert all(type(c) is float for c in once.clock.values())
        assert once.clock["step"] == state.clock["step"] + 1
        assert once.memory.keys() == state.memory.keys() == fresh.memory.keys()
    assert hash(rule) == hash(variant(name, weight_decay=0.1, decay=decay, clip=1.0))


@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_zero_gradient_moves_nothing_at_the_start(name: str, eps: float) -> None:
    rule = variant(name, clip=1.0, **({"eps": eps} if "adam" in name else {}))
    fresh = rule.init(START)
    after, moved = rule.step(fresh, torch.zeros(D).double(), RATE)
    assert not moved.any()
    assert torch.equal(after.theta, START)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("adagrad", {}, "sgd, momentum, adam, adamw, .*; got 'adagrad'"),
        ("sgd", {"betas": (0.9, 0.9)}, "expected options among weight_decay, decay, clip; got betas"),
        ("adam", {"betas": (1.0, 0.9)}, r"`betas\[0\]`: expected a number with 0 <= beta < 1, got 1.0"),
        ("adam", {"betas": (0.9, float("nan"))}, r"`betas\[1\]`"),
        ("adam", {"betas": 0.9}, "a pair of numbers, got 0.9"),
        ("adamw", {"eps": -1e-8}, "`eps`: expected a number >= 0, got -1e-08"),
        ("momentum", {"beta": -0.1}, "`beta`: expected a number with 0 <= beta < 1, got -0.1"),
        ("momentum", {"kind": "polyak"}, "heavy_ball, ema, nesterov, got 'polyak'"),
        ("adamw", {"clip": 0.0}, "`clip`: expected a number > 0, or None"),
        ("adamw", {"clip": "1"}, "`clip`: expected a number > 0, or None"),
        ("adamw", {"weight_decay": -1.0}, "`weight_decay`: expected a number >= 0, got -1.0"),
        ("adamw", {"decay": "l2"}, "expected one of decoupled, coupled, got 'l2'"),
    ],
)
def test_a_wrong_rule_says_what_would_be_right(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RuleError, match=says):
        make_rule(name, **options)


def test_registry_names_are_the_rules_own() -> None:
    assert {name: rule.name for name, rule in RULES.items()} == {name: name for name in RULES}
    assert make_rule("adamw", betas=[0.9, 0.95]) == make_rule("adamw", betas=(0.9, 0.95))
