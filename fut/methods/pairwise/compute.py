"""The terms of a block of items at one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from estimators.rules.clipping import global_norm
from estimators.state import State
from fut.methods.pairwise.terms import TermLayout
from fut.training.problem import Problem
from storage import Block


def block_terms(
    problem: Problem, layout: TermLayout, state: State, block: Block, names: Sequence[str]
) -> dict[str, Tensor]:
    """The named terms of one block of items at one checkpoint, each [items of the block, k]."""
    gradients = problem.item_gradients(state.theta, range(block.first, block.last))
    result: dict[str, Tensor] = {}
    if "gradient" in names:
        result["gradient"] = layout.kept(gradients)
    if "norm" in names:
        result["norm"] = global_norm(gradients)[:, None]
    if not {"update", "jvp", "second"} & set(names):
        return result
    updates = problem.rule.step(state.rows(len(gradients)), gradients, problem.rate(block.step))[1]
    if "update" in names:
        result["update"] = layout.sketch.project(updates)
    step = ReferenceUpdate(problem, state, block.step, layout.config.products == "exact")
    if "jvp" in names:
        result["jvp"] = layout.sketch.project(torch.stack([step.product(u) for u in updates]))
    if "second" in names:
        result["second"] = layout.sketch.project(torch.stack([step.second_difference(u) for u in updates]))
    return result


class ReferenceUpdate:
    """The displacement that the reference run's step t would make, as a function of where it starts.

    u(theta) with the moments of checkpoint t and the gradient of the items that the reference run consumed.
    """

    def __init__(self, problem: Problem, state: State, step: int, exact: bool) -> None:
        self.problem, self.state, self.rate, self.exact = problem, state, problem.rate(step), exact
        self.items = problem.reference.steps[step]
        self.gradient = self._gradient(state.theta)
        self.here = problem.rule.step(state, self.gradient, self.rate)[1]

    def _mean(self, of: Callable[[int], Tensor]) -> Tensor:
        return sum((of(i) for i in self.items), torch.zeros_like(self.state.theta)) / len(self.items)

    def _gradient(self, theta: Tensor) -> Tensor:
        return self.problem.mean_gradient(theta, self.items, [1.0 / len(self.items)] * len(self.items))

    def product(self, direction: Tensor) -> Tensor:
        """J_t u [D]: the rule's exact tangent, fed with the Hessian-vector product of the step's loss."""
        bent = self._mean(lambda i: self.problem.product(self.state.theta, i, direction, self.exact))
        still = State(direction, {k: torch.zeros_like(b) for k, b in self.state.memory.items()}, self.state.clock)
        return self.problem.rule.tangent(self.state, self.gradient, self.rate, still, bent).theta - direction

    def second_difference(self, direction: Tensor) -> Tensor:
        """u(theta + u) - 2 u(theta) + u(theta - u) [D]: the second derivative along u, at the length of one step."""
        return self._at(direction) + self._at(-direction) - 2 * self.here

    def _at(self, shift: Tensor) -> Tensor:
        theta = self.state.theta + shift
        here = State(theta, self.state.memory, self.state.clock)
        return self.problem.rule.step(here, self._gradient(theta), self.rate)[1]
