"""Methods about the reference run's own checkpoints: replay of the true rule, and the Taylor terms of arXiv 2505.22042."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from estimators.sketch import Sketch
from fut.artifacts.directory import TERMS, directory_bytes
from fut.config.training import TrainingConfig
from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.context import Context
from fut.methods.coupling import cut_apart
from fut.methods.footprint import TEMPORARIES, Footprint, hashes
from fut.methods.pairwise.pipeline import PAIRWISE_TERMS
from fut.methods.pairwise.replay import Replay, ReplayExact
from fut.methods.pairwise.store import incomplete, pairwise_config, term_layout
from fut.methods.pairwise.taylor import FirstOrderTaylor, SecondOrderTaylor
from fut.methods.pairwise.terms import TermLayout, needs
from fut.methods.settings import Config
from fut.methods.timings import StageCost, Timings
from fut.training.problem import Problem

TABLES_KEPT = 4
"""Checkpoints of one term in memory at once: the last three, and the one being read."""


def table_bytes(layout: TermLayout, f: Footprint, names: Sequence[str]) -> int:
    """Bytes of the named terms of the checkpoints that are in memory at once."""
    sizes = {s.name: s.shape[1] * s.shape[2] for s in layout.specs()} if names else {}
    return TABLES_KEPT * f.theta.element_size() * sum(sizes[n] for n in names)


def query_memory(layout: TermLayout, f: Footprint, names: Sequence[str], linear: Sketch) -> int:
    """One order: the tables it streams, its own state, and its read-out, linear on a sketch where that is none of identity."""
    tables = table_bytes(layout, f, names)
    return f.query(tables, 0 if linear.kind == "identity" else f.probe_gradient + hashes(linear))


class Streaming(Method):
    """A method that streams pairwise terms. sketched: on the sketch, else on the coordinates kept."""

    preparation = PAIRWISE_TERMS
    sketched = True

    def terms(self, context: Context) -> tuple[str, ...]:
        return needs(term_layout(context), self.name)

    def gradients_before(self, context: Context) -> int:
        layout = term_layout(context)
        return layout.gradients(needs(layout, self.name))

    def read_bytes(self, context: Context) -> int:
        names = needs(term_layout(context), self.name)
        return sum(directory_bytes(context.path / TERMS / "arrays" / name) for name in names)

    def table_bytes(self, estimator: Estimator, footprint: Footprint) -> int:
        layout = term_layout(estimator.context)
        names = needs(layout, self.name)
        return 0 if incomplete(estimator.context, names) else table_bytes(layout, footprint, names)

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost:
        layout = TermLayout.of(problem, config.cache)
        linear, names = layout.sketch if self.sketched else layout.sample, needs(layout, self.name)
        seconds = orders * (layout.steps * linear.size * timings.replayed(1, linear.size) + timings.probe)
        peak = query_memory(layout, timings.footprint, names, linear)
        return StageCost(f"query: {self.name}", 0, seconds, 0, 0, *timings.footprint.split(peak))

    def fingerprint(self, context: Context, readout: str) -> Mapping[str, Any]:
        return pairwise_config(context).model_dump(mode="json", exclude={"item_block"})


class ReplayMethod(Streaming):
    """The true rule on item gradients of the reference run's checkpoints."""

    name, opens, sketched, place = "replay", Replay, False, -1
    capabilities = Capabilities(any_length=True, rebuilds=True, coupling="coordinate")
    advice = "lower cache.coordinates or data.items"

    def query(  # type: ignore[override]
        self, problem: Problem, config: Config, timings: Timings, orders: int = 1
    ) -> StageCost | None:
        cut = cut_apart(problem, TermLayout.of(problem, config.cache).sample.size)
        return None if cut else super().query(problem, config, timings, orders)


class Taylor1(Streaming):
    """First order in the update's own displacement."""

    name, aliases, opens = "taylor1", ("fut",), FirstOrderTaylor
    capabilities = Capabilities(any_length=True, rebuilds=True, empty_steps=False, needs_smooth=True)
    advice = "lower cache.size or data.items"


class Taylor2(Taylor1):
    """Second order in it."""

    name, aliases, opens = "taylor2", ("fut++",), SecondOrderTaylor


def exact_gradients(config: TrainingConfig) -> int:
    """Gradient evaluations of one order by `replay-exact`, at most: for every item consumed its gradient and a product, which
    counts two. Steps that stand where the reference run did, as the first one does, take no product."""
    return 3 * config.consumed


class ReplayExactMethod(Method):
    """Replay with exact Hessian-vector products at query time."""

    name, opens = "replay-exact", ReplayExact
    capabilities = Capabilities(any_length=True, rebuilds=True, exact_curvature=True)
    note = "by replay about the reference run with exact curvature"

    def gradients_per_order(self, context: Context, options: Mapping[str, str]) -> int:
        return exact_gradients(context.config)

    def read_bytes(self, context: Context) -> int:
        return context.checkpoints.nbytes()

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost:
        f = timings.footprint
        step = (2 * f.state + TEMPORARIES) * f.vector
        held = f.resident + (2 * f.state + 2) * f.vector
        peak = f.planned(held + max(f.exact_product, f.gradient, step, f.evaluation))
        steps = problem.config.steps
        products = problem.config.consumed * timings.product
        seconds = orders * (steps * (timings.gradient + timings.step) + products + timings.probe)
        return StageCost(
            "query: replay-exact",
            orders * exact_gradients(problem.config),
            seconds,
            0,
            0,
            *timings.footprint.split(peak),
        )


REPLAY, REPLAY_EXACT, TAYLOR1, TAYLOR2 = ReplayMethod(), ReplayExactMethod(), Taylor1(), Taylor2()
