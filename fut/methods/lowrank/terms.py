"""What the curved estimator reads: the centre, item gradients at its anchors, low-rank curvature and mean gradients.

Stages, each resumable: centre (as the expansion's, its lifted states in scratch), low-rank curvature (Lanczos at a few
checkpoints of the centre, which needs those states), anchors (item gradients, copied from a complete expansion about the
same centre on all coordinates where there is one), refresh gradients (of a drawn batch, at the refresh steps).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.lowrank import curvature_anchors, low_rank, refresh_steps, sensitivity
from estimators.state import State
from fut.artifacts.identity import MANIFEST, claim
from fut.errors import UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import has_expansion, open_expansion
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.context import Context
from fut.methods.coupling import require_metric
from fut.methods.curvature_batches import mixed_batch, require_alike
from fut.methods.expansion.anchors import ITEM_BLOCK
from fut.methods.expansion.costs import centre_bytes
from fut.methods.lowrank.config import CurvedConfig
from fut.models import autodiff as derivatives
from fut.models.objective import Item
from fut.progress import Progress, silent
from fut.training.problem import Problem
from storage import Block, Manifest, TermSpec, TermStore

DIRECTORY = "curved"
CENTRE_FIELDS = ("mixture", "anchors", "seed", "apart")
"""What of the adjoint's configuration decides the base's centre, which is of mixtures, and its anchors."""
LOW_RANK_KEY, REFRESH_KEY = 13, 17
ANCHORS = 3
"""Anchors where the adjoint's are chosen by a sweep, which there is none of here."""
SCRATCH = ("scratch/centre", "scratch/gradients")


