"""A small language model with an embedding, matrices, a bias and a norm, on which update rules are compared with others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from estimators.contract import normal
from estimators.parameters import ParameterLayout
from estimators.rules.base import Rule
from estimators.rules.signals import Signals
from estimators.state import State

STEPS = 50
RATE = 0.02
WORDS, WIDTH, INNER = 7, 4, 5
LAYOUT = ParameterLayout(
    ("embed.weight", "up.weight", "up.bias", "norm.weight", "norm.bias", "head.weight"),
    ((WORDS, WIDTH), (INNER, WIDTH), (INNER,), (INNER,), (INNER,), (WORDS, INNER)),
)
MATRICES = ParameterLayout(("embed.weight", "up.weight", "head.weight"), ((7, 4), (5, 4), (7, 5)))
"""Those of the model's tensors that are matrices; the others stay where they began."""
START = normal(LAYOUT.size, seed=3)
_DRAW = torch.Generator().manual_seed(5)
READ = torch.randint(0, WORDS - 1, (STEPS, 6, 8), generator=_DRAW)  # the last word is never read: its row is dead
NEXT = torch.randint(0, WORDS, (STEPS, 6, 8), generator=_DRAW)


def rate_at(step: int) -> float:
    """A rate that changes."""
    return RATE * (1 - 0.01 * step)


def loss_of(theta: Tensor, read: Tensor, following: Tensor, layout: ParameterLayout = LAYOUT) -> Tensor:
    """The mean cross-entropy of the words that follow, at parameters [D]."""
    parts = dict(zip(LAYOUT.names, LAYOUT.split(START), strict=True))
    parts |= dict(zip(layout.names, layout.split(theta), strict=True))
    hidden = torch.tanh(parts["embed.weight"][read] @ parts["up.weight"].mT + parts["up.bias"])
    hidden = torch.nn.functional.layer_norm(hidden, (INNER,), parts["norm.weight"], parts["norm.bias"])
    logits = hidden @ parts["head.weight"].mT
    return torch.nn.functional.cross_entropy(logits.reshape(-1, WORDS), following.flatten())


def gradient_at(theta: Tensor, step: int, layout: ParameterLayout = LAYOUT) -> Tensor:
    """The mean gradient [D] of a step's items."""
    found: Tensor = torch.func.grad(lambda at: loss_of(at, READ[step], NEXT[step], layout))(theta)
    return found


def items_at(theta: Tensor, step: int, layout: ParameterLayout = LAYOUT) -> Tensor:
    """The gradients [6, D] of a step's items."""

    def loss(at: Tensor, read: Tensor, following: Tensor) -> Tensor:
        return loss_of(at, read, following, layout)

    found: Tensor = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(theta, READ[step], NEXT[step])
    return found


def curvature_at(step: int, layout: ParameterLayout = LAYOUT) -> Tensor:
    """What stands for estimated curvature [6, D] of a step's items."""
    return normal(6, layout.size, seed=100 + step).square()


def start(layout: ParameterLayout = LAYOUT) -> Tensor:
    """Where training begins [D]."""
    parts = dict(zip(LAYOUT.names, LAYOUT.split(START), strict=True))
    return layout.join([parts[name] for name in layout.names])


def signals_at(rule: Rule, state: State, step: int) -> tuple[Tensor, Signals]:
    """The mean gradient of a step and the signals that the rule needs there."""
    layout = rule.parameters
    if not rule.signals:
        return gradient_at(state.theta, step, layout), Signals()
    items = items_at(state.theta, step, layout)
    return items.sum(0) / len(items), Signals(items, curvature_at(step, layout))


def trained(rule: Rule, layout: ParameterLayout = LAYOUT, steps: int = STEPS) -> Tensor:
    """Where the rule ends [D]."""
    bound = rule.on(layout)
    state = bound.init(start(layout))
    for step in range(steps):
        gradient, signals = signals_at(bound, state, step)
        state = bound.step(state, gradient, rate_at(step), signals=signals)[0]
    return state.theta


Optimizer = Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]


def trained_by(
    made: Optimizer,
    layout: ParameterLayout = LAYOUT,
    clip: float | None = None,
    step_with: Callable[[torch.optim.Optimizer, int], object] | None = None,
) -> Tensor:
    """Where an optimizer ends [D]; `step_with` replaces its `step()`."""
    parameters = [torch.nn.Parameter(part.clone()) for part in layout.split(start(layout))]
    optimizer = made(parameters)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step)
        optimizer.zero_grad()
        theta = torch.cat([p.flatten() for p in parameters])
        loss_of(theta, READ[step], NEXT[step], layout).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        if step_with is None:
            optimizer.step()
        else:
            step_with(optimizer, step)
    return torch.cat([p.detach().flatten() for p in parameters])


def worst(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return float((a - b).abs().max())
