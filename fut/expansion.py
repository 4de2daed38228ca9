"""The expansion about the centre: what the adjoint estimator reads, computed stage by stage, each resumable.

Stages: centre (mixture gradients a step), sweep (Hessian-vector products, backwards), sample (arithmetic), anchors
(item gradients at a few checkpoints of the centre). Whole-size scratch is deleted once the terms are folded out of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Sweep, inclusion_probabilities, poisson_sample, spread_anchors
from estimators.centre import CentreTransition, balanced_mixture
from estimators.order import Order
from estimators.replay import OrderBatch, replay
from estimators.rule import global_norm
from estimators.state import State
from storage import Block, CheckpointStore, TermSpec, TermStore

from . import derivatives
from .config import AdjointConfig
from .errors import UsageError
from .problem import Problem
from .progress import Progress, silent
from .sampling import contribution_scores
from .training import attributes_of, pack, read_state, unpack

ITEM_BLOCK = 8
ALL_UP_TO, SAMPLED = 1 << 17, 1 << 15
READOUTS = ("probe",)


@dataclass(frozen=True)
class Expansion:
    """Directory, problem and configuration of one expansion. start: the lifted state [D] that every order starts from."""

    directory: Path
    problem: Problem
    config: AdjointConfig
    start: Callable[[], State]

    @cached_property
    def mixture(self) -> Order:
        return balanced_mixture(self.problem.reference, self.config.mixture, self.config.seed)

    @cached_property
    def anchors(self) -> list[int]:
        return spread_anchors(self.steps, self.config.anchors)

    @property
    def steps(self) -> int:
        return self.problem.config.steps

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    @cached_property
    def centre(self) -> CheckpointStore:
        """Lifted states of the centre."""
        return CheckpointStore(self.scratch / "centre")

    @cached_property
    def mixed(self) -> CheckpointStore:
        """Gradients [c, D] of every step's mixture at the centre."""
        return CheckpointStore(self.scratch / "gradients")

    @cached_property
    def swept(self) -> CheckpointStore:
        """Weights w_t [r, D] of every step, and the costate before the earliest step done."""
        return CheckpointStore(self.scratch / "sweep")

    @cached_property
    def sampled(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "sample")

    @property
    def expected_coordinates(self) -> int:
        """How many coordinates are kept, in expectation: as configured, else all of a small model and 32,768 of a large one."""
        size = self.problem.objective.size
        return min(size, self.config.coordinates or (size if size <= ALL_UP_TO else SAMPLED))

    def gradients(self) -> int:
        """Gradient evaluations of all stages (a Hessian-vector product counts two), read-outs included."""
        config, items = self.config, self.problem.config.data.items
        products = config.pool if config.curvature == "pooled" else config.mixture
        sweep = 2 * products * len(READOUTS)
        return self.steps * (config.mixture + sweep) + len(self.anchors) * items + len(self.problem.data.probe)

    def nbytes(self) -> int:
        """Bytes that stay on disk, before compression; about as many again per step of scratch while it is built."""
        kept = self.expected_coordinates
        rows = len(self.anchors) * self.problem.config.data.items + (1 + len(READOUTS)) * (self.steps + 1)
        return rows * kept * self.problem.objective.start().element_size() + 16 * kept

    def scratch_bytes(self) -> int:
        """Bytes of scratch while it is built: the centre, its mixtures' gradients, and weights and costates of the sweep."""
        start = self.problem.objective.start()
        state = 1 + len(self.problem.rule.init(start).memory)
        per_step = state + self.config.mixture + len(READOUTS) * (1 + state)
        return per_step * (self.steps + 1) * start.numel() * start.element_size()

    def complete(self) -> bool:
        """Whether every stage is done."""
        return self.sampled.has(0) and (self.directory / "terms").exists() and not self.terms().missing()

    def identity(self) -> dict[str, Any]:
        return {
            "run": self.problem.identity,
            "adjoint": self.config.model_dump(mode="json"),
            "readouts": list(READOUTS),
        }

    def build(self, progress: Progress = silent) -> TermStore:
        """Every stage that is not complete; the finished terms. What was discarded is computed again, the same."""
        drawn = self.sampled.has(0)
        if not drawn or self.terms(create=True).missing():
            self._run_centre(progress)
            if not drawn or self.terms(create=True).missing(["weight"]):
                self._run_sweep(progress)
            if not drawn:
                self._draw_sample()
            terms = self.terms(create=True)
            self._run_anchors(terms, progress)
            self._fold(terms)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return self.terms()

    def repair(self) -> int:
        """Discard what is damaged, so that `build` computes it again; how many pieces that were."""
        count = 0
        for store in (self.centre, self.mixed, self.swept, self.sampled):
            if store.check():
                shutil.rmtree(store.directory)
                count += 1
        if (self.directory / "terms").exists() and self.sampled.has(0):
            count += len(self.terms(create=True).repair())
        return count

    # --- stages

    def _run_centre(self, progress: Progress) -> None:
        done = max(self.centre.steps(), default=-1)
        if done < 0:
            state = self.start().rows(1)
            self.centre.write(0, pack(state), attributes_of(state))
            done = 0
        state = self.state(done).rows(1)
        latest: dict[int, Tensor] = {}

        def gradient(step: int, theta: Tensor, item: int) -> Tensor:
            latest[item] = self.problem.gradient(theta, item)
            return latest[item]

        with progress("centre", self.steps - done) as tick:

            def save(step: int, state: State) -> None:
                found = torch.stack([latest[i] for i in self.mixture.steps[step - 1]])
                latest.clear()  # else a gradient [D] of every item stays in memory
                self.mixed.write(step - 1, {"gradient": found.cpu().numpy()}, {}, replace=True)
                self.centre.write(step, pack(state), attributes_of(state))
                tick()

            transition = CentreTransition(self.problem.rule, self.problem.rate, gradient)
            replay(transition, state, OrderBatch.pack([self.mixture], self.problem.device), done, save)

    def state(self, step: int) -> State:
        """The centre's lifted state [D] before step `step`; scratch, there while the expansion is built."""
        return read_state(self.centre, step, self.problem.device)

    def gradients_of(self, step: int) -> Tensor:
        """Gradients of the step's mixture [c, D]; scratch."""
        return torch.from_numpy(self.mixed.read_array(step, "gradient")).to(self.problem.device)

    def weight(self, step: int) -> Tensor:
        """w_t [r, D], and the read-outs' slopes for step T; scratch."""
        return torch.from_numpy(self.swept.read_array(step, "weight")).to(self.problem.device)

    def _run_sweep(self, progress: Progress) -> None:
        problem = self.problem
        sweep = Sweep(
            problem.rule,
            problem.rate,
            self.mixture,
            self.state,
            lambda step, item: self.gradients_of(step)[self.mixture.steps[step].index(item)],
            lambda theta, item, u: problem.product(theta, item, u, exact=False),
            self._pooled_product if self.config.curvature == "pooled" else None,
        )
        done = min(self.swept.steps(), default=self.steps)
        if done == self.steps:
            slope = problem.probe_gradient(self.state(self.steps).theta)[None]
            costate = sweep.start(slope)
            self.swept.write(self.steps, {"weight": slope.cpu().numpy()} | _packed(costate), {})
        else:
            found = self.swept.read(done).arrays
            costate = unpack(
                {k.removeprefix("costate/"): v for k, v in found.items() if k != "weight"}, {}, problem.device
            )
        with progress("backward sweep", done) as tick:
            for found_at in sweep.backward(costate, done - 1):
                arrays = {"weight": found_at.weight.cpu().numpy()} | _packed(found_at.costate)
                self.swept.write(found_at.step, arrays, {})
                tick()

    def _pooled_product(self, step: int, theta: Tensor, direction: Tensor) -> Tensor:
        """Hessian-vector product of a batch as large as `pool` items, its samples drawn from all items."""
        items, draw = self.problem.data.items, np.random.default_rng([self.config.seed, 11, step])
        sizes = {tuple(t.shape[1:] for t in item) for item in items}
        if len(sizes) > 1:
            raise UsageError(
                f"adjoint.curvature: expected items of one shape to pool samples from, got {len(sizes)} shapes; use `items`"
            )
        total = sum(len(item[0]) for item in items)
        chosen = np.sort(draw.choice(total, min(total, self.config.pool * len(items[0][0])), replace=False))
        owners = np.repeat(np.arange(len(items)), [len(item[0]) for item in items])
        within = np.concatenate([np.arange(len(item[0])) for item in items])
        rows = [tuple(t[within[s]] for t in items[owners[s]]) for s in chosen]
        batch = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
        return derivatives.hessian_vector_difference(self.problem.objective, theta, batch, direction)

    def _draw_sample(self) -> None:
        """Which coordinates are kept, with which probabilities; and the read-out at the centre's end."""
        size, kept = self.problem.objective.size, self.expected_coordinates
        if kept >= size:
            indices, chosen = torch.arange(size), torch.ones(size, dtype=torch.float64)
        else:
            probabilities = inclusion_probabilities(contribution_scores(self, self.config.simulated), kept).cpu()
            indices = poisson_sample(probabilities, self.config.seed)
            chosen = probabilities[indices]
        end = self.state(self.steps)
        loss = self.problem.probe_loss(end.theta)
        self.sampled.write(0, {"indices": indices.numpy(), "probabilities": chosen.numpy()}, {"centre_loss": loss})

    def terms(self, create: bool = False) -> TermStore:
        """The term store; opened for reading, or created and compared in full."""
        path = self.directory / "terms"
        if not create:
            return TermStore.open(path)
        k, n, r = len(self.indices), self.problem.config.data.items, len(READOUTS)
        shapes = {
            "gradient": (len(self.anchors), n, k),
            "norm": (len(self.anchors), n, 1),
            "weight": (self.steps + 1, r, k),
            "centre": (self.steps + 1, 1, k),
        }
        specs = [TermSpec(name, shape, self.problem.config.model.dtype) for name, shape in shapes.items()]
        return TermStore.create_or_open(path, specs, self.identity(), ITEM_BLOCK)

    @cached_property
    def indices(self) -> Tensor:
        """Sampled coordinates, ascending [k]."""
        return torch.from_numpy(self.sampled.read_array(0, "indices")).to(self.problem.device)

    @cached_property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""
        return torch.from_numpy(self.sampled.read_array(0, "probabilities")).to(self.problem.device)

    def _run_anchors(self, terms: TermStore, progress: Progress) -> None:
        missing = terms.missing(["gradient", "norm"])
        with progress("anchors", len(missing)) as tick:
            for block in missing:
                theta = self.state(self.anchors[block.step]).theta
                found = torch.stack([self.problem.gradient(theta, i) for i in range(block.first, block.last)])
                values = {"gradient": found[:, self.indices], "norm": global_norm(found)[:, None]}
                wanted = terms.missing_names(block, ["gradient", "norm"])
                terms.write(block, {name: values[name].cpu().numpy() for name in wanted})
                tick()

    def _fold(self, terms: TermStore) -> None:
        """The centre's parameters and the sweep's weights on the sampled coordinates; weight T is the read-out's slope."""
        kept = self.indices.cpu().numpy()
        for block in terms.missing(["centre", "weight"]):
            values = {
                "centre": lambda b=block: self.centre.read_array(b.step, "theta")[None, kept],
                "weight": lambda b=block: self.swept.read_array(b.step, "weight")[:, kept],
            }
            for name in terms.missing_names(block, ["centre", "weight"]):
                terms.write(Block(block.step, block.first, block.last), {name: np.ascontiguousarray(values[name]())})


def _packed(costate: State) -> dict[str, np.ndarray]:
    memory = {f"costate/memory/{k}": b.cpu().numpy() for k, b in costate.memory.items()}
    return {"costate/theta": costate.theta.cpu().numpy()} | memory
