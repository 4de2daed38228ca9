"""The expansion about the reference run: what the reweighting estimator reads, computed stage by stage, each resumable.

Stages: sweep (item gradients and two products' gradients a step, backwards along the checkpoints), sample (arithmetic),
gradients (a second pass over the items, where only a sample of coordinates is kept). Whole-size scratch is deleted once
the terms are folded out of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Sensitivity, Sweep, inclusion_probabilities, poisson_sample
from estimators.orders.order import Order
from estimators.reweighting import first_order_values, response_squares
from estimators.state import State
from fut.methods.context import Context
from fut.methods.coupling import require_coordinates
from fut.methods.expansion.anchors import ITEM_BLOCK
from fut.methods.expansion.sample import Sample, expected_coordinates
from fut.methods.reweighting.config import ReweightingConfig
from fut.progress import Progress, silent
from fut.readouts.readout import UserFunction, gradient_cost, make_readouts, readout_names
from fut.training.checkpoints import unpack
from fut.training.problem import Problem
from storage import CheckpointStore, Manifest, TermSpec, TermStore

DIRECTORY = "reweighting"
SAMPLED = 1 << 15
FOLDED = ("weight", "injection", "value", "gram")


def stored_config(path: Path) -> ReweightingConfig | None:
    """The configuration of a run's expansion about its reference run; None where there is none yet."""
    manifest = path / DIRECTORY / "manifest.json"
    if not manifest.exists():
        return None
    identity = Manifest.read(manifest).identity
    return ReweightingConfig.model_validate(identity["reweighting"] | {"readouts": identity["readouts"]})


