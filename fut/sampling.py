"""Samples: which coordinates matter, by their contributions under simulated orders; batches drawn from all items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .expansion import Expansion


ALL_UP_TO = 1 << 17
"""Parameters of a model of which all coordinates are kept, where nothing else is configured."""


def expected_coordinates(size: int, configured: int, sampled: int) -> int:
    """How many coordinates of `size` are kept, in expectation: as configured; by default (0) all of a small model and
    `sampled` of a large one."""
    return min(size, configured or (size if size <= ALL_UP_TO else sampled))


def contribution_scores(expansion: Expansion, simulated: int) -> Tensor:
    """E|contribution| of every coordinate [D], without any gradient beyond the centre's own.

    The mean over read-outs, and as much again for the functionals, each scaled to a total of 1 first, so that none counts
    more for being in larger units.

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
    scores = total.double().abs().mean(dim=0)
    scores = scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    readouts = len(expansion.names)
    parts = [part.mean(dim=0) for part in (scores[:readouts], scores[readouts:]) if len(part)]
    return torch.stack(parts).mean(dim=0)


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
