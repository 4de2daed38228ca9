"""Update rules against torch.optim and pytorch_optimizer, over fifty steps of a small language model in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_optimizer
import torch
from rule_problem import (
    LAYOUT,
    MATRICES,
    Optimizer,
    curvature_at,
    start,
    trained,
    trained_by,
    worst,
)

from estimators.rules import make_rule

CLOSE = 1e-10


@pytest.fixture(autouse=True)
def counters_in_double_precision() -> Iterator[None]:
    """What torch keeps as single numbers, as the product of NAdam's betas, has the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


BY_TORCH: dict[str, tuple[str, dict[str, Any], Optimizer]] = {
    "adamw": ("adamw", {"betas": (0.9, 0.95)}, lambda p: torch.optim.AdamW(p, betas=(0.9, 0.95), weight_decay=0)),
    "adam, amsgrad": (
        "adam",
        {"betas": (0.9, 0.7), "amsgrad": True, "weight_decay": 0.1, "eps": 1e-3},
        lambda p: torch.optim.Adam(p, betas=(0.9, 0.7), amsgrad=True, weight_decay=0.1, eps=1e-3),
    ),
    "adamw, amsgrad": (
        "adamw",
        {"betas": (0.9, 0.7), "amsgrad": True, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, betas=(0.9, 0.7), amsgrad=True, weight_decay=0.1),
    ),
    "nadam": ("nadam", {}, lambda p: torch.optim.NAdam(p)),
    "nadam, fast": (
        "nadam",
        {"betas": (0.8, 0.9), "momentum_decay": 0.2, "weight_decay": 0.1, "eps": 1e-3},
        lambda p: torch.optim.NAdam(p, betas=(0.8, 0.9), momentum_decay=0.2, weight_decay=0.1, eps=1e-3),
    ),
    "nadam, decoupled": (
        "nadam",
        {"weight_decay": 0.1, "decay": "decoupled"},
        lambda p: torch.optim.NAdam(p, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    "radam": ("radam", {}, lambda p: torch.optim.RAdam(p)),
    "radam, never rectified": (
        "radam",
        {"betas": (0.9, 0.5), "weight_decay": 0.1},
        lambda p: torch.optim.RAdam(p, betas=(0.9, 0.5), weight_decay=0.1),
    ),
    "radam, decoupled": (
        "radam",
        {"betas": (0.9, 0.98), "weight_decay": 0.1, "decay": "decoupled", "eps": 1e-3},
        lambda p: torch.optim.RAdam(p, betas=(0.9, 0.98), weight_decay=0.1, decoupled_weight_decay=True, eps=1e-3),
    ),
    "adafactor": ("adafactor", {}, lambda p: torch.optim.Adafactor(p, weight_decay=0)),
    "adafactor, every constant": (
        "adafactor",
        {"beta2_decay": -0.5, "eps1": 1e-4, "eps2": 0.9, "clipping": 1.5, "weight_decay": 0.1},
        lambda p: torch.optim.Adafactor(p, beta2_decay=-0.5, eps=(1e-4, 0.9), d=1.5, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("case", BY_TORCH)
def test_equals_torch_optim(case: str, clip: float | None) -> None:
    name, options, made = BY_TORCH[case]
    found = trained(make_rule(name, **options, clip=clip))
    assert worst(found, trained_by(made, clip=clip)) < CLOSE
    assert worst(found, start()) > 0.05, "the problem no longer moves the parameters"


MUON: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"weight_decay": 0}),
    "decayed": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "without a look ahead": ({"nesterov": False, "beta": 0.8}, {"nesterov": False, "momentum": 0.8, "weight_decay": 0}),
    "as large as AdamW": ({"scale": "match_rms_adamw"}, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0}),
    "other polynomials": (
        {"coefficients": [2.0, -1.5, 0.5], "iterations": 3, "eps": 0.5},
        {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "eps": 0.5, "weight_decay": 0},
    ),
}


@pytest.mark.parametrize("case", MUON)
def test_muon_equals_torch_optim_in_double_precision(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # which torch takes, in place from there
    ours, theirs = MUON[case]
    found = trained(make_rule("muon", **ours), MATRICES)
    assert worst(found, trained_by(lambda p: torch.optim.Muon(p, **theirs), MATRICES)) < CLOSE
    assert worst(found, start(MATRICES)) > 0.05


BY_PACKAGE: dict[str, tuple[str, dict[str, Any], Optimizer]] = {
    "lion": ("lion", {}, lambda p: pytorch_optimizer.Lion(p, foreach=False)),
    "lion, decayed": (
        "lion",
        {"betas": (0.8, 0.9), "weight_decay": 0.1},
        lambda p: pytorch_optimizer.Lion(p, betas=(0.8, 0.9), weight_decay=0.1),
    ),
    "lamb": (  # it adds eps to the norm in the ratio, and bounds the norm of the parameters by 10
        "lamb",
        {"bias_correction": False, "eps": 1e-15, "largest": 10.0, "weight_decay": 0.1},
        lambda p: pytorch_optimizer.Lamb(p, eps=1e-15, weight_decay=0.1, weight_decouple=False, adam_debias=True),
    ),
    "adams": ("adamw_swd", {"weight_decay": 0.1}, lambda p: pytorch_optimizer.AdamS(p, weight_decay=0.1)),
    "adams, large eps": (
        "adamw_swd",
        {"weight_decay": 0.1, "eps": 0.01, "betas": (0.8, 0.9)},
        lambda p: pytorch_optimizer.AdamS(p, weight_decay=0.1, eps=0.01, betas=(0.8, 0.9)),
    ),
    "shampoo": (
        "shampoo",
        {"betas": (0.0, 0.0), "statistics": "sum", "eps": 1e-3, "weight_decay": 0.1, "decay": "coupled"},
        lambda p: pytorch_optimizer.Shampoo(p, weight_decay=0.1, matrix_eps=1e-3),
    ),
    "soap": (  # up to its first refresh, which is in float32; words have no basis, as that of rows never seen is any
        "soap",
        {"largest": 6, "period": 100},
        lambda p: pytorch_optimizer.SOAP(p, weight_decay=0, precondition_frequency=100, max_precondition_dim=6),
    ),
    "soap, a decay of its own": (
        "soap",
        {"largest": 6, "period": 100, "factor_beta": 0.5, "betas": (0.8, 0.9), "eps": 1e-3},
        lambda p: pytorch_optimizer.SOAP(
            p,
            betas=(0.8, 0.9),
            shampoo_beta=0.5,
            eps=1e-3,
            weight_decay=0,
            precondition_frequency=100,
            max_precondition_dim=6,
        ),
    ),
}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("case", BY_PACKAGE)
def test_equals_pytorch_optimizer(case: str, clip: float | None) -> None:
    name, options, made = BY_PACKAGE[case]
    found = trained(make_rule(name, **options, clip=clip))
    assert worst(found, trained_by(made, clip=clip)) < CLOSE
    assert worst(found, start()) > 0.05


def test_sophia_equals_pytorch_optimizer_given_the_same_curvature() -> None:
    """There, rate clip(m / max(h, eps), -p, p): ours at p times the rate, with gamma = p and p times eps."""
    bound, period = 0.05, 7

    def stepped(optimizer: Any, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] /= bound
        curvature = LAYOUT.split(curvature_at(step).sum(0) / 6)
        optimizer.step(hessian=[part.clone() for part in curvature] if step % period == 0 else None)

    expected = trained_by(
        lambda p: pytorch_optimizer.SophiaH(
            p, betas=(0.9, 0.8), p=bound, update_period=period, eps=1e-3, weight_decay=0.1 * bound
        ),
        step_with=stepped,
    )
    rule = make_rule("sophia", betas=(0.9, 0.8), gamma=bound, eps=bound * 1e-3, period=period, weight_decay=0.1)
    assert worst(trained(rule), expected) < CLOSE
    assert worst(expected, start()) > 0.05
