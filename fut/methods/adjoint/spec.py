"""What an expansion is made of, and how large: sizes and choices that follow from problem and configuration alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from estimators.adjoint import spread_anchors
from estimators.control_variates import SIGNS
from estimators.lowrank import curvature_anchors
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.expansion.spec import SweptSpec, Trajectory
from fut.readouts.readout import step_of
from fut.training.problem import Problem, segment_width
from storage import TermSpec

ENTRIES = 1 << 15
"""Entries of a table up to which it is a control variate, by default."""
UNTHINNED = 1 << 13
"""Coordinates up to which orders are replayed on all of them: fewer would hardly be sooner."""
ORDERS, MOST = 8, 0.25
"""Simulated orders by which those are drawn, and as many that judge them; and the largest share of all that is tried."""
COUNTS = (3, 5, 9)
"""Numbers of anchors that are tried; the last is taken where no other will do."""

SAMPLES: tuple[str | None, ...] = (None, "first", "second")
"""The samples of an expansion: all coordinates that it keeps, and two independent halves of them."""
SUMS = 1 + SIGNS
ROWS = len(SAMPLES) * SUMS
"""Sums of one sample: weighted by the inverse of the probabilities, and with random signs; and those of a read-out's samples."""
FUNCTIONAL_SIGNS = 4
"""Sums with random signs of every functional on a sample: few, since there are many functionals."""


class Choice(NamedTuple):
    """What was chosen. anchors: steps; errors: of each number of anchors that was tried, `interpolation_error`; pilots: steps at
    which a few items' gradients were taken for it."""

    anchors: list[int]
    errors: dict[int, float]
    pilots: int


def whole_items_note(problem: Problem) -> str:
    """What is to be said where items are not made of samples."""
    return f'items are taken whole, with adjoint.curvature = "items" and without functionals: {problem.samples.items.reason}'


