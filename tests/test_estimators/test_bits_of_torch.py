"""Adam and AdamW in float32: the bits of `torch.optim`, whose operations round a number alike wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from estimators.parameters import ParameterLayout
from estimators.rules import blockwise
from estimators.rules.base import next_state
from estimators.rules.moments import next_power
from estimators.torch_optimizers import from_optimizer

pytestmark = pytest.mark.fast
SHAPES = {"embed": (37, 11), "norm": (11,), "gain": (), "head": (5, 11), "last": (3,)}
STEPS = 40


class Tensors(nn.Module):
    """Parameters of several shapes, whose gradients are given."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=draw)))


def groups(of: Tensors) -> list[dict[str, Any]]:
    wide = [p for p in of.parameters() if p.ndim > 1]
    plain = [p for p in of.parameters() if p.ndim <= 1]
    return [{"params": wide, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0, "lr": 0.003}]


PLAIN: dict[str, Any] = {"lr": 0.02, "foreach": False, "fused": False}
MAKERS: dict[str, Callable[[Tensors], Optimizer]] = {
    "adamw": lambda t: AdamW(t.parameters(), **PLAIN),
    "betas": lambda t: AdamW(t.parameters(), betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3, **PLAIN),
    "no decay": lambda t: AdamW(t.parameters(), weight_decay=0.0, **PLAIN),
    "amsgrad": lambda t: AdamW(t.parameters(), betas=(0.9, 0.7), amsgrad=True, **PLAIN),
    "adam": lambda t: Adam(t.parameters(), **PLAIN),
    "coupled": lambda t: Adam(t.parameters(), weight_decay=0.1, amsgrad=True, **PLAIN),
    "groups": lambda t: AdamW(groups(t), betas=(0.9, 0.95), **PLAIN),
}


def gradient_at(step: int, layout: ParameterLayout) -> Tensor:
    """Gradients over several orders of magnitude; some are 0."""
    draw = torch.Generator().manual_seed(100 + step)
    values = torch.randn(layout.size, generator=draw) * 10.0 ** torch.randint(-9, 2, (layout.size,), generator=draw)
    return values * (torch.rand(layout.size, generator=draw) > 0.1)


@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_float32_parameters_get_the_bits_of_torch(
    name: str, whole: bool, clip: float | None, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(blockwise, "BLOCK", 50)
        monkeypatch.setattr(blockwise, "NARROWEST", 10)
    module = Tensors()
    optimizer = MAKERS[name](module)
    layout = ParameterLayout(tuple(SHAPES), tuple(SHAPES.values()))

    def torch_steps(first: int, last: int) -> None:
        for step in range(first, last):
            for p, given in zip(module.parameters(), layout.split(gradient_at(step, layout)), strict=True):
                p.grad = given.clone()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()

    torch_steps(0, before)
    rule, rates, state, _ = from_optimizer(optimizer, module, clip)
    state = state.rows(2)
    for step in range(before, before + STEPS):
        state = next_state(rule, state, gradient_at(step, layout).expand(2, -1), rates)
    torch_steps(before, before + STEPS)
    expected = layout.join([p.detach() for p in module.parameters()])
    assert torch.equal(state.theta, expected.expand(2, -1))
    moments = layout.join([optimizer.state[p]["exp_avg_sq"] for p in module.parameters()])
    assert torch.equal(state.memory["v"], moments.expand(2, -1))


OPERATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "lerp": lambda a, b, _: torch.lerp(a, b, 1.0 - 0.9),
    "lerp from the end": lambda a, b, _: torch.lerp(a, b, 1.0 - 0.2),
    "addcmul": lambda a, b, _: torch.addcmul(a, b, b, value=0.05),
    "addcdiv": lambda a, b, c: torch.addcdiv(a, b, c, value=-1e-3),
    "add": lambda a, b, _: torch.add(a, b, alpha=0.1),
    "sqrt": lambda _, __, c: c.sqrt(),
    "quotient": lambda a, _, __: a / 0.37,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_rounds_a_number_alike_wherever_it_stands(name: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(1031, generator=draw, dtype=dtype) for _ in range(3))
    c = c.abs() + 0.1
    whole, alone = OPERATIONS[name](a, b, c), [OPERATIONS[name](a[i], b[i], c[i]) for i in range(len(a))]
    assert torch.equal(whole, torch.stack(alone))
    stack = OPERATIONS[name](*(t.expand(3, -1) for t in (a, b, c)))
    assert torch.equal(stack, whole.expand(3, -1))


@pytest.mark.parametrize("beta", [0.9, 0.95, 0.999, 0.5, 1e-3, 1 - 1e-9])
def test_products_of_a_constant_decay_are_its_powers(beta: float) -> None:
    product = 1.0
    for step in range(1, 3000):
        product = next_power(product, beta)
        assert product == pytest.approx(beta ** float(step), rel=0, abs=0) or product < 1e-280


def test_products_of_other_decays_are_products() -> None:
    assert next_power(0.3, 0.9) == 0.3 * 0.9
    assert next_power(0.5, 0.0) == 0.0
    assert next_power(0.0, 0.9) == 0.0
