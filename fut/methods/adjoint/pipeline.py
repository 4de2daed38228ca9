"""The expansion about the trajectory: what the adjoint methods read, stage by stage.

Stages: trajectory (mixture gradients a step), low rank (curvature at a few checkpoints, where the replay is to have some), sweep
(Hessian-vector products, backwards), anchors (how many, where that is not configured, and item gradients there), sample
(arithmetic), fold; without a control variate the gradients come after the sample, on which alone they are then kept. Whole-size
scratch is deleted once the terms are folded out of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fut.artifacts.directory import ADJOINT, MEMORIZATION
from fut.divergence import listed
from fut.errors import FutWarning, UsageError
from fut.methods.adjoint import costs, memory
from fut.methods.adjoint.anchors import (
    ANCHORED,
    missing_anchors,
    missing_choice,
    run_anchors,
    run_choice,
    run_sampled_anchors,
)
from fut.methods.adjoint.few import draw_few, few_facts, missing_few
from fut.methods.adjoint.files import PARTS, Expansion
from fut.methods.adjoint.first_sample import measure_updates
from fut.methods.adjoint.identity import (
    added_expansions,
    added_places,
    has_expansion,
    new_expansion,
    open_expansion,
    read_expansion_config,
    require_same_origin,
)
from fut.methods.adjoint.quadratic_directions import simulate
from fut.methods.adjoint.replay_curvature import missing_low_rank, run_low_rank
from fut.methods.adjoint.sampling import draw_sample
from fut.methods.adjoint.spec import MOST, ORDERS, AdjointSpec, possible_spec, thins, whole_items_note
from fut.methods.adjoint.sweep import draw_before, kept_error, missing_sweep, run_sweep
from fut.methods.adjoint.tables import FOLDED, anchor_error, fold, missing_tables, present, steep_items
from fut.methods.context import Context
from fut.methods.coupling import require_coordinates, require_metric
from fut.methods.curvature_batches import require_samples
from fut.methods.expansion.trajectory import Follower, missing_steps, run_trajectory
from fut.methods.settings import Config, for_readouts
from fut.methods.stages import LESS, Cost, Preparation, Request, Stage
from fut.methods.timings import Timings
from fut.readouts.readout import readout_names, shortened
from fut.training.problem import Problem

TABLE = 5.0
"""Steps of the rule on all parameters that one entry of the table of positions takes as long as, in double precision."""


def _lacks(e: Expansion, *names: str) -> bool:
    """Whether coordinates or anchors are not settled yet, or any of the named terms is incomplete."""
    if not e.settled:
        return True
    terms = e.open_terms()
    return e.awaits_few or bool((stored := present(terms, names)) and terms.missing(stored))


def _unless_complete(e: Expansion) -> Sequence[int]:
    lacking = not e.settled or e.awaits_few or e.open_terms().missing()
    return missing_steps(e.trajectory) if lacking else ()


def _follower(e: Expansion) -> Follower | None:
    """What is done with a segment of steps while it is at hand."""
    done = [simulate] if e.spec.functionals and e.origin is None else []
    if e.spec.drawn_first:
        done.append(measure_updates)

    def follow(segment: Sequence[int]) -> None:
        for part in done:
            part(e, segment)

    return follow if done else None


def _draw(e: Expansion, units: Sequence[int]) -> Iterator[None]:
    draw_sample(e)
    yield


def _simulated(s: AdjointSpec, t: Timings) -> float:
    """Seconds of the simulated orders behind the sample, or behind a bounded table."""
    rows = len(s.names) if s.of_all else s.rows
    return (3 + rows / 2) * s.steps * s.config.simulated * t.step


def _few_seconds(s: AdjointSpec, t: Timings) -> float:
    """Seconds of the simulated orders by which few coordinates are drawn, and of the table on them."""
    orders = 2 * ORDERS + 1
    table = TABLE * s.steps * s.problem.config.data.items * s.fine * t.step * MOST
    return (3 + len(s.names) / 2) * s.steps * orders * t.step + table + costs.few(s).gradients * t.item


def _sweep_seconds(s: AdjointSpec, t: Timings) -> float:
    rows = _table_seconds(s, t) if s.drawn_first and s.controlled else 0.0
    return costs.sweep(s).gradients * t.item + s.steps * s.config.num_runs * 2 * len(s.names) * t.step + rows


def _sample_seconds(s: AdjointSpec, t: Timings) -> float:
    drawn = 0.0 if s.whole else s.steps * s.config.num_runs * t.step if s.drawn_first else _simulated(s, t)
    return drawn + (1 + s.trajectory.places_count) * t.probe + costs.sample(s).gradients * t.item


def _fold_seconds(s: AdjointSpec, t: Timings) -> float:
    table = 0.0 if s.drawn_first and s.controlled else _table_seconds(s, t)  # else it is the sweep's
    return table + (_simulated(s, t) if s.whole else 0.0) + costs.fold(s).gradients * t.item


def _table_seconds(s: AdjointSpec, t: Timings) -> float:
    """Seconds of the table of positions, of all coordinates or of a sample."""
    share = 1.0 if s.controlled else s.expected_coordinates / s.problem.objective.size
    return TABLE * s.steps * s.problem.config.data.items * s.fine * t.step * share


TRAJECTORY: Stage[Expansion] = Stage(
    "trajectory",
    missing=_unless_complete,
    work=lambda e, steps: run_trajectory(e.trajectory, steps, _follower(e)),
    stores=lambda e: (e.trajectory.stores, (e.simulated,)),
    held=costs.held,
    cost=costs.trajectory,
    seconds=lambda s, t: costs.trajectory(s).gradients * (t.item + t.step),
    memory=lambda s, f: s.trajectory.memory(f),
    passing=costs.passing,
    advice=f"lower adjoint.num_runs, or {LESS}",
)
LOW_RANK: Stage[Expansion] = Stage(
    "low rank",
    missing=lambda e: missing_low_rank(e) if _lacks(e, *FOLDED[1:]) else (),
    work=run_low_rank,
    independent=True,
    stores=lambda e: ((e.ritz,),),
    held=costs.held,
    cost=costs.low_rank,
    memory=memory.low_rank,
    advice="lower adjoint.rank",
    part_of=lambda s: bool(s.rank),
)
FIRST_SAMPLE: Stage[Expansion] = Stage(
    "sample",
    missing=lambda e: () if e.sampled.has(0) else (0,),
    work=draw_before,
    stores=lambda e: ((e.updates,), (e.sampled, e.sweep.swept, e.sweep.latest)),
    held=costs.held,
    cost=costs.sample,
    seconds=_sample_seconds,
    memory=memory.first_sample,
    passing=costs.passing,
    advice="lower adjoint.functionals or adjoint.num_runs",
    part_of=lambda s: s.drawn_first,
)
SWEEP: Stage[Expansion] = Stage(
    "backward pass",
    missing=lambda e: missing_sweep(e) if _lacks(e, *FOLDED[1:]) else (),
    work=run_sweep,
    stores=lambda e: ((e.sweep.swept, e.sweep.latest),),
    held=costs.held,
    cost=costs.sweep,
    seconds=_sweep_seconds,
    memory=memory.sweep,
    passing=costs.passing,
    advice=f"lower adjoint.num_runs or adjoint.pool, or {LESS}",
)
CHOICE: Stage[Expansion] = Stage(
    "anchors: how many",
    missing=missing_choice,
    work=run_choice,
    stores=lambda e: ((e.pilots,), (e.chosen,)),
    part_of=lambda s: not s.config.num_anchors,
    within="anchors",
)
ANCHORS: Stage[Expansion] = Stage(
    "anchors",
    missing=lambda e: missing_anchors(e) if _lacks(e, *ANCHORED, *FOLDED[2:]) else (),
    work=run_anchors,
    independent=True,
    stores=lambda e: ((e.anchored,),),
    held=costs.held,
    cost=costs.anchors,
    memory=memory.anchors,
    part_of=lambda s: s.controlled and not s.drawn_first,
)
FIRST_ANCHORS = replace(ANCHORS, part_of=lambda s: s.controlled and s.drawn_first)
SAMPLE: Stage[Expansion] = Stage(
    "sample",
    missing=lambda e: () if e.sampled.has(0) else (0,),
    work=_draw,
    stores=lambda e: ((e.bounded,), (e.sampled,)),
    held=costs.held,
    cost=costs.sample,
    seconds=_sample_seconds,
    memory=memory.sample,
    advice="lower adjoint.simulated or adjoint.num_runs",
    part_of=lambda s: not s.drawn_first,
)
SAMPLED_ANCHORS: Stage[Expansion] = Stage(
    "anchors",
    missing=lambda e: e.open_terms().missing(ANCHORED),
    work=run_sampled_anchors,
    independent=True,
    held=costs.held,
    cost=costs.anchors,
    memory=memory.anchors,
    part_of=lambda s: not s.controlled,
)
FEW: Stage[Expansion] = Stage(
    "few coordinates",
    missing=missing_few,
    work=draw_few,
    stores=lambda e: ((e.few,),),
    held=costs.held,
    cost=costs.few,
    seconds=_few_seconds,
    memory=memory.few,
    part_of=thins,
)
FOLD: Stage[Expansion] = Stage(
    "tables",
    missing=missing_tables,
    work=fold,
    held=costs.held,
    cost=costs.fold,
    seconds=_fold_seconds,
    memory=memory.fold,
    advice="lower adjoint.coordinates or adjoint.num_anchors",
)


class ExpansionStages(Preparation[Expansion]):
    """The expansion about the trajectory."""

    name = ADJOINT
    section = "adjoint"
    what = "the expansion and its scratch"
    parts = PARTS
    stages = (
        TRAJECTORY,
        LOW_RANK,
        FIRST_SAMPLE,
        FIRST_ANCHORS,
        SWEEP,
        CHOICE,
        ANCHORS,
        SAMPLE,
        SAMPLED_ANCHORS,
        FEW,
        FOLD,
    )

    def planned(self, problem: Problem, config: Config) -> AdjointSpec:
        return possible_spec(problem, config.adjoint)

    def open(self, context: Context, request: Request = Request()) -> Expansion:  # noqa: B008
        config, stored = context.config, None
        if request.adjoint is not None:
            config = config.model_copy(update={"adjoint": request.adjoint})
        elif has_expansion(context.path):
            stored = read_expansion_config(context)
        found = for_readouts(config, self.section, stored, request.readouts, context.path / ADJOINT)
        return open_expansion(context, found)

    def opened(self, context: Context, request: Request = Request()) -> list[Expansion]:  # noqa: B008
        """The run's expansion, and those of read-outs that were or are to be added to it."""
        if not has_expansion(context.path) or request.adjoint is not None:
            return [self.open(context, request)]
        first, added = open_expansion(context), added_expansions(context)
        for expansion in added:
            require_same_origin(expansion, first)
        wanted = readout_names(request.readouts or (), context.config.data.items)
        held = {name for expansion in (first, *added) for name in expansion.spec.names}
        lacking = [name for name in wanted if name not in held]
        return [first, *added, *([new_expansion(context, lacking)] if lacking else [])]

    def places_in(self, path: Path) -> list[str]:
        return [self.name, MEMORIZATION, *added_places(path)]

    def still(self, files: Expansion) -> tuple[list[str], int, Cost]:
        """What is to be computed yet; the trajectory too, where added read-outs need one that was removed."""
        names, pieces, cost = super().still(files)
        if names and files.origin is not None:
            share = len(missing_steps(files.trajectory)) / files.spec.steps
            about = files.spec.trajectory
            cost = cost._replace(gradients=cost.gradients + round(share * about.gradients))
            names = [f"{self.name} of {shortened(files.spec.names)}"]
        return names, pieces, cost

    def usual(self, context: Context) -> tuple[str, ...]:
        return self.terms if context.problem.rule.smooth else ()

    def pin_identity(self, files: Expansion, pins: dict[str, float], path: Path) -> None:
        if files.spec.whole_items and not has_expansion(files.directory.parent, files.directory.name):
            warnings.warn(f"{self.name}: {whole_items_note(files.problem)}", FutWarning, stacklevel=6)
        super().pin_identity(files, pins, path)

    def notes(self, problem: Problem, config: Config) -> list[str]:
        spec = self.planned(problem, config)
        said = f"anchors: planned for {len(spec.anchors)}, the most that adjoint.num_anchors = 0 can choose"
        notes = [] if config.adjoint.num_anchors else [said]
        return notes + ([whole_items_note(problem)] if spec.whole_items else [])

    def describe(self, context: Context) -> dict[str, Any]:
        found, begun = open_expansion(context), has_expansion(context.path)
        complete = begun and found.complete()
        return {
            "adjoint": found.spec.config.model_dump(),
            "adjoint_cached": complete,
            "adjoint_begun": begun,
            "adjoint_anchor_error": anchor_error(found) if complete else None,
            "adjoint_anchor_choice": _choice(found.spec) if begun else None,
            "adjoint_left_out": left_out_note(found.spec),
            "steep_items": steep_items(found) if complete else [],
            "adjoint_few": few_facts(found) if complete else None,
            "adjoint_difference_error": kept_error(found) if begun else None,
            "readouts": [
                *found.spec.names,
                *(n for e in added_expansions(context) for n in e.spec.names if e.complete()),
            ],
        }

    def require_possible(self, spec: AdjointSpec) -> None:
        """Refuse a trajectory or batches that these items cannot make, and a rule by which coordinates cannot be sampled or which
        has no metric for low-rank curvature."""
        problem, config = spec.problem, spec.config
        _ = spec.trajectory.groups
        if spec.drawn_first and not config.num_anchors:
            raise UsageError(
                'adjoint.num_anchors: expected a number beside adjoint.drawn = "before", got 0, which chooses one by what the '
                'backward pass stores of all coordinates; set adjoint.num_anchors, or adjoint.drawn = "after"'
            )
        require_coordinates(problem, "adjoint", spec.expected_coordinates, "adjoint.coordinates")
        if config.curvature == "pooled":
            require_samples(problem, 'set adjoint.curvature = "items"', "adjoint.curvature")
        if config.rank:
            require_metric(problem, "adjoint.rank", "set adjoint.rank = 0")
            require_samples(problem, "set adjoint.rank = 0", "adjoint.rank")

    def stored(self, context: Context) -> list[Expansion]:
        places = [place for place in (self.name, MEMORIZATION) if has_expansion(context.path, place)]
        return [*(open_expansion(context, part=place) for place in places), *added_expansions(context)]


def left_out_note(spec: AdjointSpec) -> str:
    """What is to be said of runs that diverged and in whose place others stand; empty where there are none."""
    about = spec.trajectory
    if not about.left_out:
        return ""
    lost = listed([about.run(number) for number in about.left_out])
    return (
        f"{len(about.left_out)} of {about.count + len(about.left_out)} orders diverged when they were trained for the adjoint's "
        f"trajectory, and others stand in their place: {lost}; the average is of orders that train alone"
    )


def _choice(spec: AdjointSpec) -> dict[str, Any] | None:
    """The number of anchors where it was chosen, what each number that was tried would err by, and what was asked."""
    if spec.choice is None:
        return None
    errors = [{"anchors": count, "error": error} for count, error in spec.choice.errors.items()]
    return {"anchors": len(spec.choice.anchors), "asked": spec.config.anchor_error, "tried": errors}


EXPANSION = ExpansionStages()