@dataclass(frozen=True)
class AdjointSpec(SweptSpec):
    """Problem and configuration of one expansion, on disk or planned.

    Args:
        config: how it is expanded.
        choice: how many anchors were found to be enough; None where that is configured, and before.
        whole_items: whether items are taken whole although pooling them was configured.
        keeps: whether the trajectory stays when the expansion is complete, for read-outs that are added later.
        added: whether it is of read-outs that are added to another expansion, whose trajectory it takes; and its item gradients,
            where all coordinates are kept.
    """

    config: AdjointConfig
    choice: Choice | None = None
    whole_items: bool = False
    keeps: bool = True
    added: bool = False
    sampled: ClassVar[int] = 1 << 13

    @cached_property
    def trajectory(self) -> Trajectory:
        """What is expanded about."""
        about, width = stored_trajectory(self), segment_width(self.steps)
        if not self.retrains:
            return about
        pinned = {step for step in out_of_turn(self) if step % width and step < self.steps}
        return replace(about, segment=width, pinned=frozenset(pinned))

    @property
    def retrains(self) -> bool:
        """Whether the trajectory is stored every few steps alone, and trained again in between."""
        if self.config.storage != "auto":
            return self.config.storage == "retrain"
        return stored_bytes(self) > self.config.scratch_bytes

    @property
    def drawn_first(self) -> bool:
        """Whether a sample of coordinates is drawn before the sweep, which then stores nothing of whole size a step."""
        return self.config.drawn == "before" and not self.whole

    @property
    def swept_bytes(self) -> int:
        """Bytes of scratch of the sweep: weights and costates of every step, and the costates of this step and the last."""
        state = self.state_vectors
        vectors = len(self.names) * (1 + bool(self.rank)) + self.functionals + self.fine * state
        latest = 2 * self.rows * state * self.vector_bytes
        if not self.drawn_first:
            return vectors * (self.steps + 1) * self.vector_bytes + latest
        kept = (vectors + state) * self.expected_coordinates * self.width
        if self.controlled:  # bounds, and rows of the tables in double precision
            table = (2 * self.fine + self.functionals) * self.problem.config.data.items
            kept += 8 * (self.fine * self.expected_coordinates + table)
        constant = (
            4 * self.fine + 1
        ) * self.vector_bytes + 8 * self.problem.objective.size  # what is ahead, and updates
        return kept * (self.steps + 1) + latest + constant

    @property
    def pools(self) -> bool:
        """Whether there are products on batches drawn from all items: not where those are not made of samples."""
        return self.config.curvature == "pooled" or bool(self.problem.samples.items)

    @cached_property
    def ends(self) -> list[int]:
        """After how many steps each read-out is taken: T, or earlier."""
        return [step_of(name) or self.steps for name in self.names]

    @property
    def functionals(self) -> int:
        """m, the functionals behind the first read-out's quadratic term; none without drawn batches, which they need, and none of
        a read-out that is taken before the end."""
        return self.config.functionals if self.pools and self.ends[0] >= self.steps else 0

    @property
    def rank(self) -> int:
        """r, Ritz pairs of curvature in the replay; none without drawn batches, which they need."""
        return min(self.config.rank, self.problem.objective.size) if self.pools else 0

    @cached_property
    def curvatures(self) -> list[int]:
        """Checkpoints of the trajectory at which these are taken; none where there are none."""
        return curvature_anchors(self.steps, self.config.curvatures) if self.rank else []

    @property
    def fine(self) -> int:
        """How many read-outs, the first ones, are swept with all the products they can have, and have a table of positions."""
        return min((self.config.num_exact_readouts if self.pools else 0) or len(self.names), len(self.names))

    @property
    def rows(self) -> int:
        """r + m, rows of the sweep: read-outs, and functionals of the first."""
        return len(self.names) + self.functionals

    @property
    def anchors(self) -> list[int]:
        """Steps at which item gradients are taken: as configured, or as chosen, and before that the most there may be."""
        if self.config.num_anchors:
            return self.spread(self.config.num_anchors)
        return self.spread(COUNTS[-1]) if self.choice is None else self.choice.anchors

    def spread(self, count: int) -> list[int]:
        """So many anchors."""
        rate = self.problem.rate if self.config.spacing == "rate" else None
        return spread_anchors(self.steps, count, rate)

    @property
    def resolved(self) -> AdjointConfig:
        """The configuration, with the number of anchors that was chosen where one was."""
        return self.config if self.choice is None else self.config.model_copy(update={"num_anchors": len(self.anchors)})

    @property
    def controlled(self) -> bool:
        """Whether a sample of coordinates has a control variate, and item gradients are scratch on all of them."""
        few = self.steps * self.problem.config.data.items <= ENTRIES
        return not self.whole and (self.config.control == "always" or (self.config.control == "auto" and few))

    @property
    def of_all(self) -> bool:
        """Whether tables are of all coordinates, and that of positions is bounded too (`estimators.control_variates.Bounded`)."""
        return self.whole or self.controlled

    @property
    def lent(self) -> bool:
        """Whether its item gradients at the anchors are those of another expansion."""
        return self.added and self.whole

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers beside the run."""
        return {"adjoint": self.config.identity(), "readouts": self.names}

    def term_specs(self, k: int) -> list[TermSpec]:
        """The terms of an expansion that keeps k coordinates: weights of read-outs, and their slopes as those of step T.

        Positions, what leaving an anchor out does to them, and functionals are in double precision, as they are few.
        """
        n, r = self.problem.config.data.items, len(self.names)
        shapes = {
            "gradient": (len(self.anchors), n, k),
            "norm": (len(self.anchors), n, 1),
            "weight": (self.steps + 1, r, k),
            "centre": (self.steps + 1, 1, k),
        }
        dtype = self.problem.config.model.dtype
        if self.rank:
            shapes["lowrank"] = (len(self.curvatures), self.rank, k)
            shapes["answer"] = (self.steps, r, k)
        specs = [TermSpec(name, shape, dtype) for name, shape in shapes.items()]
        if self.rank:
            specs.append(TermSpec("eigenvalue", (len(self.curvatures), 1, self.rank), "float64"))
        few = {"positions": (self.steps, self.fine, n), "left_out": (len(self.anchors), self.fine, n)}
        if self.functionals:
            few["functionals"] = (self.steps, self.functionals * sums_of(self), n)
        specs += [TermSpec(name, shape, "float64") for name, shape in few.items()]
        if self.of_all:
            specs.append(TermSpec("controlled_positions", few["positions"], "float64"))
        if self.controlled:
            specs.append(TermSpec("sampled_positions", (self.steps, self.fine * ROWS, n), dtype))
        return specs


def possible_spec(problem: Problem, config: AdjointConfig) -> AdjointSpec:
    """The expansion of a configuration, with the items' own products where it pools items that are not made of samples."""
    if config.curvature == "items" or problem.samples.items:
        return AdjointSpec(problem, config)
    return AdjointSpec(problem, config.model_copy(update={"curvature": "items"}), whole_items=True)


def stored_trajectory(spec: AdjointSpec) -> Trajectory:
    """What is expanded about, stored step by step."""
    config = spec.config
    ensemble = config.trajectory == "ensemble"
    left_out = tuple(config.left_out) if ensemble else ()
    return Trajectory(spec.problem, ensemble, config.num_runs, config.seed, left_out=left_out)


def stored_bytes(spec: AdjointSpec) -> int:
    """Bytes of the trajectory, stored step by step, and of what the sweep writes."""
    return stored_trajectory(spec).scratch_bytes + spec.swept_bytes


def out_of_turn(spec: AdjointSpec) -> set[int]:
    """Steps before which the trajectory's state is asked for out of turn: anchors that there may be, and the next ones."""
    counts = [spec.config.num_anchors] if spec.config.num_anchors else COUNTS
    return {step + after for count in counts for step in spec.spread(count) for after in (0, 1)}


def thins(spec: AdjointSpec) -> bool:
    """Whether few of all coordinates may be drawn, with which orders are replayed: where each is updated by itself, and a norm
    that clips is known; not for curvature in the replay, which is of all."""
    problem, wanted = spec.problem, spec.config.replay_error > 0
    apart = problem.rule.coupling == "coordinate" and (problem.rule.clip is None or problem.config.data.per_step == 1)
    return wanted and apart and spec.whole and not spec.rank and problem.objective.size > UNTHINNED


def sums_of(spec: AdjointSpec) -> int:
    """Rows of the table for every functional: one, or on a sample those of `SAMPLES`, each with random signs too."""
    return 1 if spec.of_all else len(SAMPLES) * (1 + FUNCTIONAL_SIGNS)
