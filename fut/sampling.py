"""Samples: which coordinates matter, by their contributions under simulated orders; batches drawn from all items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .models import Item

if TYPE_CHECKING:
    from .expansion import Expansion


def contribution_scores(expansion: Expansion, simulated: int) -> Tensor:
    """E|contribution| of every coordinate [D], the mean over read-outs, without any gradient beyond the centre's own.

    A simulated order draws, at every step, normal gradients around the mixture's mean with the spread between items
    seen along the centre (coordinate by coordinate), and replays the true rule on them.
    """
    problem, spread = expansion.problem, gradient_spread(expansion)
    draw = torch.Generator().manual_seed(expansion.config.seed + 1)
    state = expansion.start().rows(simulated)
    total = torch.zeros(simulated, len(expansion.weight(0)), len(spread), device=problem.device)
    for step in range(expansion.steps + 1):
        total += (state.theta - expansion.state(step).theta)[:, None] * expansion.weight(step)
        if step < expansion.steps:
            noise = torch.randn(state.theta.shape, generator=draw).to(state.theta)
            gradient = expansion.gradients_of(step).mean(0) + spread * noise
            state = problem.rule.step(state, gradient, problem.rate(step))[0]
    return total.double().abs().mean(dim=(0, 1))


def gradient_spread(expansion: Expansion) -> Tensor:
    """Standard deviation of item gradients about their step's mean [D], pooled over the window."""
    previous: Tensor | None = None
    total = torch.zeros(expansion.problem.objective.size, dtype=torch.float64, device=expansion.problem.device)
    for step in range(expansion.steps):
        found = expansion.gradients_of(step).double()
        if len(found) > 1:
            total += found.var(0)
        elif previous is not None:
            total += (found[0] - previous).square() / 2  # with one item a step, neighbours in time stand in
        previous = found[0]
    return (total / expansion.steps).sqrt().to(expansion.problem.objective.dtype)


def pooled_batch(items: Sequence[Item], size: int, draw: np.random.Generator) -> Item:
    """An item of `size` samples drawn from all items, all of them where they are fewer, in the order of the items."""
    total = sum(len(item[0]) for item in items)
    chosen = np.sort(draw.choice(total, min(total, size), replace=False))
    owners = np.repeat(np.arange(len(items)), [len(item[0]) for item in items])
    within = np.concatenate([np.arange(len(item[0])) for item in items])
    rows = [tuple(t[within[s]] for t in items[owners[s]]) for s in chosen]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
