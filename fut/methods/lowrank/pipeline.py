"""What the low-rank method computes before the first order, stage by stage.

Stages: trajectory (its lifted states in scratch), low-rank curvature (Lanczos at a few checkpoints of it, which needs those
states), anchors (item gradients, copied from a complete expansion about the same trajectory on all coordinates where there is
one), refresh gradients (of a drawn batch, at the refresh steps).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from estimators.lowrank import low_rank, sensitivity
from fut.errors import UsageError
from fut.methods.batching import batch_size
from fut.methods.context import Context
from fut.methods.coupling import require_metric
from fut.methods.curvature_batches import require_samples
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.expansion.stored import About
from fut.methods.expansion.trajectory import PARTS, missing_steps, run_trajectory
from fut.methods.footprint import TEMPORARIES, Footprint
from fut.methods.lowrank.spec import LowRankSpec
from fut.methods.lowrank.terms import DIRECTORY, LOW_RANK_KEY, LowRankFiles, has_low_rank, open_low_rank
from fut.methods.settings import Config
from fut.methods.stages import LESS, Cost, Preparation, Request, Stage
from fut.models import autodiff as derivatives
from fut.training.problem import Problem
from storage import Block

KEPT = 1 << 30
"""Bytes of tables up to which all of them stay in memory once read; beyond it, the rows that a step consumes alone."""
CURVATURE = ("lowrank", "eigenvalue")


def _missing_states(base: LowRankFiles) -> Sequence[object]:
    terms = base.open_terms()
    if not terms.missing(["centre", *CURVATURE]):
        return ()
    return missing_steps(base.trajectory) or terms.missing(["centre"])


def _run_states(base: LowRankFiles, units: Sequence[object]) -> Iterator[None]:
    """The lifted states as scratch, and their parameters for good."""
    terms, steps = base.open_terms(), missing_steps(base.trajectory)
    yield from run_trajectory(base.trajectory, steps) if steps else ()
    for block in terms.missing(["centre"]):
        terms.write(block, {"centre": base.trajectory.parameters(block.step)[None].cpu().numpy()})
        if not steps:
            yield


def _run_curvature(base: LowRankFiles, indices: Sequence[int]) -> Iterator[None]:
    terms = base.open_terms()
    missing = terms.missing(CURVATURE)
    for index in indices:
        values, rows = low_rank_at(base, base.spec.curvature_anchors[index])
        found = {"lowrank": base.stored(rows), "eigenvalue": values.numpy()[None]}
        for block in (b for b in missing if b.step == index):
            for name in terms.missing_names(block, CURVATURE):
                terms.write(block, {name: found[name][block.first : block.last]})
        yield


def low_rank_at(base: LowRankFiles, step: int) -> tuple[Tensor, Tensor]:
    """Values [r] and rows [r, D] of the mean Hessian at a checkpoint of the trajectory, whose state scratch holds."""
    state, batch = base.trajectory.state(step), base.batch(LOW_RANK_KEY, step)

    def product(direction: Tensor) -> Tensor:
        return derivatives.hessian_vector_difference(base.problem.objective, state.theta, batch, direction)

    weight = sensitivity(base.problem.rule, state, base.spec.config.clamp)
    return low_rank(product, weight, base.spec.config.rank, base.spec.config.seed)


def _run_anchors(base: LowRankFiles, blocks: Sequence[Block]) -> Iterator[None]:
    terms = base.open_terms()
    for block in blocks:
        items = range(block.first, block.last)
        if base.lender is not None:
            found = torch.from_numpy(base.lender.read_items("gradient", block.step, items))
        else:
            anchor = base.spec.anchors[block.step]
            found = base.problem.at(anchor).item_gradients(base.theta(terms, anchor), items)
        terms.write(block, {"gradient": base.stored(found)})
        yield


def _run_refresh(base: LowRankFiles, blocks: Sequence[Block]) -> Iterator[None]:
    terms = base.open_terms()
    for block in blocks:
        step = base.spec.refreshed[block.step]
        found = base.mean_gradient(step, base.theta(terms, step))
        terms.write(block, {"refresh": found[None].cpu().numpy()})
        yield


def _curvature_memory(s: LowRankSpec, f: Footprint) -> int:
    """The Krylov vectors, turned and scaled to the Ritz vectors; a state, the metric, and a product's vectors."""
    held = f.resident + (s.rank + f.state + 4) * f.vector
    turned = (3 * s.rank + TEMPORARIES) * f.vector
    return f.planned(held + max(f.pooled_gradient(s.config.pool) + 4 * f.vector, turned))


def _anchors_memory(s: LowRankSpec, f: Footprint) -> int:
    rows = min(ITEM_BLOCK, s.problem.config.data.items)
    return f.planned(f.resident + 4 * rows * f.vector + max(f.gradient, rows * f.vector))


