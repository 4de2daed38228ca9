"""The expansion about the reference run: what the reweighting method reads, stage by stage.

Stages: sweep (item gradients and two products' gradients a step, backwards along the checkpoints), sample (arithmetic),
gradients (a second pass over the items, where only a sample of coordinates is kept), fold. Whole-size scratch is deleted once
the terms are folded out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Sensitivity, Sweep, inclusion_probabilities, poisson_sample
from estimators.orders.order import Order
from estimators.state import State
from fut.errors import ResourceError, UsageError
from fut.methods.context import Context
from fut.methods.coupling import require_coordinates
from fut.methods.footprint import TEMPORARIES, Footprint
from fut.methods.reweighting.gradients import Reduced, StepGradients
from fut.methods.reweighting.spec import HELD_ITEMS, ReweightingSpec
from fut.methods.reweighting.terms import DIRECTORY, ReweightingFiles, open_reweighting, stored_config
from fut.methods.settings import Config, for_readouts
from fut.methods.stages import Cost, Preparation, Request, Stage
from fut.methods.timings import StageCost, Timings
from fut.models.autodiff import GRADIENT_BYTES
from fut.readouts.readout import make_readouts, step_of
from fut.resources.memory import GIB
from fut.training.checkpoints import state_tensors, unpack
from fut.training.problem import Problem
from fut.training.weights import item_weights
from storage import Block, TermStore

FOLDED = ("weight", "injection", "value", "gram")


def _draw_sample(files: ReweightingFiles, units: Sequence[int]) -> Iterator[None]:
    """All coordinates, or some with probability in proportion to the spread of their first-order contributions; each read-out's
    spread scaled to a total of 1 first."""
    if files.spec.whole:
        probabilities = torch.ones(files.problem.objective.size, dtype=torch.float64)
        indices = torch.arange(len(probabilities))
    else:
        scores = _read_costate(files, 0)[1].double().sqrt()
        scores = (scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)).mean(0)
        probabilities = inclusion_probabilities(scores, files.spec.expected_coordinates).cpu()
        indices = poisson_sample(probabilities, files.spec.config.seed)
    files.sampled.write(0, {"indices": indices.numpy(), "probabilities": probabilities[indices].numpy()}, {})
    yield


def _missing_sweep(files: ReweightingFiles) -> Sequence[int]:
    """The steps that are to be swept yet, backwards."""
    if files.opened and not files.open_terms().missing(FOLDED):
        return ()
    return range(min(files.costates.steps(), default=files.spec.steps) - 1, -1, -1)


def _run_sweep(files: ReweightingFiles, steps: Sequence[int]) -> Iterator[None]:
    problem, gradients = files.problem, StepGradients(files)
    require_alike(problem)

    def mean(step: int, number: int) -> Tensor:
        return gradients.mean(step)

    def product(theta: Tensor, number: int, direction: Tensor) -> Tensor:
        exact = files.spec.config.products == "exact"
        return problem.at(number).mean_product(theta, problem.reference.steps[number], direction, exact)

    sweep = Sweep(problem.rule, problem.rate, Order.of(range(files.spec.steps)), files.state, mean, product)
    if files.costates.steps():
        costate, squares = _read_costate(files, min(files.costates.steps()))
    else:
        costate, squares = _start(files, sweep)
    for sensitivity in sweep.backward(costate, steps[0]):
        found = gradients.reduced(sensitivity.step, sensitivity.injection)
        squares = squares + found.squares
        _save_step(files, sensitivity, found)
        _save_costate(files, sensitivity.step, sensitivity.costate, squares)
        yield


def require_alike(problem: Problem) -> None:
    """UsageError where items have weights of their own, of which the derivatives here know nothing."""
    if item_weights(problem.config):
        raise UsageError(
            "reweighting: expected items that weigh alike in their step's mean, got data.weights; use --estimator adjoint for "
            "`without:ITEM`, which knows them"
        )


def _start(files: ReweightingFiles, sweep: Sweep) -> tuple[State, Tensor]:
    """The costate at the end, and squared responses of none."""
    steps = files.spec.steps
    theta = files.state(steps).theta
    slopes = torch.stack([r.gradient(theta) for r in make_readouts(files.problem, files.spec.names, files.user)])
    costate, squares = sweep.start(slopes), torch.zeros_like(slopes)
    files.swept.put(steps, {"weight": slopes})
    _save_costate(files, steps, costate, squares)
    return costate, squares


def _save_step(files: ReweightingFiles, found: Sensitivity, reduced: Reduced) -> None:
    arrays = {
        "weight": found.weight,
        "injection": found.injection,
        "value": reduced.value,
        "gram": reduced.gram,
    }
    files.swept.put(found.step, arrays)
    if reduced.rows is not None:
        _write_gradients(files.open_terms(), found.step, reduced.rows)


def _save_costate(files: ReweightingFiles, step: int, costate: State, squares: Tensor) -> None:
    files.costates.put(step, state_tensors(costate) | {"squares": squares}, replace=False)
    for older in files.costates.steps():
        if older > step:
            files.costates.remove(older)


def _read_costate(files: ReweightingFiles, step: int) -> tuple[State, Tensor]:
    tensors, _ = files.costates.get(step, files.problem.device)
    squares = tensors.pop("squares")
    return unpack(tensors, {}), squares


def _run_gradients(files: ReweightingFiles, blocks: Sequence[Block]) -> Iterator[None]:
    terms, gradients = files.open_terms(), StepGradients(files)
    for step, found in groupby(blocks, key=lambda b: b.step):
        _write_gradients(terms, step, gradients.kept(step))
        for _ in found:
            yield


def _write_gradients(terms: TermStore, step: int, rows: Tensor) -> None:
    kept = rows.cpu().numpy()
    for block in terms.missing(["gradient"]):
        if block.step == step:
            terms.write(block, {"gradient": np.ascontiguousarray(kept[block.first : block.last])})


def _fold(files: ReweightingFiles, blocks: Sequence[Block]) -> Iterator[None]:
    """Write the sweep's results, weights and injections on the sample."""
    terms, kept = files.open_terms(), files.indices.cpu().numpy()
    for block in blocks:
        values = {}
        for name in terms.missing_names(block, FOLDED):
            found = files.swept.read_array(block.step, name)[block.first : block.last]
            values[name] = np.ascontiguousarray(found[:, kept] if name in ("weight", "injection") else found)
        terms.write(block, values)
        yield


