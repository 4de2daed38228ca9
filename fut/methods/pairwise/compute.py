"""The cacher: for every (checkpoint, item) pair, the terms that the estimators replay. Resumable block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from estimators.rules.clipping import global_norm
from estimators.state import State
from fut.errors import UsageError
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.lowrank.terms import Base
from fut.methods.pairwise.terms import TermLayout
from fut.methods.reweighting.terms import Sensitivities
from fut.progress import Progress, silent
from fut.training.problem import Problem
from storage import Block, Terms

STAGED = ("adjoint", "curved", "reweighting")
"""What is cached in stages of its own, and asked for like a term."""
StateAt = Callable[[int], State]


@dataclass(frozen=True)
class CachePlan:
    """What caching will cost. gradients: evaluations still to do; seconds: from a short timing here; bytes: on disk."""

    terms: list[str]
    blocks: int
    gradients: int
    seconds: float
    nbytes: int


def plan_cache(
    problem: Problem,
    layout: TermLayout,
    terms: Terms,
    names: Sequence[str],
    state: State,
    expansion: Expansion | None = None,
    base: Base | None = None,
    sensitivities: Sensitivities | None = None,
) -> CachePlan:
    """Cost of what is missing. state: any checkpoint [D], at which two gradients are timed."""
    missing = terms.missing(names) if names else []
    share = sum(b.last - b.first for b in missing) / (layout.steps * layout.items)
    gradients, nbytes = round(layout.gradients(list(names)) * share), round(layout.nbytes(list(names)) * share)
    stages, named = len(missing), list(names)
    if base is not None and not base.complete():
        gradients, nbytes, stages = gradients + base.missing_gradients(), nbytes + base.nbytes(), stages + 1
        named = ["curved", *named]
    for name, wanted in (("reweighting", sensitivities), ("adjoint", expansion)):
        if wanted is not None and not wanted.complete():
            gradients, nbytes, stages = gradients + wanted.gradients(), nbytes + wanted.nbytes(), stages + 1
            named = [name, *named]
    return CachePlan(named, stages, gradients, gradients * seconds_per_gradient(problem, state), nbytes)


def seconds_per_gradient(problem: Problem, state: State) -> float:
    """Seconds of one gradient here, the faster of two."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        problem.gradient(state.theta, 0).sum().item()
        times.append(time.perf_counter() - began)
    return min(times)


def known_terms(layout: TermLayout, names: Sequence[str] | None) -> list[str]:
    """The requested term names, checked; all of the layout's for None."""
    unknown = sorted(set(names or ()) - set(layout.names))
    if unknown:
        raise UsageError(
            f"terms: expected some of {', '.join([*layout.names, *STAGED])}, got {', '.join(unknown)}; "
            f"cache.derivative={layout.config.derivative} stores no others"
        )
    return [n for n in layout.names if names is None or n in names]


def fill(
    problem: Problem,
    layout: TermLayout,
    terms: Terms,
    state_at: StateAt,
    names: Sequence[str],
    progress: Progress = silent,
) -> None:
    """Compute and write every missing block of the named terms; what is complete is neither recomputed nor reread."""
    missing = terms.missing(names)
    with progress("terms", len(missing)) as tick:
        for step, blocks in groupby(missing, key=lambda b: b.step):
            state = state_at(step)
            for block in blocks:
                wanted = terms.missing_names(block, names)
                values = block_terms(problem, layout, state, block, wanted)
                terms.write(block, {name: value.cpu().numpy() for name, value in values.items()})
                tick()


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