@dataclass(frozen=True)
class Base:
    """Directory, problem and configuration of one base. adjoint: of the centre and its anchors.

    start: the lifted state [D] that every order starts from. donor: the run's expansion, if it has one.
    """

    directory: Path
    problem: Problem
    config: CurvedConfig
    adjoint: AdjointConfig
    start: Callable[[], State]
    donor: Expansion | None = None

    @cached_property
    def expansion(self) -> Expansion:
        """The centre, always that of mixtures, and its anchors, evenly over steps; of its stages only the first is run here."""
        anchors = self.adjoint.anchors or ANCHORS
        mixture = self.adjoint.model_copy(update={"centre": "mixture", "spacing": "steps", "anchors": anchors})
        return Expansion(self.directory, self.problem, mixture, self.start)

    @property
    def steps(self) -> int:
        return self.problem.config.steps

    @property
    def size(self) -> int:
        """D, number of parameters."""
        return self.problem.objective.size

    @property
    def rank(self) -> int:
        return min(self.config.rank, self.size)

    @cached_property
    def curvature_anchors(self) -> list[int]:
        return curvature_anchors(self.steps, self.config.anchors)

    @cached_property
    def refreshed(self) -> list[int]:
        """The configured refresh steps."""
        return refresh_steps(self.steps, self.config.refresh)

    # --- costs

    def stage_gradients(self) -> dict[str, int]:
        """Gradient evaluations of items by stage (a Hessian-vector product counts two)."""
        data, pooled = self.problem.config.data, self.config.pool * self.problem.config.data.per_step
        return {
            "centre": self.problem.config.consumed * self.adjoint.mixture,
            "low-rank curvature": 2 * pooled * self.rank * len(self.curvature_anchors),
            "anchors": len(self.expansion.anchors) * data.items,
            "refresh gradients": self.query_gradients(),
        }

    def query_gradients(self, every: int | None = None) -> int:
        """Gradient evaluations of items per order of full length; every: another number of steps between refreshes."""
        refreshed = self.refreshed if every is None else refresh_steps(self.steps, every)
        return len(refreshed) * self.config.pool * self.problem.config.data.per_step

    def gradients(self) -> int:
        """Gradient evaluations of items in all stages, nothing borrowed from an expansion."""
        return sum(self.stage_gradients().values())

    def missing_gradients(self) -> int:
        """The same, less what a complete expansion lends."""
        found = self.stage_gradients()
        return sum(found.values()) - (found["anchors"] if self._lender is not None else 0)

    def stage_bytes(self) -> dict[str, int]:
        """Bytes that stay on disk by stage, before compression."""
        by_stage = dict.fromkeys(self.stage_gradients(), 0)
        owner = {
            "centre": "centre",
            "gradient": "anchors",
            "lowrank": "low-rank curvature",
            "eigenvalue": "low-rank curvature",
            "refresh": "refresh gradients",
        }
        for spec in self.specs():
            by_stage[owner[spec.name]] += int(np.prod(spec.shape)) * spec.stored_dtype.itemsize
        return by_stage

    def nbytes(self) -> int:
        return sum(self.stage_bytes().values())

    def scratch_bytes(self) -> int:
        """Bytes of the centre's lifted states and of its gradients, while the base is built."""
        return centre_bytes(self.expansion)

    # --- the store

    def specs(self) -> list[TermSpec]:
        """centre [T+1, 1, D], gradient [A, items, D], lowrank [n, r, D] (rows of L^T), eigenvalue [n, 1, r] float64 and,
        where there are any, refresh [refreshes, 1, D]: mean gradients of the drawn batches at the centre."""
        dtype, size, n = self.problem.config.model.dtype, self.size, len(self.curvature_anchors)
        large = dtype if self.config.dtype == "model" else self.config.dtype
        specs = [
            TermSpec("centre", (self.steps + 1, 1, size), dtype),
            TermSpec("gradient", (len(self.expansion.anchors), self.problem.config.data.items, size), large),
            TermSpec("lowrank", (n, self.rank, size), large),
            TermSpec("eigenvalue", (n, 1, self.rank), "float64"),
        ]
        return specs + ([TermSpec("refresh", (len(self.refreshed), 1, size), dtype)] if self.refreshed else [])

    def terms(self, create: bool = False) -> TermStore:
        """The term store; opened for reading, or created and compared in full."""
        path = self.directory / "terms"
        return (
            TermStore.create_or_open(path, self.specs(), self.identity(), ITEM_BLOCK)
            if create
            else TermStore.open(path)
        )

    def require_possible(self) -> None:
        """OrderError or UsageError, before anything is computed, for a centre or batches that these items cannot make, or a rule
        without a metric."""
        _ = self.expansion.groups
        require_metric(self.problem, "curved", "use --estimator replay-exact or retrain")
        require_alike(self.problem, "use --estimator retrain", "curved")

    def identity(self) -> dict[str, Any]:
        return {"run": self.problem.identity, **self.settings()}

    def settings(self) -> dict[str, Any]:
        """What decides the base's numbers beside the run."""
        adjoint = {k: v for k, v in self.adjoint.identity().items() if k in CENTRE_FIELDS}
        return {"curved": self.config.model_dump(mode="json"), "adjoint": adjoint}

    def claim(self) -> None:
        """Pin what the base is made of before its first number; IdentityError if the directory holds another one."""
        claim(self.directory, "base", self.identity(), {})

    def complete(self) -> bool:
        """Whether every stage is done."""
        return (self.directory / "terms").exists() and not self.terms().missing()

    def repair(self) -> int:
        """Discard what is damaged, so that `build` computes it again; how many pieces that were."""
        count = 0
        if any(store.check() for store in self.expansion.centre_stores):
            for store in self.expansion.centre_stores:
                shutil.rmtree(store.directory, ignore_errors=True)
            count += 1
        return count + (len(self.terms(create=True).repair()) if (self.directory / "terms").exists() else 0)

    # --- stages

    def build(self, progress: Progress = silent) -> None:
        """Every stage that is not complete. What was discarded is computed again, the same."""
        if not self.problem.rule.smooth:
            raise UsageError(
                f"curved: expected a rule with a derivative, in whose metric curvature is taken, got "
                f"`{self.problem.rule.name}`; use --estimator retrain for an endpoint"
            )
        terms = self.terms(create=True)
        if terms.missing(["centre", "lowrank", "eigenvalue"]):
            self.expansion.run_centre(progress)
            for block in terms.missing(["centre"]):
                terms.write(block, {"centre": self.expansion.centre.read_array(block.step, "theta")[None]})
            self._run_low_rank(terms, progress)
        self._run_anchors(terms, progress)
        self._run_refresh(terms, progress)
        shutil.rmtree(self.expansion.scratch, ignore_errors=True)

    def _run_low_rank(self, terms: TermStore, progress: Progress) -> None:
        missing = terms.missing(["lowrank", "eigenvalue"])
        indices = sorted({block.step for block in missing})
        with progress("low-rank curvature", len(indices)) as tick:
            for index in indices:
                values, rows = self.low_rank(self.curvature_anchors[index])
                found = {"lowrank": self._stored(rows), "eigenvalue": values.numpy()[None]}
                for block in (b for b in missing if b.step == index):
                    for name in terms.missing_names(block, ["lowrank", "eigenvalue"]):
                        terms.write(block, {name: found[name][block.first : block.last]})
                tick()

    def low_rank(self, step: int) -> tuple[Tensor, Tensor]:
        """Values [r] and rows [r, D] of the mean Hessian at a checkpoint of the centre, whose state scratch holds."""
        state, batch = self.expansion.state(step), self.batch(LOW_RANK_KEY, step)

        def product(direction: Tensor) -> Tensor:
            return derivatives.hessian_vector_difference(self.problem.objective, state.theta, batch, direction)

        weight = sensitivity(self.problem.rule, state, self.config.clamp)
        return low_rank(product, weight, self.config.rank, self.config.seed)

    def batch(self, key: int, step: int) -> Item:
        """The batch drawn for a step, another one for every key."""
        return mixed_batch(
            self.problem, self.config.pool, [self.config.seed, key, step], "use --estimator retrain", "curved"
        )

    def mean_gradient(self, step: int, theta: Tensor) -> Tensor:
        """Gradient [D] of the loss on the refresh batch of a step."""
        return derivatives.gradient(self.problem.objective, theta, self._refresh_batch(step))

    @cached_property
    def _refresh_batch(self) -> Callable[[int], Item]:
        """The refresh batches, each drawn once: every order of a batch asks for them."""
        return cache(lambda step: self.batch(REFRESH_KEY, step))

    @cached_property
    def _lender(self) -> TermStore | None:
        """Terms of a complete expansion about the same centre, with the same anchors and all coordinates."""
        donor = self.donor
        if donor is None or any(getattr(donor.config, f) != getattr(self.adjoint, f) for f in CENTRE_FIELDS):
            return None
        if donor.ensemble or donor.anchors != self.expansion.anchors:
            return None
        if not donor.complete() or len(donor.indices) < self.size or donor.terms().item_block != ITEM_BLOCK:
            return None
        return donor.terms()

    def _run_anchors(self, terms: TermStore, progress: Progress) -> None:
        missing = terms.missing(["gradient"])
        with progress("anchors", len(missing)) as tick:
            for block in missing:
                terms.write(block, {"gradient": self._stored(self._anchored(terms, block))})
                tick()

    def _anchored(self, terms: TermStore, block: Block) -> Tensor:
        """Gradients [items of the block, D] at an anchor."""
        items = range(block.first, block.last)
        if self._lender is not None:
            return torch.from_numpy(self._lender.read_items("gradient", block.step, items))
        return self.problem.item_gradients(self._theta(terms, self.expansion.anchors[block.step]), items)

    def _run_refresh(self, terms: TermStore, progress: Progress) -> None:
        missing = terms.missing(["refresh"]) if self.refreshed else []
        with progress("refresh gradients", len(missing)) as tick:
            for block in missing:
                step = self.refreshed[block.step]
                found = self.mean_gradient(step, self._theta(terms, step))
                terms.write(block, {"refresh": found[None].cpu().numpy()})
                tick()

    def _theta(self, terms: TermStore, step: int) -> Tensor:
        return torch.from_numpy(terms.read("centre", step)[0]).to(self.problem.device)

    def _stored(self, values: Tensor) -> np.ndarray:
        """As the store takes the large terms: in single precision where it keeps 16 bits."""
        values = values if self.config.dtype == "model" else values.float()
        return values.cpu().contiguous().numpy()


def open_base(context: Context, config: CurvedConfig | None = None) -> Base:
    """What the low-rank method reads, as it is stored; as configured where it is not."""
    stored = read_configs(context.path) if has_base(context.path) else None
    adjoint = stored[1] if stored else open_expansion(context).config
    chosen = config or (stored[0] if stored else context.config.curved)
    donor = open_expansion(context) if has_expansion(context.path) else None
    return Base(context.path / DIRECTORY, context.problem, chosen, adjoint, lambda: context.state(0), donor)


def has_base(path: Path) -> bool:
    """Whether a run directory's base was begun."""
    return (path / DIRECTORY / MANIFEST).exists()


def read_configs(path: Path) -> tuple[CurvedConfig, AdjointConfig]:
    """Configurations of a run directory's base, and of the centre that it is about."""
    identity = Manifest.read(path / DIRECTORY / MANIFEST).identity
    return CurvedConfig.model_validate(identity["curved"]), AdjointConfig.stored(identity["adjoint"])