def _sweep_memory(s: ReweightingSpec, f: Footprint) -> int:
    """A step's item gradients, a state, and every read-out's costate and weights."""
    r, state = len(s.names), f.state
    n = min(s.per_step, max(1, GRADIENT_BYTES // f.vector)) if s.chunked else s.per_step
    held = f.resident + (n + state + r * (state + 3)) * f.vector
    product = f.exact_product if s.config.products == "exact" else f.gradient + 3 * f.vector
    pull = (2 * state * r + TEMPORARIES) * f.vector
    taken = 2 * n * f.vector + f.gradient  # all at once, before they are one stack
    return f.planned(held + max(taken, product, pull, 2 * f.vector * r))


SWEEP: Stage[ReweightingFiles] = Stage(
    "backward pass",
    missing=_missing_sweep,
    work=_run_sweep,
    stores=lambda files: ((files.swept, files.costates),),
    cost=lambda s: Cost(s.sweep_gradients, 0, s.scratch_bytes),
    seconds=lambda s, t: s.sweep_gradients * t.item + s.steps * (1 + 2 * len(s.names)) * t.step,
    memory=_sweep_memory,
    passing=lambda s: len(s.names) * (s.state_vectors + 1) * s.vector_bytes,
)
SAMPLE: Stage[ReweightingFiles] = Stage(
    "sample",
    missing=lambda files: () if files.opened else (0,),
    work=_draw_sample,
    stores=lambda files: ((files.sampled,),),
    cost=lambda s: Cost(0, 16 * s.expected_coordinates),
    part_of=lambda s: not s.whole,
)
ALL = replace(SAMPLE, name="all coordinates", part_of=lambda s: s.whole)
GRADIENTS: Stage[ReweightingFiles] = Stage(
    "item gradients",
    missing=lambda files: files.open_terms().missing(["gradient"]),
    work=_run_gradients,
    independent=True,
    together=lambda block: block.step,
    cost=lambda s: Cost(0 if s.whole else s.problem.config.consumed),
)
FOLD: Stage[ReweightingFiles] = Stage(
    "tables",
    missing=lambda files: files.open_terms().missing(FOLDED),
    work=_fold,
    independent=True,
    cost=lambda s: Cost(0, s.kept_bytes()),
)


class ReweightingStages(Preparation[ReweightingFiles]):
    """The expansion about the reference run."""

    name, section = DIRECTORY, "reweighting"
    what = "the expansion about the reference run"
    parts = ("sample", "scratch/sweep", "scratch/costate")
    rank = 2
    stages = (ALL, SWEEP, SAMPLE, GRADIENTS, FOLD)

    def planned(self, problem: Problem, config: Config) -> ReweightingSpec:
        return ReweightingSpec(problem, config.reweighting)

    def open(self, context: Context, request: Request = Request()) -> ReweightingFiles:  # noqa: B008
        stored, directory = stored_config(context), context.path / DIRECTORY
        config = for_readouts(context.config, self.section, stored, request.readouts, directory)
        return open_reweighting(context, config)

    def require_possible(self, spec: ReweightingSpec) -> None:
        if early := [name for name in spec.names if step_of(name) is not None]:
            raise UsageError(
                f"reweighting: expected read-outs at the end of the window, got {', '.join(early)}; name others in "
                "reweighting.readouts"
            )
        require_coordinates(spec.problem, "reweighting", spec.expected_coordinates, "reweighting.coordinates")
        if spec.chunked and spec.problem.rule.clip is not None:
            needed = spec.per_step * spec.vector_bytes
            raise ResourceError(
                f"reweighting: expected at most {HELD_ITEMS / GIB:.3g} GiB of item gradients of a step beside rule.options.clip, "
                f"for the norms of their sums, got {needed / GIB:.3g} GiB; lower data.per_step, or train without clip"
            )

    def rows(self, problem: Problem, config: Config, timings: Timings) -> Iterator[StageCost]:
        """All stages as one: it is made on request alone."""
        rows = list(super().rows(problem, config, timings))
        gradients, kept, scratch = self.cost(self.planned(problem, config))
        seconds, memory = sum(row.seconds for row in rows), max((row.host_bytes, row.device_bytes) for row in rows)
        yield StageCost(f"{self.name} (on request)", gradients, seconds, kept, scratch, *memory)

    def describe(self, context: Context) -> dict[str, Any]:
        config = open_reweighting(context).spec.config
        return {"reweighting": config.model_dump(), "reweighting_cached": stored_config(context) is not None}


REWEIGHTING_TERMS = ReweightingStages()
