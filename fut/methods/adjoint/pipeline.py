"""The expansion about the centre: what the adjoint estimator reads, computed stage by stage, each resumable.

Stages: centre (mixture gradients a step), low rank (curvature at a few checkpoints, where the replay is to have some), sweep
(Hessian-vector products, backwards), anchors (how many, where that is not configured, and item gradients there), sample
(arithmetic), fold; without a control variate the gradients come after the sample, on which alone they are then kept. Whole-size
scratch is deleted once the terms are folded out of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from estimators.adjoint import spread_anchors
from estimators.lowrank import Curvature, curvature_anchors
from estimators.orders.order import Order
from estimators.state import State
from estimators.trajectory import balanced_groups, ensemble_orders
from fut.methods.adjoint import costs as expense
from fut.methods.adjoint.anchor_count import COUNTS, Choice, read_choice, run_choice
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Stores
from fut.methods.adjoint.quadratic import outdated
from fut.methods.adjoint.replay_curvature import read_pairs, run_low_rank
from fut.methods.adjoint.sampling import draw_sample
from fut.methods.adjoint.sweep import run_sweep
from fut.methods.adjoint.tables import ANCHORED, FOLDED, fold, has_names, term_specs
from fut.methods.coupling import require_coordinates, require_metric
from fut.methods.curvature_batches import alike, pooled_products, require_alike
from fut.methods.expansion.anchors import ITEM_BLOCK, run_anchors, run_sampled_anchors
from fut.methods.expansion.sample import expected_coordinates
from fut.methods.expansion.trajectory import run_centre
from fut.progress import Progress, silent
from fut.readouts.readout import UserFunction, readout_names
from fut.training.problem import Problem
from storage import TermStore

SAMPLED, ENTRIES = 1 << 13, 1 << 15
"""Coordinates of a large model that are kept, and entries of a table up to which it is a control variate, by default."""
APART = 1 << 62
"""Added to the expansion's seed for the centre's orders."""


@dataclass(frozen=True)
class Expansion(Stores):
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
    def pools(self) -> bool:
        """Whether there are products on batches drawn from all items: not where those differ in shape."""
        return self.config.curvature == "pooled" or alike(self.problem.data.items)

    @property
    def functionals(self) -> int:
        """m, the functionals behind the first read-out's quadratic term; none without drawn batches, which they need."""
        return self.config.functionals if self.pools else 0

    @property
    def rank(self) -> int:
        """r, Ritz pairs of curvature in the replay; none without drawn batches, which they need."""
        return min(self.config.rank, self.problem.objective.size) if self.pools else 0

    @cached_property
    def curvatures(self) -> list[int]:
        """Checkpoints of the centre at which these are taken; none where there are none."""
        return curvature_anchors(self.steps, self.config.curvatures) if self.rank else []

    def low_rank(self) -> Curvature:
        """The replay's curvature on all coordinates; from scratch, one anchor at a time in memory."""
        return Curvature(self.curvatures, lru_cache(maxsize=1)(lambda index: read_pairs(self, index)))

    @property
    def fine(self) -> int:
        """How many read-outs, the first ones, are swept with all the products they can have, and have a table of positions."""
        return min((self.config.fine if self.pools else 0) or len(self.names), len(self.names))

    @property
    def ensemble(self) -> bool:
        """Whether the centre is the mean of runs, and curvature is averaged over where they stand."""
        return self.config.centre == "ensemble"

    @property
    def centre_seed(self) -> int:
        """Of the orders that the centre is made of: not that of random orders, some of which would be among them."""
        return self.config.seed + (APART if self.config.apart else 0)

    @cached_property
    def members(self) -> list[Order]:
        """The orders of an ensemble's runs."""
        return ensemble_orders(self.problem.reference, self.config.mixture, self.centre_seed)

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """What the centre averages over, step after step: `mixture` groups each, of as many items as a step consumes."""
        if self.ensemble:
            return [member.steps[step] for step in range(self.steps) for member in self.members]
        size = self.problem.config.data.per_step
        drawn = balanced_groups(self.problem.reference, self.config.mixture, size, self.centre_seed)
        return [group for step in drawn for group in step]

    @cached_property
    def mixture(self) -> Order:
        """The numbers of every step's groups; to the centre and the sweep, groups are the items."""
        count = self.config.mixture
        return Order.of(range(step * count, (step + 1) * count) for step in range(self.steps))

    @property
    def anchors(self) -> list[int]:
        """Steps at which item gradients are taken: as configured, or as chosen, and before that the most there may be."""
        if self.config.anchors:
            return self.spread(self.config.anchors)
        return self.spread(COUNTS[-1]) if self.choice is None else self.choice.anchors

    @property
    def choice(self) -> Choice | None:
        """How many anchors were found to be enough; None where that is configured, and before."""
        planned = self.directory == Path()  # alone, without a directory
        return None if self.config.anchors or planned or not self.chosen.has(0) else self._choice

    @property
    def resolved(self) -> AdjointConfig:
        """The configuration, with the number of anchors that was chosen where one was."""
        return self.config if self.choice is None else self.config.model_copy(update={"anchors": len(self.anchors)})

    @cached_property
    def _choice(self) -> Choice:
        return read_choice(self.chosen)

    def spread(self, count: int) -> list[int]:
        """So many anchors."""
        rate = self.problem.rate if self.config.spacing == "rate" else None
        return spread_anchors(self.steps, count, rate)

    @property
    def steps(self) -> int:
        return self.problem.config.steps

    @property
    def expected_coordinates(self) -> int:
        """How many coordinates are kept, in expectation: as configured, else all of a small model and 8,192 of a large one."""
        return expected_coordinates(self.problem.objective.size, self.config.coordinates, SAMPLED)

    @property
    def whole(self) -> bool:
        """Whether all coordinates are kept."""
        return self.expected_coordinates >= self.problem.objective.size

    @property
    def controlled(self) -> bool:
        """Whether a sample of coordinates has a control variate, and item gradients are scratch on all of them."""
        entries = self.steps * self.problem.config.data.items
        return (
            not self.whole
            and self.config.control != "never"
            and (self.config.control == "always" or entries <= ENTRIES)
        )

    @property
    def of_all(self) -> bool:
        """Whether tables are of all coordinates, and that of positions is held too (`estimators.control.Tamed`)."""
        return self.whole or self.controlled

    @property
    def places_count(self) -> int:
        """How many parameters a step's pooled batch is divided among: those of every run of an ensemble, else one."""
        return self.config.mixture if self.ensemble else 1

    def gradients(self) -> int:
        """Gradient evaluations of items in all stages (a Hessian-vector product counts two), read-outs included."""
        return expense.gradients(self)

    def nbytes(self) -> int:
        """Bytes that stay on disk, before compression."""
        return expense.kept_bytes(self)

    def scratch_bytes(self) -> int:
        """Bytes of scratch while it is built."""
        return expense.scratch_bytes(self)

    def complete(self) -> bool:
        """Whether every stage is done."""
        return self.readable and not self.terms().missing()

    @property
    def readable(self) -> bool:
        """Whether there are terms, of which some may be missing: not before all else is done."""
        return self._settled and (self.directory / "terms").exists()

    @property
    def _settled(self) -> bool:
        """Whether coordinates are drawn, and anchors chosen."""
        return self.sampled.has(0) and (bool(self.config.anchors) or self.chosen.has(0))

    def require_possible(self) -> None:
        """OrderError or UsageError, before anything is computed, for a centre or batches that these items cannot make, or a rule
        by which coordinates cannot be sampled, or has no metric for low-rank curvature."""
        _ = self.groups
        require_coordinates(self.problem, "adjoint", self.expected_coordinates, "adjoint.coordinates")
        if self.config.curvature == "pooled":
            require_alike(self.problem, 'set adjoint.curvature = "items"', "adjoint.curvature")
        if self.config.rank:
            require_metric(self.problem, "adjoint.rank", "set adjoint.rank = 0")
            require_alike(self.problem, "set adjoint.rank = 0", "adjoint.rank")

    def identity(self) -> dict[str, Any]:
        return {
            "run": self.problem.identity,
            "adjoint": self.config.identity(),
            "readouts": self.names,
        }

    def build(self, progress: Progress = silent) -> TermStore:
        """Every stage that is not complete; the finished terms. What was discarded is computed again, the same."""
        drawn = self._settled
        if not drawn or self.terms(create=True).missing():
            self.run_centre(progress)
            if not drawn or self._lacks(*FOLDED[1:]):
                run_low_rank(self, progress)
                run_sweep(self, progress)
            if not drawn:
                run_choice(self, progress)
            if self.controlled and (not drawn or self._lacks(*ANCHORED, *FOLDED[2:])):
                run_anchors(self, progress)
            if not self.sampled.has(0):
                draw_sample(self)
            terms = self.terms(create=True)
            if not self.controlled:
                run_sampled_anchors(self, terms, progress)
            fold(self, terms, progress)
        self._discard_scratch()
        return self.terms()

    def _discard_scratch(self) -> None:
        """All of it at once: what a kill leaves half removed must not be gone on with, should a damaged term need it again."""
        gone = self.directory / "discarded"
        shutil.rmtree(gone, ignore_errors=True)
        if self.scratch.exists():
            self.scratch.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def repair(self) -> int:
        """Discard what is damaged, so that `build` computes it again; how many pieces that were."""
        count = 0
        for stores in (
            self.centre_stores,
            (self.anchored,),
            (self.pilots,),
            (self.chosen,),
            (self.tamed,),
            (self.ritz,),
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
        """Lifted states and gradients of the centre; resumed where it stopped."""
        run_centre(self, progress)

    def _lacks(self, *names: str) -> bool:
        """Whether any of the named terms is incomplete."""
        terms = self.terms(create=True)
        return bool((held := has_names(terms, names)) and terms.missing(held))

    def pooled_products(self, step: int, directions: Tensor) -> Tensor:
        """Hessian-vector products [n, D] on drawn batches: of the fine read-outs first, unless they have the items' own, of the
        others and of functionals."""
        fine = self.fine if self.config.curvature == "pooled" else 0
        return pooled_products(self.problem, self.config, step, self.places(step), directions, fine)

    def terms(self, create: bool = False) -> TermStore:
        """The term store; opened for reading, or created and compared in full: NotCachedError for one of an earlier version that
        replayed its functionals."""
        path = self.directory / "terms"
        if not create:
            return TermStore.open(path)
        specs = term_specs(self)
        if (path / "manifest.json").exists() and (held := {s.name for s in TermStore.open(path).specs}) < {
            s.name for s in specs
        }:
            if self.functionals and "functionals" not in held:
                raise outdated(self)
            specs = [s for s in specs if s.name in held]  # of an earlier version, which kept no table of positions
        return TermStore.create_or_open(path, specs, self.identity(), ITEM_BLOCK)
