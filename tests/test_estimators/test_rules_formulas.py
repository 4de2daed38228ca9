"""Update rules without a well-kept implementation elsewhere, against their formulas written out tensor by tensor in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rule_problem import (
    LAYOUT,
    MATRICES,
    RATE,
    STEPS,
    curvature_at,
    gradient_at,
    items_at,
    rate_at,
    start,
    trained,
    worst,
)
from torch import Tensor

from estimators.parameters import ParameterLayout
from estimators.rules import RULES, make_rule
from estimators.rules.cross_fitting import folds

CLOSE = 1e-10
Step = Callable[[list[Tensor], Tensor, int], list[Tensor]]


def written_out(step: Step, layout: ParameterLayout = LAYOUT) -> Tensor:
    """Where tensors end of which `step` makes the next ones, from their gradients."""
    parts = layout.split(start(layout))
    for t in range(STEPS):
        theta = torch.cat([part.flatten() for part in parts])
        parts = step(parts, theta, t)
    return torch.cat([part.flatten() for part in parts])


def require_equal(rule: str, step: Step, layout: ParameterLayout = LAYOUT, **options: Any) -> None:
    found, expected = trained(make_rule(rule, **options), layout), written_out(step, layout)
    assert worst(found, expected) < CLOSE
    assert worst(found, start(layout)) > 0.05, "the problem no longer moves the parameters"


def zeros(layout: ParameterLayout = LAYOUT) -> list[Tensor]:
    return [torch.zeros(shape, dtype=torch.float64) for shape in layout.shapes]


def powered(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**power) @ vectors.mT


def test_lamb() -> None:
    m, v = zeros(), zeros()

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        after = []
        for i, (w, g) in enumerate(zip(parts, LAYOUT.split(gradient_at(theta, t)), strict=True)):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.99 * v[i] + 0.01 * g**2
            r = (m[i] / (1 - 0.9 ** (t + 1))) / ((v[i] / (1 - 0.99 ** (t + 1))).sqrt() + 1e-3) + 0.1 * w
            after.append(w - rate_at(t) * w.norm() / r.norm() * r)
        return after

    require_equal("lamb", step, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1)


def test_muon_as_keller_jordan_has_it() -> None:
    m = zeros(MATRICES)

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        after = []
        for i, (w, g) in enumerate(zip(parts, MATRICES.split(gradient_at(theta, t, MATRICES)), strict=True)):
            m[i] = m[i] + 0.05 * (g - m[i])
            update = g + 0.95 * (m[i] - g)
            x = update.T if len(update) > len(update[0]) else update
            x = x / (x.norm() + 0.3)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.T if len(update) > len(update[0]) else x
            after.append(w * (1 - rate_at(t) * 0.1) - rate_at(t) * max(1, len(w) / len(w[0])) ** 0.5 * x)
        return after

    require_equal("muon", step, MATRICES, variant="keller_jordan", eps=0.3, weight_decay=0.1)
    other = trained(make_rule("muon", eps=0.3, weight_decay=0.1), MATRICES)
    assert worst(other, trained(make_rule("muon", variant="keller_jordan", eps=0.3, weight_decay=0.1), MATRICES)) > 1e-3


def axes(part: Tensor, largest: int) -> list[int]:
    return [axis for axis in range(part.ndim) if part.shape[axis] <= largest]


def gram(part: Tensor, axis: int) -> Tensor:
    if part.ndim == 1:
        return torch.outer(part, part)
    return part @ part.T if axis == 0 else part.T @ part


def turned(part: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return matrix @ part if axis == 0 else part @ matrix.T


def test_shampoo_with_means_and_momentum() -> None:
    m, factors = zeros(), dict[tuple[int, int], Any]()

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        after = []
        for i, (w, g) in enumerate(zip(parts, LAYOUT.split(gradient_at(theta, t)), strict=True)):
            m[i] = 0.8 * m[i] + 0.2 * g
            u = m[i] / (1 - 0.8 ** (t + 1))
            for axis in axes(g, 6):
                factors[i, axis] = 0.9 * factors.get((i, axis), 0.0) + 0.1 * gram(g, axis)
                whole = factors[i, axis] / (1 - 0.9 ** (t + 1)) + 1e-3 * torch.eye(g.shape[axis]).double()
                u = turned(u, axis, powered(whole, -1 / (2 * g.ndim)))
            after.append(w - rate_at(t) * 0.1 * w - rate_at(t) * u)
        return after

    require_equal("shampoo", step, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, largest=6)


def test_soap_across_refreshes() -> None:
    m, v, factors, bases = zeros(), zeros(), dict[tuple[int, int], Any](), dict[tuple[int, int], Any]()

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        after = []
        for i, (w, g) in enumerate(zip(parts, LAYOUT.split(gradient_at(theta, t)), strict=True)):
            own = axes(g, 6) if g.ndim > 1 else []
            moved = w
            if t:
                m[i] = 0.9 * m[i] + 0.1 * g
                flat, mean = g, m[i]
                for axis in own:
                    flat, mean = turned(flat, axis, bases[i, axis].T), turned(mean, axis, bases[i, axis].T)
                v[i] = 0.95 * v[i] + 0.05 * flat**2
                u = mean / (v[i].sqrt() + 1e-8)
                for axis in own:
                    u = turned(u, axis, bases[i, axis])
                moved = w - rate_at(t) * math.sqrt(1 - 0.95**t) / (1 - 0.9**t) * u
            for axis in own:
                factors[i, axis] = 0.95 * factors.get((i, axis), 0.0) + 0.05 * gram(g, axis)
                if not t:
                    bases[i, axis] = torch.linalg.eigh(factors[i, axis])[1].flip(1)
                elif t % 4 == 0:
                    ahead = factors[i, axis] @ bases[i, axis]
                    places = torch.argsort((bases[i, axis] * ahead).sum(0), descending=True)
                    v[i] = v[i][places] if axis == 0 else v[i][:, places]
                    bases[i, axis] = torch.linalg.qr(ahead[:, places])[0]
            after.append(moved)
        return after

    require_equal("soap", step, betas=(0.9, 0.95), period=4, largest=6)


@pytest.mark.parametrize("name", ["momentum", "adamw", "lion"])
def test_matched_clocks_are_the_rule_with_the_decays_of_each_step(name: str) -> None:
    reference, (m, v), products = 0.05, (zeros(), zeros()), [1.0, 1.0]
    b1, b2 = {"momentum": (0.9, 0.0), "adamw": (0.9, 0.99), "lion": (0.9, 0.95)}[name]

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        rate, after = rate_at(t), []
        one, two = math.exp(math.log(b1) / reference * rate), math.exp(math.log(b2) / reference * rate) if b2 else 0.0
        products[0], products[1] = products[0] * one, products[1] * two
        for i, (w, g) in enumerate(zip(parts, LAYOUT.split(gradient_at(theta, t)), strict=True)):
            if name == "lion":
                u = torch.sign(one * m[i] + (1 - one) * g)
                m[i] = two * m[i] + (1 - two) * g
            else:
                m[i] = one * m[i] + (1 - one) * g
                v[i] = two * v[i] + (1 - two) * g**2
                u = m[i]
                if name == "adamw":
                    u = m[i] / (1 - products[0]) / ((v[i] / (1 - products[1])).sqrt() + 1e-8)
            after.append(w - rate * u)
        return after

    options: dict[str, Any] = {"beta": b1} if name == "momentum" else {"betas": (b1, b2)}
    require_equal(f"{name}_clock_matched", step, reference_rate=reference, **options)


@pytest.mark.parametrize("name", ["momentum", "adamw", "lion"])
def test_at_the_reference_rate_matched_clocks_are_the_rule_itself(name: str) -> None:
    plain = make_rule(name, **({"kind": "ema"} if name == "momentum" else {}), weight_decay=0.1, clip=0.5)
    matched = make_rule(f"{name}_clock_matched", reference_rate=RATE, weight_decay=0.1, clip=0.5)
    ours, theirs = matched.init(start()), plain.init(start())
    for t in range(5):
        ours, theirs = (r.step(s, gradient_at(s.theta, t), RATE)[0] for r, s in ((matched, ours), (plain, theirs)))
    assert torch.equal(ours.theta, theirs.theta)
    still = matched.step(ours, gradient_at(ours.theta, 0), 0.0)[0]
    assert torch.equal(still.theta, ours.theta)
    assert all(torch.equal(still.memory[k], ours.memory[k]) for k in ours.memory)
    cold = matched.init(start())
    assert torch.equal(matched.step(cold, gradient_at(cold.theta, 0), 0.0)[0].theta, start())


FOLDS = {"none": 1, "halves": 2, "leave_one_out": 6}
CORRECTED = [("leave_one_out", True), ("halves", True), ("none", True), ("leave_one_out", False)]


@pytest.mark.parametrize(
    ("cross_fit", "correction"),
    [("leave_one_out", "root"), ("halves", "square"), ("none", "root"), ("leave_one_out", "square"), ("halves", None)],
)
def test_corrected_adamw(cross_fit: Any, correction: str | None) -> None:
    b1, b2, eps, m, v = 0.9, 0.8, 1e-2, zeros(), zeros()

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        items, after = [LAYOUT.split(g) for g in items_at(theta, t)], []
        c1, c2 = 1 - b1 ** (t + 1), 1 - b2 ** (t + 1)
        for i, w in enumerate(parts):
            g = torch.stack([item[i] for item in items])
            u = torch.zeros_like(w)
            for ours, theirs in folds(cross_fit, 6):
                mean = b1 * m[i] + (1 - b1) * g[ours].mean(0)
                second = (b2 * v[i] + (1 - b2) * g[theirs].mean(0) ** 2) / c2
                inverse = 1 / (second.sqrt() + eps)
                if correction == "root":
                    p = ((b2 * v[i] + (1 - b2) * g[theirs] ** 2) / c2).sqrt()
                    inverse = inverse - p.var(0) / len(theirs) * inverse**3
                if correction == "square":
                    noise = ((1 - b2) / c2) ** 2 * (g[theirs] ** 2).var(0) / len(theirs)
                    bend = inverse**3 / (4 * second) + inverse**2 / (8 * second**1.5)
                    inverse = inverse - torch.where(second > 0, noise * bend, 0.0)
                u = u + mean * inverse.clamp(min=0) / FOLDS[cross_fit]
            whole = g.mean(0)
            m[i], v[i] = b1 * m[i] + (1 - b1) * whole, b2 * v[i] + (1 - b2) * whole**2
            after.append(w - rate_at(t) * 0.1 * w - rate_at(t) / c1 * u)
        return after

    options: dict[str, Any] = {"correct_variance": correction is not None, "correction": correction or "root"}
    require_equal("adamw_corrected", step, betas=(b1, b2), eps=eps, cross_fit=cross_fit, weight_decay=0.1, **options)


@pytest.mark.parametrize(("cross_fit", "correct"), CORRECTED)
def test_corrected_sophia(cross_fit: Any, correct: bool) -> None:
    b1, b2, gamma, eps, m, h, spread = 0.9, 0.8, 0.5, 0.1, zeros(), zeros(), zeros()

    def clipped(mean: Tensor, second: Tensor, noise: Tensor) -> Tensor:
        p = gamma * second + eps
        inverse = 1 / p - (noise / p**3 if correct else 0.0)
        return (mean * inverse.clamp(min=0)).clamp(-1, 1)

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        items, after = [LAYOUT.split(g) for g in items_at(theta, t)], []
        curvature = [LAYOUT.split(c) for c in curvature_at(t)]
        for i, w in enumerate(parts):
            g, c = (torch.stack([item[i] for item in stack]) for stack in (items, curvature))
            whole = b1 * m[i] + (1 - b1) * g.mean(0)
            if t % 3:
                u = clipped(whole, h[i], spread[i])
            else:
                u = torch.zeros_like(w)
                for ours, theirs in folds(cross_fit, 6):
                    mean = b1 * m[i] + (1 - b1) * g[ours].mean(0)
                    second = b2 * h[i] + (1 - b2) * c[theirs].mean(0)
                    noise = (gamma * (1 - b2) * c[theirs]).var(0) / len(theirs)
                    u = u + clipped(mean, second, noise) / FOLDS[cross_fit]
                h[i], spread[i] = b2 * h[i] + (1 - b2) * c.mean(0), (gamma * (1 - b2) * c).var(0) / 6
            m[i] = whole
            after.append(w - rate_at(t) * u)
        return after

    options: dict[str, Any] = {"betas": (b1, b2), "gamma": gamma, "eps": eps, "period": 3}
    require_equal("sophia_corrected", step, cross_fit=cross_fit, correct_variance=correct, **options)


@pytest.mark.parametrize(("cross_fit", "correct"), CORRECTED)
def test_corrected_shampoo(cross_fit: Any, correct: bool) -> None:
    """Of matrices, whose factors have no two equal eigenvalues; for others see `test_rules_properties.py`."""
    b1, b2, eps, m, factors = 0.8, 0.7, 0.05, zeros(MATRICES), dict[tuple[int, int], Any]()

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        items, after = [MATRICES.split(g) for g in items_at(theta, t, MATRICES)], []
        c1, c2 = 1 - b1 ** (t + 1), 1 - b2 ** (t + 1)
        for i, w in enumerate(parts):
            g, total = torch.stack([item[i] for item in items]), torch.zeros_like(w)
            for ours, theirs in folds(cross_fit, 6):
                u = b1 * m[i] + (1 - b1) * g[ours].mean(0)
                for axis in axes(w, 6):
                    mixed = b2 * factors.get((i, axis), 0.0) + (1 - b2) * gram(g[theirs].mean(0), axis)
                    values, vectors = torch.linalg.eigh(mixed / c2 + eps * torch.eye(w.shape[axis]).double())
                    roots = values**-0.25
                    if correct:
                        own = torch.stack([(vectors.T @ gram(g[j], axis) @ vectors).diag() for j in theirs])
                        noise = ((1 - b2) / c2 * own).var(0) / len(theirs)
                        roots = (roots - 5 / 32 * values ** (-9 / 4) * noise).clamp(min=0)
                    u = turned(u, axis, vectors @ torch.diag(roots) @ vectors.T)
                total = total + u / FOLDS[cross_fit]
            whole = g.mean(0)
            m[i] = b1 * m[i] + (1 - b1) * whole
            for axis in axes(w, 6):
                factors[i, axis] = b2 * factors.get((i, axis), 0.0) + (1 - b2) * gram(whole, axis)
            after.append(w - rate_at(t) / c1 * total)
        return after

    options: dict[str, Any] = {"betas": (b1, b2), "eps": eps, "largest": 6}
    require_equal("shampoo_corrected", step, MATRICES, cross_fit=cross_fit, correct_variance=correct, **options)


MODULES = ["embedding", "mlp", "vectors", "vectors", "vectors", "head"]


@pytest.mark.parametrize("scaling", ["frozen", "online"])
@pytest.mark.parametrize("reference", ["highest", "mean"])
@pytest.mark.parametrize("power", [1.0, -1.0])
def test_module_scales(scaling: str, reference: str, power: float) -> None:
    b1, b2, m, v, scale = 0.9, 0.95, zeros(), zeros(), dict.fromkeys(MODULES, 1.0)
    most = 0

    def step(parts: list[Tensor], theta: Tensor, t: int) -> list[Tensor]:
        nonlocal most
        for i, g in enumerate(LAYOUT.split(gradient_at(theta, t))):
            m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g**2
        c1, c2 = 1 - b1 ** (t + 1), 1 - b2 ** (t + 1)
        rho = (1 - b1) / (1 + b1) * (1 + b1 ** (t + 1)) / (1 - b1 ** (t + 1))
        if t + 1 == 10 or (t + 1 > 10 and scaling == "online"):
            noises = {}
            for module in scale:
                own = [i for i, other in enumerate(MODULES) if other == module]
                first = sum(float((m[i] ** 2).sum()) for i in own) / c1**2
                second = sum(float(v[i].sum()) for i in own) / c2
                signal, noise = (first - rho * second) / (1 - rho), (second - first) / (1 - rho)
                noises[module] = 1 + 1 / max(signal / noise, 1e-3)
            level = min(noises.values()) if reference == "highest" else math.prod(noises.values()) ** 0.25
            scale.update({k: min(max((n / level) ** (power / 2), 0.2), 5.0) for k, n in noises.items()})
            most = max(most, len(set(scale.values())))
        return [
            w - rate_at(t) * scale[MODULES[i]] * (m[i] / c1) / ((v[i] / c2).sqrt() + 1e-8) for i, w in enumerate(parts)
        ]

    options: dict[str, Any] = {"betas": (b1, b2), "calibration": 10, "largest": 5.0}
    require_equal("adamw_mols", step, power=power, scaling=scaling, reference=reference, **options)
    assert most > 2, "the modules no longer differ"


def test_every_registered_rule_is_compared_with_something() -> None:
    """Which one is said in its documentation."""
    undocumented = [
        name for name, rule in RULES.items() if "tested" not in (rule.__doc__ or "").lower() and name not in OLDER
    ]
    assert undocumented == []


OLDER = {"sgd", "momentum", "adam", "adamw"}
"""Tested in `test_rules.py` against `torch.optim`."""
