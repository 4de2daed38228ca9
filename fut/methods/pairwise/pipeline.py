"""The terms of every (checkpoint, item) pair, which replay and the Taylor methods read: one stage, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from estimators.rules.clipping import global_norm
from estimators.state import State
from fut.artifacts.directory import TERMS
from fut.artifacts.identity import MANIFEST, read_identity
from fut.errors import UsageError
from fut.methods.context import Context
from fut.methods.coupling import UNCUT, cut_apart, require_mean_gradient, require_smooth, require_uncut
from fut.methods.footprint import TEMPORARIES, Footprint, hashes
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.store import has_terms, pairwise_config, renew_term_metadata, stored_terms
from fut.methods.pairwise.terms import NEEDS, TermLayout, needs
from fut.methods.settings import Config
from fut.methods.stages import LESS, Cost, Preparation, Prepared, Request, Stage, damaged_terms
from fut.methods.timings import StageCost, Timings
from fut.training.problem import Problem
from fut.training.weights import shares as shares_of
from storage import Block, Damage, IdentityError, StorageError, TermSpec, TermStore


def block_terms(
    problem: Problem, layout: TermLayout, state: State, block: Block, names: Sequence[str]
) -> dict[str, Tensor]:
    """The named terms of one block of items at one checkpoint, each [items of the block, k]."""
    problem = problem.at(block.step)
    gradients = problem.item_gradients(state.theta, range(block.first, block.last))
    result: dict[str, Tensor] = {}
    if "gradient" in names:
        result["gradient"] = layout.kept(gradients)
    if "norm" in names:
        result["norm"] = global_norm(gradients, problem.objective.layout.slices)[:, None]
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
        shares = shares_of(self.problem.config, self.items)
        if len(set(shares)) == 1:
            return sum((of(i) for i in self.items), torch.zeros_like(self.state.theta)) / len(self.items)
        return sum((s * of(i) for s, i in zip(shares, self.items, strict=True)), torch.zeros_like(self.state.theta))

    def _gradient(self, theta: Tensor) -> Tensor:
        return self.problem.mean_gradient(theta, self.items, shares_of(self.problem.config, self.items))

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


@dataclass(frozen=True)
class PairwiseSpec:
    """Terms of one configuration. names: of those that are asked for."""

    problem: Problem
    layout: TermLayout
    names: tuple[str, ...]

    @property
    def config(self) -> CacheConfig:
        """How they are computed."""
        return self.layout.config

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the terms' numbers beside the run."""
        return {"cache": self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class PairwiseFiles(Prepared):
    """The store of a run's terms.

    Args:
        directory: where it is, or will be.
        spec: what is asked of it.
        state: the reference run's lifted state [D] before a step.
    """

    directory: Path
    spec: PairwiseSpec
    state: Callable[[int], State]

    @property
    def terms_path(self) -> Path:
        return self.directory

    @property
    def again(self) -> Request:
        return Request(self.spec.names, cache=self.spec.config)

    def term_specs(self) -> list[TermSpec]:
        return self.spec.layout.specs()

    def open_terms(self) -> TermStore:
        """The store, created if absent; IdentityError if it was made with another configuration."""
        layout = self.spec.layout
        try:
            return TermStore.create_or_open(self.directory, layout.specs(), self.identity, layout.config.item_block)
        except IdentityError as error:
            raise IdentityError(f"{error}; or remove {self.directory} to cache anew") from error

    def missing(self) -> list[Block]:
        """Blocks that are missing of what is asked for."""
        return self.open_terms().missing(self.spec.names) if self.spec.names else []

    def complete(self) -> bool:
        return not self.missing()

    def require_own(self, kind: str) -> None:
        """The store compares itself."""


def _run(files: PairwiseFiles, blocks: Sequence[Block]) -> Iterator[None]:
    terms, spec = files.open_terms(), files.spec
    for step, of_step in groupby(blocks, key=lambda block: block.step):
        state = files.state(step)
        for block in of_step:
            values = block_terms(spec.problem, spec.layout, state, block, terms.missing_names(block, spec.names))
            terms.write(block, {name: value.cpu().numpy() for name, value in values.items()})
            yield


def _usual(problem: Problem, layout: TermLayout) -> tuple[str, ...]:
    """The terms of all methods that take the rule: of one without a derivative those that are replayed."""
    return tuple(layout.names) if problem.rule.smooth else needs(layout, "replay")


def terms_memory(layout: TermLayout, f: Footprint, names: Sequence[str]) -> int:
    """Gradients, states and updates of a block of items, then products of its updates one by one."""
    rows, s = min(layout.config.item_block, layout.items), f.state
    stored = rows * layout.sample.size * f.theta.element_size() if "gradient" in names else 0
    held = f.resident + (s + rows) * f.vector + stored  # what the block before was written from, or encoded
    phases = [rows * f.vector + f.gradient, rows * f.vector + stored]
    if {"update", "jvp", "second"} & set(names):
        phases += [rows * (2 * s + TEMPORARIES) * f.vector, 3 * rows * f.vector + hashes(layout.sketch)]
    if {"jvp", "second"} & set(names):
        exact = layout.config.products == "exact" and "jvp" in names
        product = f.exact_product if exact else f.gradient + 3 * f.vector
        phases.append((3 * rows + s + TEMPORARIES) * f.vector + product)
    return f.planned(held + max(phases))


PAIRS: Stage[PairwiseFiles] = Stage(
    "terms",
    missing=lambda files: files.missing(),
    work=_run,
    independent=True,
    together=lambda block: block.step,
    cost=lambda s: Cost(s.layout.gradients(s.names), s.layout.nbytes(s.names)),
    memory=lambda s, f: terms_memory(s.layout, f, s.names),
    advice=f"lower cache.item_block, or {LESS}",
)


class PairwiseStages(Preparation[PairwiseFiles]):
    """The terms of every (checkpoint, item) pair."""

    name, section, what = TERMS, "cache", "the terms still missing"
    rank = 3
    needs_smooth = False
    stages = (PAIRS,)

    @property
    def terms(self) -> tuple[str, ...]:
        return ("gradient", "norm", "update", "jvp", "second")

    def planned(self, problem: Problem, config: Config) -> PairwiseSpec:
        layout = TermLayout.of(problem, config.cache)
        cut = cut_apart(problem, layout.sample.size)
        return PairwiseSpec(
            problem, layout, tuple(n for n in _usual(problem, layout) if not (cut and n in NEEDS["replay"]))
        )

    def open(self, context: Context, request: Request = Request()) -> PairwiseFiles:  # noqa: B008
        layout = TermLayout.of(context.problem, request.cache or pairwise_config(context))
        names = (
            _usual(context.problem, layout)
            if request.names is None
            else tuple(n for n in layout.names if n in request.names)
        )
        if lacking := sorted(set(request.names or ()) & set(self.terms) - set(layout.names)):
            raise UsageError(
                f"terms: expected some of {', '.join(layout.names)}, got {', '.join(lacking)}; "
                f"cache.derivative={layout.config.derivative} stores no others"
            )
        return PairwiseFiles(context.path / TERMS, PairwiseSpec(context.problem, layout, names), context.state)

    def usual(self, context: Context) -> tuple[str, ...]:
        return tuple(TermLayout.of(context.problem, pairwise_config(context)).names)

    def begun_terms(self, path: Path) -> tuple[str, ...]:
        return tuple(name for name in self.terms if (path / TERMS / "ledger" / name).exists())

    def require_possible(self, spec: PairwiseSpec) -> None:
        _ = spec.layout.sketch
        require_mean_gradient(spec.problem, "terms")
        if not {"update", "jvp"}.isdisjoint(spec.names):
            require_smooth(spec.problem, "terms")
        if "gradient" in spec.names:
            require_uncut(spec.problem, "replay", spec.layout.sample.size, UNCUT)

    def pin_identity(self, files: PairwiseFiles, pins: dict[str, float], path: Path) -> None:
        """The store pins itself what it is made of."""
        files.open_terms()

    def rest(self, files: PairwiseFiles) -> int:
        return self.still(files)[2].kept

    def still(self, files: PairwiseFiles) -> tuple[list[str], int, Cost]:
        names, missing = files.spec.names, files.missing()
        share = sum(b.last - b.first for b in missing) / (files.spec.layout.steps * files.spec.layout.items)
        cost = PAIRS.cost(files.spec)
        return list(names), len(missing), Cost(round(cost.gradients * share), round(cost.kept * share))

    def stored(self, context: Context) -> list[PairwiseFiles]:
        if not has_terms(context.path):
            return []
        renew_term_metadata(context.path)
        return [self.open(context)]

    def rows(self, problem: Problem, config: Config, timings: Timings) -> Iterator[StageCost]:
        """What the terms of each method cost, each by itself."""
        layout = TermLayout.of(problem, config.cache)
        cut = cut_apart(problem, layout.sample.size)
        for name in (
            n for n in NEEDS if not (cut and n == "replay") and set(needs(layout, n)) <= set(_usual(problem, layout))
        ):
            streamed = needs(layout, name)
            count, pairs = layout.gradients(streamed), layout.steps * layout.items
            seconds = count * timings.item + pairs * timings.step
            peak = terms_memory(layout, timings.footprint, streamed)
            yield StageCost(
                f"terms of {name}", count, seconds, layout.nbytes(streamed), 0, *timings.footprint.split(peak)
            )

    def notes(self, problem: Problem, config: Config) -> list[str]:
        """What is left out of the rows."""
        try:
            require_uncut(problem, "replay", TermLayout.of(problem, config.cache).sample.size, UNCUT)
        except UsageError as error:
            return [f"left out: replay, as it stands ({error})"]
        return []

    def describe(self, context: Context) -> dict[str, Any]:
        done, total = stored_terms(context).progress() if has_terms(context.path) else (0, None)
        return {"term_blocks": {"done": done, "total": total}, "cache": pairwise_config(context).model_dump()}

    def check(self, path: Path, owner: str) -> list[Damage]:
        if not has_terms(path):
            return []
        try:
            read_identity(path / TERMS, owner)
        except StorageError as error:
            return [Damage(str(path / TERMS / MANIFEST), str(error))]
        return damaged_terms(path / TERMS)


PAIRWISE_TERMS = PairwiseStages()