@dataclass(frozen=True)
class Sensitivities(Sample):
    """Directory, problem and configuration of one expansion about the reference run.

    state: the reference run's lifted state [D] before a step. user: a user's own read-outs, by name.
    """

    directory: Path
    problem: Problem
    config: ReweightingConfig
    state: Callable[[int], State]
    user: Mapping[str, UserFunction] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The read-outs, in the order of the terms' rows."""
        return readout_names(self.config.readouts, self.problem.config.data.items)

    @property
    def steps(self) -> int:
        return self.problem.config.steps

    @property
    def per_step(self) -> int:
        return self.problem.config.data.per_step

    @cached_property
    def swept(self) -> CheckpointStore:
        """Weights and injections [r, D] of every step, values and Gram matrices; scratch."""
        return CheckpointStore(self.directory / "scratch" / "sweep")

    @cached_property
    def costates(self) -> CheckpointStore:
        """The costate before the last step swept, and the sum of squared responses so far [r, D]; scratch."""
        return CheckpointStore(self.directory / "scratch" / "costate")

    @cached_property
    def sampled(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "sample")

    @property
    def expected_coordinates(self) -> int:
        """How many coordinates are kept, in expectation: as configured, else all of a small model and 32,768 of a large one."""
        return expected_coordinates(self.problem.objective.size, self.config.coordinates, SAMPLED)

    @property
    def whole(self) -> bool:
        """Whether every coordinate is kept."""
        return self.expected_coordinates >= self.problem.objective.size

    def gradients(self) -> int:
        """Gradient evaluations of items in all stages (a Hessian-vector product counts two), read-outs included."""
        passes = (1 if self.whole else 2) + 2 * len(self.names)
        return self.problem.config.consumed * passes + sum(gradient_cost(n, self.problem) for n in self.names)

    def nbytes(self) -> int:
        """Bytes that stay on disk, before compression."""
        kept, r, n = self.expected_coordinates, len(self.names), self.per_step
        rows = self.steps * n + (2 * self.steps + 1) * r
        return rows * kept * self.problem.objective.start().element_size() + 16 * kept + 8 * self.steps * n * (n + r)

    def scratch_bytes(self) -> int:
        """Bytes of scratch while it is built."""
        start = self.problem.objective.start()
        state = self.problem.rule.state_vectors(self.problem.objective.layout)
        rows = (2 * self.steps + 1 + 2 * (state + 1)) * len(self.names)
        return rows * start.numel() * start.element_size()

    def complete(self) -> bool:
        """Whether every stage is done."""
        return self.sampled.has(0) and (self.directory / "terms").exists() and not self.terms().missing()

    def require_possible(self) -> None:
        """UsageError, before anything is computed, for a rule that a sample of coordinates cannot be replayed by."""
        require_coordinates(self.problem, "reweighting", self.expected_coordinates, "reweighting.coordinates")

    def identity(self) -> dict[str, Any]:
        return {
            "run": self.problem.identity,
            "reweighting": self.config.model_dump(mode="json", exclude={"readouts"}),
            "readouts": self.names,
        }

    def build(self, progress: Progress = silent) -> TermStore:
        """Every stage that is not complete; the finished terms. What was discarded is computed again, the same."""
        if self.whole and not self.sampled.has(0):
            self._keep(torch.arange(self.problem.objective.size), torch.ones(self.problem.objective.size).double())
        if not self.sampled.has(0) or self.terms(create=True).missing(FOLDED):
            self._run_sweep(progress)
        if not self.sampled.has(0):
            self._draw_sample()
        terms = self.terms(create=True)
        self._run_gradients(terms, progress)
        self._fold(terms)
        shutil.rmtree(self.directory / "scratch", ignore_errors=True)
        return self.terms()

    def repair(self) -> int:
        """Discard what is damaged, so that `build` computes it again; how many pieces that were."""
        count = 0
        if self.swept.check() or self.costates.check():
            shutil.rmtree(self.directory / "scratch")
            count += 1
        if self.sampled.check():
            shutil.rmtree(self.sampled.directory)
            count += 1
        if (self.directory / "terms").exists() and self.sampled.has(0):
            count += len(self.terms(create=True).repair())
        return count

    # --- stages

    def _run_sweep(self, progress: Progress) -> None:
        problem, latest = self.problem, dict[int, Tensor]()

        def gradient(step: int, number: int) -> Tensor:
            latest[step] = self._item_gradients(step)
            return latest[step].mean(0)

        def product(theta: Tensor, number: int, direction: Tensor) -> Tensor:
            exact = self.config.products == "exact"
            return problem.mean_product(theta, problem.reference.steps[number], direction, exact)

        numbers = Order.of(range(self.steps))
        sweep = Sweep(problem.rule, problem.rate, numbers, self.state, gradient, product)
        done = min(self.costates.steps(), default=self.steps + 1)
        if done > self.steps:
            theta = self.state(self.steps).theta
            slopes = torch.stack([r.gradient(theta) for r in make_readouts(problem, self.names, self.user)])
            costate, squares = sweep.start(slopes), torch.zeros_like(slopes)
            self.swept.write(self.steps, {"weight": slopes.cpu().numpy()}, {}, replace=True)
            self._save_costate(self.steps, costate, squares)
            done = self.steps
        else:
            costate, squares = self._read_costate(done)
        with progress("backward sweep", done) as tick:
            for found in sweep.backward(costate, done - 1):
                gradients = latest.pop(found.step)
                squares = squares + response_squares(found.injection, gradients)
                self._save_step(found, gradients)
                self._save_costate(found.step, found.costate, squares)
                tick()

    def _item_gradients(self, step: int) -> Tensor:
        """Gradients [n, D] of a step's own items at the reference run's parameters, always all in one call."""
        return self.problem.item_gradients(self.state(step).theta, self.problem.reference.steps[step])

    def _save_step(self, found: Sensitivity, gradients: Tensor) -> None:
        arrays = {
            "weight": found.weight,
            "injection": found.injection,
            "value": first_order_values(found.injection, gradients),
            "gram": (gradients @ gradients.T).double(),
        }
        self.swept.write(found.step, {k: v.cpu().numpy() for k, v in arrays.items()}, {}, replace=True)
        if self.whole:
            self._write_gradients(self.terms(create=True), found.step, gradients)

    def _save_costate(self, step: int, costate: State, squares: Tensor) -> None:
        memory = {f"memory/{k}": b.cpu().numpy() for k, b in costate.memory.items()}
        arrays = {"theta": costate.theta.cpu().numpy(), "squares": squares.cpu().numpy()} | memory
        self.costates.write(step, arrays, {})
        for older in self.costates.steps():
            if older > step:
                self.costates.remove(older)

    def _read_costate(self, step: int) -> tuple[State, Tensor]:
        arrays = self.costates.read(step).arrays
        squares = torch.from_numpy(arrays.pop("squares")).to(self.problem.device)
        return unpack(arrays, {}, self.problem.device), squares

    def _draw_sample(self) -> None:
        """Coordinates with probability in proportion to the spread of their first-order contributions; each read-out's
        spread scaled to a total of 1 first."""
        scores = self._read_costate(0)[1].double().sqrt()
        scores = (scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)).mean(0)
        probabilities = inclusion_probabilities(scores, self.expected_coordinates).cpu()
        indices = poisson_sample(probabilities, self.config.seed)
        self._keep(indices, probabilities[indices])

    def _keep(self, indices: Tensor, probabilities: Tensor) -> None:
        self.sampled.write(0, {"indices": indices.numpy(), "probabilities": probabilities.numpy()}, {})

    def _run_gradients(self, terms: TermStore, progress: Progress) -> None:
        missing = terms.missing(["gradient"])
        with progress("item gradients", len(missing)) as tick:
            for step, blocks in groupby(missing, key=lambda b: b.step):
                self._write_gradients(terms, step, self._item_gradients(step))
                for _ in blocks:
                    tick()

    def _write_gradients(self, terms: TermStore, step: int, gradients: Tensor) -> None:
        kept = gradients[:, self.indices].cpu().numpy()
        for block in terms.missing(["gradient"]):
            if block.step == step:
                terms.write(block, {"gradient": np.ascontiguousarray(kept[block.first : block.last])})

    def _fold(self, terms: TermStore) -> None:
        """Write what is missing of the sweep's results, weights and injections on the sample."""
        kept = self.indices.cpu().numpy()
        for block in terms.missing(FOLDED):
            values = {}
            for name in terms.missing_names(block, FOLDED):
                found = self.swept.read_array(block.step, name)[block.first : block.last]
                values[name] = np.ascontiguousarray(found[:, kept] if name in ("weight", "injection") else found)
            terms.write(block, values)

    # --- what is kept

    def _specs(self) -> list[TermSpec]:
        """The terms: weight T is the read-outs' slopes; values and Gram matrices in double precision, as they are few."""
        k, n, r, steps = len(self.indices), self.per_step, len(self.names), self.steps
        dtype = self.problem.config.model.dtype
        shapes = {"gradient": (steps, n, k), "weight": (steps + 1, r, k), "injection": (steps, r, k)}
        small = {"value": (steps, r, n), "gram": (steps, n, n)}
        return [TermSpec(name, shape, dtype) for name, shape in shapes.items()] + [
            TermSpec(name, shape, "float64") for name, shape in small.items()
        ]

    def terms(self, create: bool = False) -> TermStore:
        """The term store; opened for reading, or created and compared in full."""
        path = self.directory / "terms"
        if not create:
            return TermStore.open(path)
        return TermStore.create_or_open(path, self._specs(), self.identity(), ITEM_BLOCK)


def open_sensitivities(context: Context, config: ReweightingConfig | None = None) -> Sensitivities:
    """The expansion about the reference run, as it is stored; with the run's own configuration where there is none."""
    chosen = config or stored_config(context.path) or context.config.reweighting
    return Sensitivities(context.path / DIRECTORY, context.problem, chosen, context.state, context.readouts.user)
