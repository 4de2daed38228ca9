"""What the rules are for: their limits, their constants derived, and that corrections take the bias off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rule_problem import LAYOUT, gradient_at, rate_at, signals_at, start, trained
from torch import Tensor

from estimators.contract import normal
from estimators.errors import RuleError
from estimators.modules import modules_of
from estimators.parameters import ParameterLayout
from estimators.rules import make_rule
from estimators.rules.clipping import clip_gradient, global_norm
from estimators.rules.corrected_adam import corrected_inverse, corrected_inverse_of_root
from estimators.rules.corrected_shampoo import eigenvalue_noise
from estimators.rules.cross_fitting import folds
from estimators.rules.mols import ModuleScaledAdamW
from estimators.rules.roots import corrected_inverse_root
from estimators.rules.signals import Signals, mean_over_items, variance_of_mean
from estimators.state import State

EPS = 0.05
CORRECTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "of p": (lambda p: 1 / p, corrected_inverse),
    "of the square under a root": (
        lambda u: 1 / (u.sqrt() + EPS),
        lambda u, noise: corrected_inverse_of_root(u, u.sqrt() + EPS, noise),
    ),
    "of an inverse root": (lambda x: x**-0.5, lambda x, noise: corrected_inverse_root(x, noise, 2)),
    "of a fourth root": (lambda x: x**-0.25, lambda x, noise: corrected_inverse_root(x, noise, 4)),
}


@pytest.mark.parametrize("value", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("case", CORRECTIONS)
def test_a_correction_is_half_the_second_derivative_times_the_variance(case: str, value: float) -> None:
    plain, corrected = CORRECTIONS[case]
    x, noise = torch.tensor([value, 1e-4], dtype=torch.float64)
    second = torch.func.grad(torch.func.grad(plain))(x)
    assert float(plain(x) - corrected(x, noise)) == pytest.approx(float(second * noise / 2), rel=1e-10)


def test_the_constant_of_the_root_without_eps_is_three_eighths_of_which_one_is_its_own() -> None:
    """1/4 comes from D^3/(4u), 1/8 from D^2/(8 u^1.5); with 3/8 there the sum would not be the derivative."""
    u, noise = torch.tensor([0.3, 1e-4], dtype=torch.float64)
    taken = float(u**-0.5 - corrected_inverse_of_root(u, u.sqrt(), noise)) / 1e-4
    assert taken == pytest.approx(float(u**-2.5) * (1 / 4 + 1 / 8), rel=1e-8)
    assert taken == pytest.approx(7.607, abs=5e-4)


@pytest.mark.parametrize("case", CORRECTIONS)
def test_a_correction_takes_the_bias_of_noisy_means_off(case: str) -> None:
    """Of 200 000 means of eight noisy values; what is left is of the next order."""
    plain, corrected = CORRECTIONS[case]
    values = 2.0 + 0.8 * normal(8, 200_000, seed=1)
    mean, noise = values.mean(0), variance_of_mean(values)
    truth = float(plain(torch.tensor(2.0).double()))
    bias, left = float(plain(mean).mean()) - truth, float(corrected(mean, noise).mean()) - truth
    spread = float(plain(mean).std()) / 200_000**0.5
    assert bias > 20 * spread
    assert abs(left) < 0.15 * bias


def test_folds_keep_numerator_and_preconditioner_apart() -> None:
    for kind, parts in (("halves", 2), ("leave_one_out", 5)):
        found = folds(kind, 5)  # type: ignore[arg-type]
        assert len(found) == parts
        assert all(not set(a) & set(b) and sorted(a + b) == list(range(5)) for a, b in found)
        assert sorted(i for a, _ in found for i in a) == list(range(5))
    assert folds("none", 3) == [([0, 1, 2], [0, 1, 2])]


def test_cross_fitting_takes_off_what_ties_the_gradient_to_its_own_square() -> None:
    """With m of no memory, the mean of g / sqrt(v) over noise: the tie damps it, apart it is that of independent batches."""
    size, options = 40_000, {"betas": (0.0, 0.5), "eps": 0.5, "correct_variance": False}
    items = 1.0 + 2.0 * normal(8, size, seed=1)
    fresh = 1.0 + 2.0 * normal(8, size, seed=2)
    state = make_rule("adamw").init(torch.zeros(size).double())
    state.memory["v"] += 1.0
    moved = {}
    for kind in ("none", "halves", "leave_one_out"):
        rule = make_rule("adamw_corrected", cross_fit=kind, **options)
        moved[kind] = -float(rule.step(state, items.mean(0), 1.0, signals=Signals(items))[1].mean())
    second = 0.5 * 1.0 + 0.5 * fresh.mean(0).square()  # of a batch that the numerator has not seen
    apart = float((items.mean(0) / ((second / 0.5).sqrt() + 0.5)).mean())
    assert abs(moved["leave_one_out"] - apart) < 0.3 * abs(moved["none"] - apart)


@pytest.mark.parametrize("name", ["adamw", "shampoo"])
def test_without_corrections_the_rule_is_the_plain_one_bit_for_bit(name: str) -> None:
    options: dict[str, Any] = {"weight_decay": 0.1, "clip": 0.5} | ({"eps": 0.1} if name == "shampoo" else {})
    plain = make_rule(name, **options).on(LAYOUT)
    corrected = make_rule(f"{name}_corrected", cross_fit="none", correct_variance=False, **options).on(LAYOUT)
    ours, theirs = corrected.init(start()), plain.init(start())
    for step in range(5):
        gradient, signals = signals_at(corrected, ours, step)
        if name == "shampoo":  # whose factors are of the mean of the items as it is added up
            gradient = mean_over_items(signals.micro_batches) if signals.micro_batches is not None else gradient
        ours = corrected.step(ours, gradient, rate_at(step), signals=signals)[0]
        theirs = plain.step(theirs, gradient, rate_at(step))[0]
    tolerance = 0.0 if name == "adamw" else 1e-13
    assert all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in zip(ours[:1], theirs[:1], strict=True))
    assert torch.equal(ours.memory["m"], theirs.memory["m"])


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_items_are_clipped_and_decayed_as_their_mean_is(decay: Any) -> None:
    rule = make_rule("adamw_corrected", clip=0.01, weight_decay=0.1, decay=decay).on(LAYOUT)
    free = make_rule("adamw_corrected", weight_decay=0.1 if decay == "decoupled" else 0.0).on(LAYOUT)
    state = rule.init(start())
    gradient, signals = signals_at(rule, state, 0)
    scale = float(clip_gradient(0.01, gradient).norm() / gradient.norm())
    assert scale < 0.1
    pull = 0.1 * state.theta if decay == "coupled" else 0.0
    assert signals.micro_batches is not None
    by_hand = Signals(signals.micro_batches * scale + pull)
    found = rule.step(state, gradient, 0.1, signals=signals)[0]
    expected = free.step(state, gradient * scale + pull, 0.1, signals=by_hand)[0]
    assert torch.allclose(found.theta, expected.theta, rtol=0, atol=1e-10)
    part = slice(0, 10)
    norm = global_norm(gradient)
    cut = rule.restrict(part).step(state.restrict(part), gradient[part], 0.1, norm, signals.restrict(part))[0]
    assert torch.equal(cut.theta, found.theta[part])


def test_too_few_items_are_refused_with_what_would_do() -> None:
    state = State(torch.zeros(3), {"m": torch.zeros(3), "v": torch.zeros(3)}, {"step": 0.0, "p1": 1.0, "p2": 1.0})
    for options, least in (
        ({}, 3),
        ({"cross_fit": "halves"}, 4),
        ({"cross_fit": "none"}, 2),
        ({"cross_fit": "halves", "correct_variance": False}, 2),
    ):
        rule = make_rule("adamw_corrected", **options)
        items = torch.ones(least - 1, 3)
        with pytest.raises(RuleError, match=f"at least {least} items in a step.*got {least - 1}; set data.per_step"):
            rule.step(state, torch.ones(3), 0.1, signals=Signals(items))
        rule.step(state, torch.ones(3), 0.1, signals=Signals(torch.ones(least, 3)))


@pytest.mark.parametrize("scaling", ["frozen", "online"])
def test_module_scales_of_power_zero_are_adamw_bit_for_bit(scaling: str) -> None:
    options: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 0.5}
    scaled = make_rule("adamw_mols", power=0.0, scaling=scaling, calibration=3, **options)
    assert torch.equal(trained(scaled, steps=20), trained(make_rule("adamw", **options), steps=20))


MODULES = ParameterLayout(("wte.weight", "h.q_proj.weight", "h.mlp.up.weight"), ((80, 50), (80, 50), (80, 50)))


def noisy(ratios: list[float], steps: int, scales: list[float], **options: Any) -> tuple[ModuleScaledAdamW, State]:
    """A rule after gradients of constant mean and independent noise of the given ratios of signal to noise."""
    rule = make_rule("adamw_mols", **options).on(MODULES)
    assert isinstance(rule, ModuleScaledAdamW)
    state, size = rule.init(torch.zeros(MODULES.size).double()), 4000
    means = [
        scale * ratio**0.5 * normal(size, seed=i) for i, (ratio, scale) in enumerate(zip(ratios, scales, strict=True))
    ]
    for step in range(steps):
        parts = [
            m + s * normal(size, seed=1000 + 7 * step + i) for i, (m, s) in enumerate(zip(means, scales, strict=True))
        ]
        state = rule.step(state, torch.cat(parts), 1e-3)[0]
    return rule, state


def test_module_scales_find_known_ratios_of_signal_to_noise() -> None:
    ratios = [1.0, 0.1, 0.01]
    rule, state = noisy(ratios, 120, [1.0, 1.0, 1.0], betas=(0.95, 0.99), scaling="online")
    expected = [(1 + 1 / r) ** 0.5 / (1 + 1 / ratios[0]) ** 0.5 for r in ratios]
    found = [float(part.flatten()[0]) for part in MODULES.split(state.memory["scale"])]
    assert found[0] == 1.0
    assert found[1] == pytest.approx(expected[1], rel=0.1)
    assert found[2] == pytest.approx(expected[2], rel=0.25)
    assert rule.restrict(slice(0, MODULES.size)) == rule


def test_module_scales_do_not_see_the_size_of_a_modules_gradient() -> None:
    (_, one), (_, other) = (noisy([1.0, 0.3, 0.1], 30, scales) for scales in ([1.0, 1.0, 1.0], [1.0, 1e3, 1e-3]))
    assert torch.allclose(one.memory["scale"], other.memory["scale"], rtol=1e-10)
    assert len(one.memory["scale"].unique()) == 3


def test_frozen_scales_stay_and_start_at_one() -> None:
    early = [noisy([1.0, 0.3, 0.1], steps, [1.0] * 3, calibration=10)[1].memory["scale"] for steps in (9, 10, 30)]
    assert torch.equal(early[0], torch.ones_like(early[0]))
    assert torch.equal(early[1], early[2])
    assert len(early[1].unique()) == 3


def test_modules_are_read_from_names_or_are_the_groups() -> None:
    names = {
        "transformer.wte.weight": "embedding",
        "model.embed_tokens.weight": "embedding",
        "token.weight": "embedding",
        "lm_head.weight": "head",
        "head.weight": "head",
        "model.layers.0.self_attn.q_proj.weight": "qk",
        "model.layers.0.self_attn.o_proj.weight": "vo",
        "blocks.0.qkv.weight": "attention",
        "transformer.h.0.attn.c_proj.weight": "vo",
        "transformer.h.0.mlp.c_proj.weight": "mlp",
        "blocks.0.up.weight": "mlp",
        "rotation": "other",
    }
    layout = ParameterLayout(tuple(names), tuple((2, 2) for _ in names))
    assert modules_of(layout) == tuple(names.values())
    assert modules_of(ParameterLayout(("up.bias",), ((2,),))) == ("norms",)
    assert modules_of(ParameterLayout(("a", "b"), ((2, 2), (2, 2)), ("x", "y"))) == ("x", "y")


def test_an_orthogonalised_step_has_singular_values_of_about_one() -> None:
    layout = ParameterLayout(("w",), ((6, 9),))
    rule = make_rule("muon", scale="none").on(layout)
    delta = rule.step(rule.init(torch.zeros(54).double()), normal(54, seed=1), 1.0)[1]
    values = torch.linalg.svdvals(delta.reshape(6, 9))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    tall = make_rule("muon").on(ParameterLayout(("w",), ((9, 6),)))
    moved = tall.step(tall.init(torch.zeros(54).double()), normal(54, seed=1).reshape(6, 9).mT.flatten(), 1.0)[1]
    assert torch.allclose(moved.reshape(9, 6), 1.5**0.5 * delta.reshape(6, 9).mT, atol=1e-12)


def test_scheduled_decay_of_parameters_without_any_gradient_is_none() -> None:
    rule = make_rule("adamw_swd", weight_decay=0.1).on(LAYOUT)
    assert torch.equal(rule.step(rule.init(start()), torch.zeros(LAYOUT.size).double(), 0.1)[0].theta, start())


def test_sophia_reads_curvature_when_it_is_due() -> None:
    rule = make_rule("sophia", period=3, gamma=1.0)
    needed = [bool(rule.needs({"step": float(step)})) for step in range(7)]
    assert needed == [True, False, False, True, False, False, True]
    state = rule.init(start())
    with pytest.raises(RuleError, match="the rule `sophia`: expected `curvature` beside the mean gradient"):
        rule.step(state, gradient_at(start(), 0), 0.1)
    state = rule.step(
        state, gradient_at(start(), 0), 0.1, signals=Signals(curvature=torch.ones(2, LAYOUT.size).double())
    )[0]
    assert torch.allclose(state.memory["h"], torch.full((LAYOUT.size,), 0.01).double())
    later = rule.step(state, gradient_at(start(), 1), 0.1)[0]
    assert torch.equal(later.memory["h"], state.memory["h"])


def test_noise_of_equal_eigenvalues_does_not_depend_on_their_basis() -> None:
    items = [normal(5, 5, seed=seed) for seed in range(4)]
    items = [item @ item.mT for item in items]
    values = torch.tensor([0.1, 0.1, 0.1, 2.0, 3.0], dtype=torch.float64)
    turn = torch.block_diag(torch.linalg.qr(normal(3, 3, seed=9))[0], torch.eye(2).double())
    basis = torch.linalg.qr(normal(5, 5, seed=8))[0]
    one, other = (eigenvalue_noise(values, vectors, items) for vectors in (basis, basis @ turn))
    assert torch.allclose(one, other, rtol=1e-12)
    assert one[:3].unique().numel() == 1
    for i in (3, 4):
        own = torch.stack([basis[:, i] @ item @ basis[:, i] for item in items])
        assert float(one[i]) == pytest.approx(float(own.var() / 4), rel=1e-12)
    split = eigenvalue_noise(values + torch.arange(5).double() * 1e-3, basis, items)
    lone = torch.stack([(basis.mT @ item @ basis).diagonal() for item in items]).var(0) / 4
    assert torch.allclose(split, lone, rtol=1e-12)


def test_noise_of_equal_eigenvalues_is_the_second_order_of_the_root() -> None:
    """The mean over many draws of (I x + noise)^(-1/4) against the correction, for all eigenvalues equal."""
    draws = 0.05 * normal(8, 20_000, 3, 3, seed=1)
    draws = draws + draws.mT
    at = 0.5 * torch.eye(3).double()
    mean = draws.mean(0)
    values, vectors = torch.linalg.eigh(at + mean)
    plain = ((vectors * values.pow(-0.25).unsqueeze(-2)) @ vectors.mT).mean(0)
    bias = float(plain.diagonal().mean()) - 0.5**-0.25
    noise = torch.stack(
        [
            eigenvalue_noise(torch.full((3,), 0.5).double(), torch.eye(3).double(), list(d))
            for d in draws[:, :300].unbind(1)
        ]
    )
    assert bias == pytest.approx(5 / 32 * 0.5**-2.25 * float(noise.mean()), rel=0.1)
