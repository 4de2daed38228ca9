"""Signal and noise of modules whose ratio is known, from gradients and from Adam's moments; and the names of modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from estimators.modules import module_coordinates
from estimators.parameters import ParameterLayout
from estimators.rules import SGD, AdamW, Grouped, make_rule
from estimators.rules.grouped import Group
from estimators.signal_noise import (
    SignalError,
    SignalNoise,
    of_gradients,
    of_moments,
    pooled,
    suggested_scales,
)

WIDE = 4000
RATIOS = {"a": 0.01, "b": 0.1, "c": 1.0}
LAYOUT = ParameterLayout(tuple(f"{name}.weight" for name in RATIOS), ((WIDE, 1),) * 3)


def draws(count: int, seed: int = 0) -> Tensor:
    """Gradients [count, 3 WIDE] of unit noise, the means of three modules having their ratios."""
    draw = torch.Generator().manual_seed(seed)
    means = [torch.randn(WIDE, generator=draw, dtype=torch.float64) for _ in RATIOS]
    scaled = [m / m.norm() * (ratio * WIDE) ** 0.5 for m, ratio in zip(means, RATIOS.values(), strict=True)]
    return torch.cat(scaled) + torch.randn(count, 3 * WIDE, generator=draw, dtype=torch.float64)


def summed(terms: tuple[Tensor, Tensor], place: slice) -> SignalNoise:
    signal, noise = (float(part[place].sum()) for part in terms)
    return SignalNoise(signal, noise)


def test_known_ratios_are_recovered_from_gradients() -> None:
    for i, ratio in enumerate(RATIOS.values()):
        own = [of_gradients(draws(32, seed)[:, LAYOUT.slices[i]]) for seed in range(4)]
        assert pooled(own).ratio == pytest.approx(ratio, rel=0.2)
        assert pooled(own).noise == pytest.approx(WIDE, rel=0.05)


@pytest.mark.parametrize("b2", [0.95, 0.999])
@pytest.mark.parametrize("grouped", [False, True])
def test_known_ratios_are_recovered_from_moments_where_the_plain_ratio_is_blind(b2: float, grouped: bool) -> None:
    alone = AdamW(betas=(0.9, b2))
    rule = Grouped(groups=(Group(name="all", rule=alone),)).on(LAYOUT) if grouped else alone.on(LAYOUT)
    state = rule.init(torch.zeros(LAYOUT.size, dtype=torch.float64))
    found: dict[str, list[SignalNoise]] = {name: [] for name in RATIOS}
    for t, gradient in enumerate(draws(260)):
        state, _ = rule.step(state, gradient, 1e-3)
        if t >= 60:
            terms = of_moments(rule, state)
            assert terms is not None
            for name, place in zip(RATIOS, LAYOUT.slices, strict=True):
                found[name].append(summed(terms, place))
    for name, ratio in RATIOS.items():
        assert pooled(found[name]).ratio == pytest.approx(ratio, rel=0.2), name
    key = "all/" if grouped else ""
    m = state.memory["m"][:WIDE] / (1 - state.clock[f"{key}p1"])
    v = state.memory["v"][:WIDE] / (1 - state.clock[f"{key}p2"])
    assert m.square().sum() / (v - m.square()).sum() > 0.05, "five times the true ratio of 0.01"


def test_intervals_hold_the_true_ratio_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        interval = of_gradients(0.3 + torch.randn(12, 300, generator=draw, dtype=torch.float64)).interval
        assert interval is not None
        inside += interval[0] <= 0.09 <= interval[1]
    assert 0.84 <= inside / 200 <= 0.97


def test_moments_are_no_use_without_memory_or_before_two_steps() -> None:
    theta = torch.zeros(3, dtype=torch.float64)
    assert of_moments(SGD(), SGD().init(theta)) is None
    assert of_moments(AdamW(), AdamW().step(AdamW().init(theta), theta + 1, 0.1)[0]) is None
    rule = Grouped(
        groups=(Group(name="x", rule=AdamW(), tensors=("a.*",)), Group(name="y", rule=SGD())),
    ).on(ParameterLayout(("a.w", "b.w"), ((2,), (1,))))
    state = rule.init(theta)
    for _ in range(2):
        state, _ = rule.step(state, theta + 1, 0.1)
    found = of_moments(rule, state)
    assert found is not None
    assert found[1].isnan().tolist() == [False, False, True]


def test_damping_and_scales_are_their_formulas_and_the_rule_agrees() -> None:
    one = SignalNoise(2.0, 8.0)
    assert (one.ratio, one.damping) == (0.25, math.sqrt(0.2))
    assert SignalNoise(-1.0, 8.0).damping == 0.0
    assert SignalNoise(1.0, 0.0).damping == 1.0
    assert suggested_scales({"a": 1.0, "b": 0.25}) == {"a": 1.0, "b": pytest.approx(math.sqrt(2.5))}
    assert suggested_scales({"a": 1.0, "b": 0.25}, power=-1.0)["b"] == pytest.approx(1 / math.sqrt(2.5))
    assert suggested_scales({"a": 1.0, "b": -1.0})["b"] == 10.0
    layout = ParameterLayout(("head.weight", "up.weight"), ((40, 5), (40, 5)))
    rule = make_rule("adamw_mols", calibration=6).on(layout)
    state = rule.init(torch.zeros(layout.size, dtype=torch.float64))
    draw = torch.Generator().manual_seed(1)
    for _ in range(6):
        noise = torch.randn(layout.size, generator=draw, dtype=torch.float64)
        state, _ = rule.step(state, noise + torch.cat([torch.ones(200), 0.4 * torch.ones(200)]), 0.1)
    terms = of_moments(rule, state)
    assert terms is not None
    ratios = {n: summed(terms, s).ratio for n, s in zip("ab", layout.slices, strict=True)}
    scales = suggested_scales(ratios)
    assert [float(state.memory["scale"][0]), float(state.memory["scale"][-1])] == pytest.approx(
        [scales["a"], scales["b"]]
    )


def test_two_gradients_are_too_few() -> None:
    with pytest.raises(SignalError, match="at least 3 gradients, got 2"):
        of_gradients(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("name", "shape", "module"),
    [
        ("transformer.wte.weight", (9, 4), "embedding"),
        ("transformer.h.0.attn.c_proj.weight", (4, 4), "vo"),
        ("transformer.h.0.mlp.c_proj.weight", (16, 4), "mlp"),
        ("model.layers.0.self_attn.q_proj.weight", (4, 4), "qk"),
        ("model.layers.0.self_attn.o_proj.lora_A.default.weight", (2, 4), "vo"),
        ("model.layers.0.mlp.gate_proj.weight", (8, 4), "mlp"),
        ("model.layers.0.input_layernorm.weight", (4,), "norms"),
        ("lm_head.weight", (9, 4), "head"),
        ("blocks.0.out.weight", (4, 4), "vo"),
        ("body.weight", (8, 4), "other"),
    ],
)
def test_names_of_gpt2_llama_and_the_built_in_model_are_known(name: str, shape: tuple[int, ...], module: str) -> None:
    assert list(module_coordinates(ParameterLayout((name,), (shape,)))) == [module]


@pytest.mark.parametrize(
    ("name", "shape", "last"),
    [
        ("blocks.0.qkv.weight", (6, 2), [8, 9, 10, 11]),  # rows 4 and 5
        ("transformer.h.0.attn.c_attn.weight", (2, 6), [4, 5, 10, 11]),  # columns 4 and 5
    ],
)
def test_fused_matrices_are_divided(name: str, shape: tuple[int, int], last: list[int]) -> None:
    found = module_coordinates(ParameterLayout((name,), (shape,), ("some group",)))
    assert found["vo"].tolist() == last
    assert sorted([*found["qk"].tolist(), *last]) == list(range(12))


def test_a_fused_matrix_of_another_form_stays_whole() -> None:
    assert list(module_coordinates(ParameterLayout(("attn.qkv.weight",), ((8, 4),)))) == ["attention"]