STATES: Stage[LowRankFiles] = Stage(
    "trajectory",
    missing=_missing_states,
    work=_run_states,
    stores=lambda b: (b.trajectory.stores,),
    cost=lambda s: Cost(s.trajectory.gradients, s.kept_bytes("centre"), s.trajectory.scratch_bytes),
    seconds=lambda s, t: s.trajectory.gradients * (t.item + t.step),
    memory=lambda s, f: s.trajectory.memory(f),
    advice=f"lower adjoint.num_runs, or {LESS}",
)
LOW_RANK: Stage[LowRankFiles] = Stage(
    "low-rank curvature",
    missing=lambda b: sorted({block.step for block in b.open_terms().missing(CURVATURE)}),
    work=_run_curvature,
    independent=True,
    cost=lambda s: Cost(2 * s.pooled * s.rank * len(s.curvature_anchors), s.kept_bytes(*CURVATURE)),
    memory=_curvature_memory,
    advice=f"lower lowrank.rank or lowrank.pool, or {LESS}",
)
ANCHORS: Stage[LowRankFiles] = Stage(
    "anchors",
    missing=lambda b: b.open_terms().missing(["gradient"]),
    work=_run_anchors,
    independent=True,
    cost=lambda s: Cost(len(s.anchors) * s.problem.config.data.items, s.kept_bytes("gradient")),
    memory=_anchors_memory,
)
REFRESH: Stage[LowRankFiles] = Stage(
    "refresh gradients",
    missing=lambda b: b.open_terms().missing(["refresh"]) if b.spec.refreshed else (),
    work=_run_refresh,
    independent=True,
    cost=lambda s: Cost(s.query_gradients(), s.kept_bytes("refresh")),
    memory=lambda s, f: f.planned(f.resident + 3 * f.vector + f.pooled_gradient(s.config.pool)),
    advice=f"lower lowrank.pool, or {LESS}",
)


class LowRankStages(Preparation[LowRankFiles]):
    """Low-rank curvature about a trajectory of mixtures."""

    name, section, kind = DIRECTORY, "lowrank", "base"
    what = "the low-rank curvature and its scratch"
    parts = tuple(f"scratch/{part}" for part in PARTS)
    rank = 1
    stages = (STATES, LOW_RANK, ANCHORS, REFRESH)

    def planned(self, problem: Problem, config: Config) -> LowRankSpec:
        return LowRankSpec(problem, config.lowrank, About.of(config.adjoint.model_dump()))

    def open(self, context: Context, request: Request = Request()) -> LowRankFiles:  # noqa: B008
        return open_low_rank(context, request.lowrank)

    def require_possible(self, spec: LowRankSpec) -> None:
        """Refuse a trajectory, batches or a rule that cannot be expanded."""
        rule = spec.problem.rule
        if not rule.smooth:
            raise UsageError(
                f"lowrank: expected a rule with a derivative, in whose metric curvature is taken, got `{rule.name}`; "
                "use --estimator retrain for an endpoint"
            )
        _ = spec.trajectory.groups
        require_metric(spec.problem, "lowrank", "use --estimator replay-exact or retrain")
        require_samples(spec.problem, "use --estimator retrain", "lowrank")

    def still(self, files: LowRankFiles) -> tuple[list[str], int, Cost]:
        """What is to be computed yet, less what a complete expansion lends."""
        names, pieces, cost = super().still(files)
        lent = ANCHORS.cost(files.spec).gradients if names and files.lender is not None else 0
        return names, pieces, cost._replace(gradients=cost.gradients - lent)

    def describe(self, context: Context) -> dict[str, Any]:
        return {
            "lowrank": open_low_rank(context).spec.config.model_dump(),
            "lowrank_cached": has_low_rank(context.path),
        }


LOW_RANK_TERMS = LowRankStages()


def table_bytes(s: LowRankSpec, f: Footprint, orders: int) -> int:
    """Bytes of tables in memory while so many orders are replayed, with one more of the largest while it is read."""
    data, read = s.problem.config.data, s.problem.config.data.items
    anchors, curvatures = len(s.anchors), len(s.curvature_anchors)
    if s.kept_bytes() <= KEPT:
        rows = anchors * (data.items + 1) + curvatures * s.rank + s.steps + 1
    else:
        read = min(data.items, max(orders * data.per_step, ITEM_BLOCK)) + ITEM_BLOCK
        rows = 2 * min(data.items, orders * data.per_step) + s.rank + 2
    return (rows + len(s.refreshed) + 2 * max(read, s.rank)) * f.vector


def query_memory(s: LowRankSpec, f: Footprint, orders: int) -> int:
    """Orders replayed together: states, what is put back, and the temporaries of a step, beside one gradient."""
    batch = min(orders, batch_size(2 * s.size))
    rows = batch * (2 * f.state + 4 + TEMPORARIES) * f.vector
    taken = max(f.pooled_gradient(s.config.pool), f.evaluation)
    return f.planned(f.resident + f.state * f.vector + table_bytes(s, f, batch) + rows + taken)
