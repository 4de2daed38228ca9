"""Tangents and adjoints of update rules, against derivatives of a whole step by other means, in every branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.contract import layouts_of, normal, signals_of, stepped
from estimators.errors import RuleError
from estimators.parameters import ParameterLayout
from estimators.rules import RULES, make_rule
from estimators.rules.base import Rule
from estimators.rules.roots import divided_differences, inverse_root, norm, root
from estimators.rules.signals import Signals
from estimators.state import State

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

RATE = 0.05
CASES: dict[str, tuple[str, dict[str, Any], int]] = {  # rule, constants, steps lived before
    "amsgrad": ("adamw", {"amsgrad": True, "betas": (0.9, 0.5)}, 5),
    "nadam": ("nadam", {}, 3),
    "radam, not rectified": ("radam", {"betas": (0.9, 0.95)}, 2),
    "radam, rectified": ("radam", {"betas": (0.9, 0.95)}, 12),
    "lamb": ("lamb", {}, 3),
    "lamb, bounded": ("lamb", {"largest": 2.0, "bias_correction": False}, 3),
    "adafactor": ("adafactor", {}, 3),
    "adafactor, not clipped": ("adafactor", {"clipping": 9.0}, 3),
    "muon": ("muon", {}, 3),
    "muon, keller_jordan": ("muon", {"variant": "keller_jordan", "eps": 0.3}, 3),
    "shampoo": ("shampoo", {"eps": 0.1}, 3),
    "shampoo, sums": ("shampoo", {"eps": 0.1, "statistics": "sum"}, 3),
    "scheduled decay": ("adamw_swd", {}, 3),
    "modules, before": ("adamw_mols", {"calibration": 9}, 3),
    "modules, at calibration": ("adamw_mols", {"calibration": 4}, 3),
    "modules, frozen": ("adamw_mols", {"calibration": 2}, 3),
    "modules, online": ("adamw_mols", {"calibration": 2, "scaling": "online"}, 5),
    "modules, online, clipped": ("adamw_mols", {"calibration": 2, "scaling": "online", "largest": 1.01}, 5),
    "momentum, matched": ("momentum_clock_matched", {"reference_rate": 0.1}, 3),
    "adamw, matched": ("adamw_clock_matched", {"reference_rate": 0.1}, 3),
}
CLIPS = [None, 0.5, 40.0]  # off, active, inactive
DECAYS = [(0.0, "coupled"), (0.1, "coupled"), (0.1, "decoupled")]


def made(case: str, clip: float | None = None, decay: tuple[float, Any] = (0.0, "decoupled")) -> tuple[Rule, int]:
    name, options, lived = CASES[case]
    rule = make_rule(name, **options, clip=clip, weight_decay=decay[0], decay=decay[1])
    return rule.on(layouts_of(rule)["matrices"]), lived


def lived_in(rule: Rule, steps: int) -> State:
    """Gradients of one direction and noise, so that ratios of signal to noise are between their bounds."""
    size = rule.parameters.size
    state = rule.init(normal(size, seed=4))
    for step in range(steps):
        gradient = normal(size, seed=3) + normal(size, seed=10 + step)
        state = stepped(rule, state, gradient, RATE)[0]
    return state


def bits(state: State) -> tuple[Tensor, ...]:
    return (state.theta, *state.memory.values())


def moved(state: State, direction: State, by: Tensor | float) -> State:
    memory = {k: b + by * direction.memory[k] for k, b in state.memory.items()}
    return State(state.theta + by * direction.theta, memory, state.clock)


def direction_of(state: State) -> State:
    """Memory in proportion to itself, so that squares stay positive."""
    memory = {k: b * normal(len(b), seed=31 + i) for i, (k, b) in enumerate(state.memory.items())}
    return State(normal(len(state.theta), seed=30), memory, state.clock)


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("case", CASES)
def test_tangent_and_pullback_are_those_of_the_whole_step(case: str, clip: float | None, decay: Any) -> None:
    rule, lived = made(case, clip, decay)
    state = lived_in(rule, lived)
    gradient, dgradient = (
        normal(len(state.theta), seed=3) + normal(len(state.theta), seed=8),
        normal(len(state.theta), seed=9),
    )
    dstate = direction_of(state)
    tangent = bits(rule.tangent(state, gradient, RATE, dstate, dgradient))

    def along(by: float) -> tuple[Tensor, ...]:
        return bits(rule.step(moved(state, dstate, by), gradient + by * dgradient, RATE)[0])

    for ours, ahead, behind in zip(tangent, along(1e-6), along(-1e-6), strict=True):
        expected = (ahead - behind) / 2e-6
        assert worst(ours, expected) < 2e-6 * max(1.0, float(expected.abs().max()))

    costate = State(normal(len(state.theta), seed=40), direction_of(state).memory, state.clock)
    names = list(state.memory)

    def whole(theta: Tensor, g: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        memory = dict(zip(names, buffers, strict=True))
        return bits(rule.step(State(theta, memory, state.clock), g, RATE)[0])

    pulled = torch.func.vjp(whole, state.theta, gradient, *state.memory.values())[1](bits(costate))
    before, sensitivity = rule.pullback(state, gradient, RATE, costate)
    for ours, exact in zip((before.theta, sensitivity, *before.memory.values()), pulled, strict=True):
        assert worst(ours, exact) < 1e-12 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_derivatives_at_a_cold_start_with_dead_coordinates(case: str) -> None:
    """Where nothing has had a gradient, and a third still has none, what moves is finite and exact."""
    rule, _ = made(case, decay=(0.1, "decoupled"))
    size = rule.parameters.size
    state, alive = rule.init(normal(size, seed=4)), (torch.arange(size) % 3 > 0).double()
    gradient, dgradient = normal(size, seed=8) * alive, normal(size, seed=9) * alive
    dstate = direction_of(state)
    tangent = bits(rule.tangent(state, gradient, RATE, dstate, dgradient))

    def along(by: float) -> tuple[Tensor, ...]:
        return bits(rule.step(moved(state, dstate, by), gradient + by * dgradient, RATE)[0])

    for ours, ahead, behind in zip(tangent, along(1e-6), along(-1e-6), strict=True):
        expected = (ahead - behind) / 2e-6
        assert ours.isfinite().all()
        assert worst(ours, expected) < 2e-6 * max(1.0, float(expected.abs().max()))
    costate = State(normal(size, seed=40), {k: normal(len(b), seed=41) for k, b in state.memory.items()}, state.clock)
    before, sensitivity = rule.pullback(state, gradient, RATE, costate)
    assert all(part.isfinite().all() for part in (*bits(before), sensitivity))
    nothing = torch.zeros(size).double()
    still, there = rule.step(state, nothing, RATE)
    assert all(part.isfinite().all() for part in (*bits(still), there))
    assert all(part.isfinite().all() for part in bits(rule.tangent(state, nothing, RATE, dstate, dgradient)))


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.smooth])
def test_what_has_no_derivative_says_what_to_use(name: str) -> None:
    rule = make_rule(name).on(layouts_of(RULES[name])["matrices"])
    state = lived_in(rule, 3)
    with pytest.raises(RuleError, match=f"`{name}` has no derivative.*`replay` or `replay-exact`.*or retrain"):
        rule.pullback(state, state.theta, RATE, state)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.signals and name != "grouped"])
def test_rules_with_signals_are_smooth_in_them_but_are_not_linearised_in_the_mean(name: str) -> None:
    options = {"eps": 0.1} if name != "adamw_corrected" else {}
    rule = make_rule(name, **options).on(layouts_of(RULES[name])["matrices"])
    state, size = lived_in(rule, 3), rule.parameters.size
    gradient, dstate = normal(size, seed=3) + normal(size, seed=8), direction_of(state)
    signals, change = signals_of(rule, gradient), normal(4, size, seed=60)
    if name == "sophia":
        state = state._replace(clock={"step": 10.0})  # where the curvature is read

    def along(by: Tensor) -> tuple[Tensor, ...]:
        there = Signals(*(None if s is None else s + by * change * s for s in signals))
        mean = there.micro_batches
        mean = gradient if mean is None else mean.sum(0) / len(mean)
        return bits(rule.step(moved(state, dstate, by), mean, RATE, signals=there)[0])

    if name != "shampoo_corrected":  # whose eigenvectors are differentiated by torch, near equal eigenvalues not well
        zero, one = torch.zeros(()).double(), torch.ones(()).double()
        found = torch.func.jvp(along, (zero,), (one,))[1]
        for ours, ahead, behind in zip(found, along(zero + 1e-6), along(zero - 1e-6), strict=True):
            expected = (ahead - behind) / 2e-6
            assert worst(ours, expected) < 2e-6 * max(1.0, float(expected.abs().max()))
    for call in (
        lambda: rule.tangent(state, gradient, RATE, dstate, gradient),
        lambda: rule.pullback(state, gradient, RATE, dstate),
    ):
        with pytest.raises(RuleError, match=r"reads .* of a step.*use --estimator retrain"):
            call()
    with pytest.raises(RuleError, match=r"expected `.*` beside the mean gradient of a step, got none"):
        rule.step(rule.init(state.theta), gradient, RATE)


def test_roots_of_zero_and_norms_of_nothing_have_the_derivative_zero() -> None:
    x = torch.tensor([4.0, 0.0], dtype=torch.float64)
    value, slope = torch.func.jvp(root, (x,), (torch.ones(2).double(),))[:2]
    assert (value.tolist(), slope.tolist()) == ([2.0, 0.0], [0.25, 0.0])
    assert torch.equal(torch.func.grad(norm)(torch.zeros(3).double()), torch.zeros(3).double())


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_inverse_roots_have_derivatives_where_eigenvalues_meet(order: int) -> None:
    basis = torch.linalg.qr(normal(5, 5, seed=1))[0]
    for values in ([1.0, 1.0, 1.0, 1.0, 1.0], [0.3, 0.3, 0.3 + 1e-9, 2.0, 5.0], [0.1, 0.5, 1.0, 2.0, 5.0]):
        matrix = basis @ torch.diag(torch.tensor(values).double()) @ basis.mT
        direction = normal(5, 5, seed=2)
        found = torch.func.jvp(lambda a: inverse_root(a, order), (matrix,), (direction,))[1]
        ahead, behind = inverse_root(matrix + 1e-5 * direction, order), inverse_root(matrix - 1e-5 * direction, order)
        assert worst(found, (ahead - behind) / 2e-5) < 1e-5 * float(found.abs().max())
        weight = normal(5, 5, seed=3)
        (back,) = torch.func.vjp(lambda a: inverse_root(a, order), matrix)[1](weight)
        assert float((back * direction).sum()) == pytest.approx(float((found * weight).sum()), rel=1e-12)
        assert worst(torch.linalg.matrix_power(inverse_root(matrix, order), order) @ matrix, torch.eye(5)) < 1e-12


def test_divided_differences_are_the_derivative_where_numbers_are_equal() -> None:
    values = torch.tensor([0.3, 2.0, 2.0], dtype=torch.float64)
    table = divided_differences(values, 4)
    slope = -0.25 * values**-1.25
    assert torch.allclose(table.diagonal(), slope, rtol=1e-14)
    assert float(table[1, 2]) == pytest.approx(float(slope[1]), rel=1e-14)
    assert float(table[0, 1]) == pytest.approx(float((0.3**-0.25 - 2.0**-0.25) / (0.3 - 2.0)), rel=1e-12)


def test_torch_differentiates_no_eigenvectors_of_equal_eigenvalues() -> None:
    """Why `inverse_root` has a derivative of its own."""

    def plain(a: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(a)
        return (vectors * values**-0.25) @ vectors.mT

    found = torch.func.jvp(plain, (torch.eye(3).double(),), (normal(3, 3, seed=1),))[1]
    assert not found.isfinite().all()


def test_a_layout_of_the_parameters_is_what_matrices_are_read_from() -> None:
    muon = make_rule("muon")
    with pytest.raises(
        RuleError, match=r"the rule `muon`: expected matrices alone, got `bias` of shape \(3,\); give such"
    ):
        muon.on(ParameterLayout(("w", "bias"), ((2, 3), (3,))))
    with pytest.raises(RuleError, match=r"got `bias` of shape \(3,\) and 1 more; give"):
        muon.on(ParameterLayout(("bias", "w", "scale"), ((3,), (2, 3), ())))
    with pytest.raises(RuleError, match="the rule `muon`: expected all 6 coordinates of `w` or none"):
        muon.on(ParameterLayout(("w", "u"), ((2, 3), (2, 2)))).restrict(slice(2, 10))

    def stepped(name: str) -> None:
        rule = make_rule(name, weight_decay=0.1)
        rule.step(rule.init(torch.ones(4)), torch.ones(4), 0.1)

    for name in ("shampoo", "soap", "lamb", "adafactor", "adamw_mols", "adamw_swd"):
        with pytest.raises(RuleError, match=r"expected a layout of the parameters"):
            stepped(name)
