"""The expansion about the centre: what the adjoint estimator reads, computed stage by stage, each resumable.

Stages: centre (mixture gradients a step), sweep (Hessian-vector products, backwards), sample (arithmetic), anchors
(item gradients at a few checkpoints of the centre). Whole-size scratch is deleted once the terms are folded out of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import inclusion_probabilities, poisson_sample, spread_anchors
from estimators.centre import CentreTransition, balanced_groups
from estimators.order import Order
from estimators.replay import OrderBatch, replay
from estimators.rule import global_norm
from estimators.state import State
from storage import CheckpointStore, TermStore

from .config import AdjointConfig
from .difference import check_cost
from .folding import fold, has_names, term_specs
from .functionals import bend_cost
from .pooling import FEWER, pooled_products
from .problem import Problem
from .progress import Progress, silent
from .readouts import UserFunction, gradient_cost, readout_names
from .sampling import contribution_scores, expected_coordinates
from .sweeping import costate_from, run_sweep
from .training import attributes_of, pack, read_state

ITEM_BLOCK = 8
SAMPLED = 1 << 13


@dataclass(frozen=True)
class Expansion:
    """Directory, problem and configuration of one expansion.

    start: the lifted state [D] that every order starts from. user: a user's own read-outs, by name. end: the reference
    run's parameters [D] after the last step, at which the functionals are known; needed to build them alone.
    """

    directory: Path
    problem: Problem
    config: AdjointConfig
    start: Callable[[], State]
    user: Mapping[str, UserFunction] = field(default_factory=dict)
    end: Callable[[], Tensor] | None = None

    @cached_property
    def names(self) -> list[str]:
        """The read-outs, in the order of the terms' rows."""
        return readout_names(self.config.readouts, self.problem.config.data.items)

    @property
    def functionals(self) -> int:
        """m, the functionals behind the first read-out's quadratic term; none without a pooled batch, which they need."""
        return self.config.functionals if self.config.curvature == "pooled" else 0

    @property
    def fine(self) -> int:
        """How many read-outs, the first ones, are swept with products on the whole pool."""
        chosen = self.config.fine if self.config.curvature == "pooled" else 0
        return min(chosen or len(self.names), len(self.names))

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """What the centre averages over, step after step: `mixture` groups each, of as many items as a step consumes."""
        size = self.problem.config.data.per_step
        drawn = balanced_groups(self.problem.reference, self.config.mixture, size, self.config.seed)
        return [group for step in drawn for group in step]

    @cached_property
    def mixture(self) -> Order:
        """The numbers of every step's groups; to the centre and the sweep, groups are the items."""
        count = self.config.mixture
        return Order.of(range(step * count, (step + 1) * count) for step in range(self.steps))

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
        """Weights w_t [r, D] and costates of every step, and of the end."""
        return CheckpointStore(self.scratch / "sweep")

    @cached_property
    def latest(self) -> CheckpointStore:
        """The whole costate of the latest step that is swept."""
        return CheckpointStore(self.scratch / "costate")

    @cached_property
    def sampled(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "sample")

    @property
    def expected_coordinates(self) -> int:
        """How many coordinates are kept, in expectation: as configured, else all of a small model and 8,192 of a large one."""
        return expected_coordinates(self.problem.objective.size, self.config.coordinates, SAMPLED)

    def gradients(self) -> int:
        """Gradient evaluations of items in all stages (a Hessian-vector product counts two), read-outs included."""
        config, items, training = self.config, self.problem.config.data.items, self.problem.config.consumed
        products = config.pool if config.curvature == "pooled" else config.mixture
        sweep, slopes = 2 * products * self.fine, [gradient_cost(n, self.problem) for n in self.names]
        return (
            training * (config.mixture + sweep)
            + len(self.anchors) * items
            + sum(slopes)
            + self.coarse_gradients()
            + check_cost(self)
        )

    def coarse_gradients(self) -> int:
        """Those of them that functionals and coarse read-outs take: finding functionals, and products on half a step's batch."""
        m, first = self.functionals, self.names[0]
        rows = m + len(self.names) - self.fine
        swept = self.problem.config.consumed * (1 + rows) / FEWER if rows else 0
        return round(swept) + bend_cost(self.problem, first, m, gradient_cost(first, self.problem))

    def nbytes(self) -> int:
        """Bytes that stay on disk, before compression; about as many again per step of scratch while it is built."""
        kept = self.expected_coordinates
        items, r = self.problem.config.data.items, len(self.names)
        rows = len(self.anchors) * items + (1 + r + self.functionals) * (self.steps + 1)
        return rows * kept * self.problem.objective.start().element_size() + 16 * kept + 8 * self.steps * r * items

    def scratch_bytes(self) -> int:
        """Bytes of scratch while it is built: the centre, its mixtures' gradients, and weights and costates of the sweep."""
        start = self.problem.objective.start()
        state = 1 + len(self.problem.rule.init(start).memory)
        per_step = state + self.config.mixture + len(self.names) * (1 + state) + self.functionals
        return per_step * (self.steps + 1) * start.numel() * start.element_size()

    def complete(self) -> bool:
        """Whether every stage is done."""
        return self.sampled.has(0) and (self.directory / "terms").exists() and not self.terms().missing()

    def identity(self) -> dict[str, Any]:
        return {
            "run": self.problem.identity,
            "adjoint": self.config.identity(),
            "readouts": self.names,
        }

    def build(self, progress: Progress = silent) -> TermStore:
        """Every stage that is not complete; the finished terms. What was discarded is computed again, the same."""
        drawn = self.sampled.has(0)
        if not drawn or self.terms(create=True).missing():
            self.run_centre(progress)
            if not drawn or self._sweep_is_needed():
                run_sweep(self, progress)
            if not drawn:
                self._draw_sample()
            terms = self.terms(create=True)
            self._run_anchors(terms, progress)
            fold(self, terms)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return self.terms()

    def repair(self) -> int:
        """Discard what is damaged, so that `build` computes it again; how many pieces that were."""
        count = 0
        for stores in (
            (self.centre,),
            (self.mixed,),
            (self.swept, self.latest),
            (self.sampled,),
        ):  # the sweep's go together
            if any(store.check() for store in stores):
                for store in stores:
                    shutil.rmtree(store.directory, ignore_errors=True)
                count += 1
        if (self.directory / "terms").exists() and self.sampled.has(0):
            count += len(self.terms(create=True).repair())
        return count

    # --- stages

    def run_centre(self, progress: Progress) -> None:
        done = max(self.centre.steps(), default=-1)
        if done < 0:
            state = self.start().rows(1)
            self.centre.write(0, pack(state), attributes_of(state))
            done = 0
        state = self.state(done).rows(1)
        latest: dict[int, Tensor] = {}

        def gradient(step: int, theta: Tensor, number: int) -> Tensor:
            items = self.groups[number]
            latest[number] = self.problem.mean_gradient(theta, items, [1.0 / len(items)] * len(items))
            return latest[number]

        with progress("centre", self.steps - done) as tick:

            def save(step: int, state: State) -> None:
                found = torch.stack([latest.pop(number) for number in self.mixture.steps[step - 1]])
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

    def costate(self, step: int) -> State:
        """Sensitivities of the read-outs to the lifted state before step `step`, buffers [r, D]; scratch."""
        return costate_from(self.swept.read(step).arrays, self.problem.device)

    def _sweep_is_needed(self) -> bool:
        terms = self.terms(create=True)
        return bool(terms.missing(has_names(terms, ("weight", "positions", "left_out"))))

    def pooled_products(self, step: int, theta: Tensor, directions: Tensor) -> Tensor:
        """Hessian-vector products [r + m, D] of a step's pooled batch, of the read-outs first, then of their functionals."""
        return pooled_products(self.problem, self.config, step, theta, directions, self.fine)

    def _draw_sample(self) -> None:
        """Which coordinates are kept, with which probabilities; and the probe loss at the centre's end."""
        end = self.state(self.steps)
        size, kept = self.problem.objective.size, self.expected_coordinates
        if kept >= size:
            indices, chosen = torch.arange(size), torch.ones(size, dtype=torch.float64)
        else:
            probabilities = inclusion_probabilities(contribution_scores(self, self.config.simulated), kept).cpu()
            indices = poisson_sample(probabilities, self.config.seed)
            chosen = probabilities[indices]
        arrays = {"indices": indices.numpy(), "probabilities": chosen.numpy()}
        arrays["difference_error"] = self.swept.read_array(self.steps, "difference_error")
        if self.functionals:
            assert self.end is not None
            functionals = self.weight(self.steps)[len(self.names) :].double()
            known = functionals @ (self.end() - end.theta).double()
            arrays |= {"signs": self.swept.read_array(self.steps, "signs"), "known": known.cpu().numpy()}
        self.sampled.write(0, arrays, {"centre_loss": self.problem.probe_loss(end.theta)})

    def terms(self, create: bool = False) -> TermStore:
        """The term store; opened for reading, or created and compared in full."""
        path = self.directory / "terms"
        if not create:
            return TermStore.open(path)
        specs = term_specs(self)
        if (path / "manifest.json").exists() and (held := {s.name for s in TermStore.open(path).specs}) < {
            s.name for s in specs
        }:
            specs = [s for s in specs if s.name in held]  # of an earlier version, which kept no table of positions
        return TermStore.create_or_open(path, specs, self.identity(), ITEM_BLOCK)

    @cached_property
    def indices(self) -> Tensor:
        """Sampled coordinates, ascending [k]."""
        return torch.from_numpy(self.sampled.read_array(0, "indices")).to(self.problem.device)

    @cached_property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""
        return torch.from_numpy(self.sampled.read_array(0, "probabilities")).to(self.problem.device)

    @cached_property
    def bend(self) -> tuple[Tensor, Tensor]:
        """Of the functionals, values along the reference run's true displacement, and signs of their squares: [m], float64."""
        names = ("known", "signs")
        found = (self.sampled.read_array(0, name) if self.functionals else np.zeros(0) for name in names)
        known, signs = (torch.from_numpy(array).to(self.problem.device) for array in found)
        return known, signs

    def _run_anchors(self, terms: TermStore, progress: Progress) -> None:
        missing = terms.missing(["gradient", "norm"])
        with progress("anchors", len(missing)) as tick:
            for block in missing:
                theta = self.state(self.anchors[block.step]).theta
                found = self.problem.item_gradients(theta, range(block.first, block.last))
                values = {"gradient": found[:, self.indices], "norm": global_norm(found)[:, None]}
                wanted = terms.missing_names(block, ["gradient", "norm"])
                terms.write(block, {name: values[name].cpu().numpy() for name in wanted})
                tick()
