"""The exact derivative of a read-out by the weights of the samples, through all of training: MAGIC's, written anew.

Engstrom et al. 2025, arXiv 2503.13751 (REPLAY), and Ilyas and Engstrom 2025, arXiv 2504.16430 (MAGIC): reverse mode through the
training itself, a step at a time from the saved states. A step is written here in plain torch, loss and AdamW, and torch's
autograd goes back through it, the gradient of the gradient included. Nothing of it uses `fut`'s derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from field_gradients import log_probabilities, of_module, sequences
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from estimators.rules.adam import Adam
from estimators.state import State
from fut.training.problem import Problem

Moments = tuple[Tensor, Tensor, Tensor]
"""Parameters, first and second moment [D]."""


@dataclass(frozen=True)
class Metagradient:
    """weights: derivative of the read-out by the weight of every sample of every step, at weight 1, [T, n]. error: the largest
    difference of a step that was made anew here from the state that training saved, relative to what the step moved."""

    weights: Tensor
    error: float

    def by_item(self, steps: Sequence[Sequence[int]], items: int) -> Tensor:
        """The same, summed over every item's own places: [items]."""
        total = torch.zeros(items, dtype=torch.float64)
        places = torch.tensor([list(step) for step in steps])
        return total.index_add(0, places.flatten(), self.weights.double().flatten())


def metagradient(problem: Problem, state: Callable[[int], State]) -> Metagradient:
    """Of the mean probe loss after the reference run.

    Args:
        problem: what is trained: a model over tokens, items of one sample, AdamW without clipping.
        state: the lifted state [D] before a step.

    Raises:
        TypeError: for another rule, of which the step is not written here.
    """
    if not isinstance(problem.rule, Adam) or problem.rule.clip is not None or problem.rule.amsgrad:
        raise TypeError(f"metagradient: expected adam or adamw without clip and amsgrad, got {problem.rule}")
    steps = problem.reference.steps
    end = state(len(steps)).theta
    back: Moments = (problem.probe_gradient(end), torch.zeros_like(end), torch.zeros_like(end))
    found, errors = [], []
    for t in reversed(range(len(steps))):
        before = state(t)
        given = [x.clone().requires_grad_() for x in (before.theta, before.memory["m"], before.memory["v"])]
        weights = torch.ones(len(steps[t]), dtype=end.dtype, requires_grad=True)
        with sdpa_kernel(SDPBackend.MATH):
            after = step(problem, t, before.clock, (given[0], given[1], given[2]), weights)
            moved, truth = after[0].detach() - before.theta, state(t + 1).theta - before.theta
            errors.append(((moved - truth).norm() / truth.norm()).item())
            *pulled, by_weights = torch.autograd.grad(after, (*given, weights), back)
        back = (pulled[0], pulled[1], pulled[2])
        found.append(by_weights)
    return Metagradient(torch.stack(found[::-1]), max(errors))


def step(problem: Problem, t: int, clock: dict[str, float], given: Moments, weights: Tensor) -> Moments:
    """A step of Adam or AdamW on the weighted mean loss of the step's samples, with a graph of everything in it."""
    theta, m, v = given
    objective, rule = problem.objective, problem.rule
    assert isinstance(rule, Adam)
    tokens = sequences([problem.data.items[i] for i in problem.reference.steps[t]])
    losses = -log_probabilities(objective.module, of_module(objective, theta), tokens).mean(-1)
    (gradient,) = torch.autograd.grad((weights * losses).sum() / weights.sum(), theta, create_graph=True)
    if rule.decay == "coupled":
        gradient = gradient + rule.weight_decay * theta
    kept = 1.0 if rule.decay == "coupled" else 1.0 - problem.rate(t) * rule.weight_decay
    b1, b2 = rule.betas
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient.square()
    seen = v > 0  # elsewhere no sample so far had a gradient: the step is 0, and its derivative is taken as 0
    root = torch.where(seen, v, torch.ones_like(v)).sqrt() / (1 - clock["p2"] * b2) ** 0.5
    moved = torch.where(seen, m / (root + rule.eps), torch.zeros_like(m))
    return kept * theta - problem.rate(t) / (1 - clock["p1"] * b1) * moved, m, v
