"""The low-rank method: endpoints from low-rank curvature, refreshed by a few true mean gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, lru_cache

import torch
from torch import Tensor

from estimators.adjoint import Anchored, StreamedAnchors
from estimators.errors import OrderError
from estimators.lanczos import RitzPairs
from estimators.lowrank import Curvature, LowRankTransition, refresh_steps, scarcity
from estimators.orders.order import Order
from estimators.replay import Listener, replay
from fut.errors import NotCachedError, UsageError
from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.context import Context
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.footprint import Footprint
from fut.methods.lowrank.pipeline import KEPT, LOW_RANK_TERMS, query_memory, table_bytes
from fut.methods.lowrank.terms import LowRankFiles, has_low_rank, open_low_rank
from fut.methods.settings import Config
from fut.methods.timings import StageCost, Timings
from fut.readouts.readout import PROBE
from fut.training.problem import Problem
from storage import TermStore

COMMAND = "fut cache RUN --terms lowrank"
FAR = 0.9
"""Misses of the reference order's own end from which on an estimate is spoken against."""


class LowRankReplay(Estimator):
    """Rebuilds the endpoint: replay about the trajectory with curvature, a few gradients per order.

    A *position* is the estimated parameters y(order) - y(reference order) + theta_T [n, D], y being the replay's end; the
    read-out is really evaluated there. So the reference order, and any order that trains on the same content, gives the
    reference itself, bit for bit. Orders of fewer steps are read against the reference run's parameters at that step.
    """

    name = "lowrank"

    def __init__(self, context: Context, readout: str = PROBE, refresh: str | None = None) -> None:
        """refresh: steps between true mean gradients, in place of the configured number; 0 for none."""
        super().__init__(context, readout)
        if not has_low_rank(context.path):
            raise NotCachedError(f"lowrank: expected the run's low-rank curvature, got none; run `{COMMAND}` first")
        self.base: LowRankFiles = open_low_rank(context)
        self.every = self.base.spec.config.refresh if refresh is None else refresh_interval(refresh)
        self._owns: dict[int, Tensor] = {}

    @cached_property
    def _terms(self) -> TermStore:
        if not self.base.complete():
            raise NotCachedError(f"lowrank: expected complete terms, got some missing; run `{COMMAND}` to finish them")
        return self.base.terms()

    def ready(self) -> None:
        _ = self._terms

    def width(self) -> int:
        return 2 * self.problem.objective.size

    def _read(self, name: str, index: int) -> Tensor:
        return torch.from_numpy(self._terms.read(name, index)).to(self.problem.device)

    @property
    def _kept(self) -> int | None:
        """Tables of one kind that stay in memory: all of them (None) where they are small, else the one that is read."""
        return None if self.base.spec.kept_bytes() <= KEPT else 1

    @cached_property
    def _gradients(self) -> Callable[[int], Tensor]:
        """Item gradients [items, D] at an anchor."""
        return cache(lambda anchor: self._read("gradient", anchor).to(self.problem.objective.dtype))

    def _rows(self, anchor: int, items: Sequence[int]) -> Tensor:
        """Gradients of some items [len(items), D] at an anchor."""
        found = self._terms.read_items("gradient", anchor, items)
        return torch.from_numpy(found).to(self.problem.device, self.problem.objective.dtype)

    def _scarcity(self, anchor: int) -> Tensor:
        """One over the share of items that touch each coordinate at an anchor [D]."""
        if self._kept is None:
            return scarcity([self._gradients(anchor)])
        count = self.problem.config.data.items
        blocks = (range(i, min(i + ITEM_BLOCK, count)) for i in range(0, count, ITEM_BLOCK))
        return scarcity(self._rows(anchor, block) for block in blocks)

    def _pairs(self, anchor: int) -> RitzPairs:
        """The low-rank curvature at a curvature anchor."""
        vectors = self._read("lowrank", anchor).to(self.problem.objective.dtype)
        return RitzPairs(self._read("eigenvalue", anchor)[0], vectors)

    def _mean(self, step: int, centre: Callable[[int], Tensor]) -> Tensor:
        """The mean gradient [D] of a refresh step's batch at the trajectory."""
        if self.every == self.base.spec.config.refresh:
            return self._read("refresh", self.base.spec.refreshed.index(step))[0]
        return self.base.mean_gradient(step, centre(step))

    @cached_property
    def transition(self) -> LowRankTransition:
        """The replay about the trajectory."""
        base, problem, spec = self.base, self.problem, self.base.spec
        centre = lru_cache(maxsize=self._kept)(lambda step: self._read("centre", step)[0])
        mean = cache(lambda step: self._mean(step, centre))
        rows = lru_cache(maxsize=2)(self._rows)
        return LowRankTransition(
            problem.rule,
            problem.rate,
            Anchored(spec.anchors, self._gradients)
            if self._kept is None
            else StreamedAnchors(spec.anchors, lambda anchor, items: rows(anchor, tuple(items))),
            centre,
            Curvature(spec.curvature_anchors, lru_cache(maxsize=self._kept)(self._pairs)),
            frozenset(refresh_steps(spec.steps, self.every)),
            lambda step, theta: base.mean_gradient(step, theta.clone()) - mean(step),
            lru_cache(maxsize=self._kept)(self._scarcity),
        )

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        steps = len(orders[0])
        if steps > self.base.spec.steps:
            raise OrderError(
                f"lowrank: expected orders of at most {self.base.spec.steps} steps, as many as the trajectory has, got {steps}; "
                "use --estimator retrain"
            )
        ends, reference = self._replayed(orders, listener), self._own(steps)
        theta = self.context.state(steps).theta
        return torch.where(ends == reference, theta, ends + (theta - reference))

    def _replayed(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        """Where the replay itself ends [n, D]."""
        start = self.transition.start(self.context.state(0).rows(len(orders)))
        return replay(self.transition, start, self.batch(orders), listener=listener).theta

    def _own(self, steps: int) -> Tensor:
        """Where it ends for the first steps of the reference order [D]."""
        if steps not in self._owns:
            self._owns[steps] = self._replayed([Order(self.problem.reference.steps[:steps])])[0]
        return self._owns[steps]

    def own_miss(self) -> float:
        """How far its replay of the reference order itself ends from the truth, beside how far the trajectory does. What the two
        have in common is taken off every order; what is left of an order errs about as much."""
        true, steps = self.context.state(self.base.spec.steps).theta, self.base.spec.steps
        centre = self._read("centre", steps)[0]
        miss: float = ((self._own(steps) - true).norm() / (centre - true).norm()).item()
        return miss

    def caution(self) -> str:
        if not (miss := self.own_miss()) >= FAR:  # no number where the trajectory ends as the reference run does
            return ""
        return (
            f"its replay of the reference order itself ends {miss:.2f} times as far from the truth as the mean over orders does, "
            "so that it does not hold on this run: retrain, or refresh more often (lowrank:refresh=4)"
        )


def refresh_interval(text: str) -> int:
    """The option's number of steps."""
    if not text.isdecimal():
        raise UsageError(
            f"lowrank: expected refresh as a number of steps, 0 for none, got `{text}`; write lowrank:refresh=8"
        )
    return int(text)


class LowRank(Method):
    """Rebuilds the endpoint: replay about a trajectory of mixtures with curvature, a few gradients per order."""

    name, aliases, opens = "lowrank", ("curved",), LowRankReplay
    capabilities = Capabilities(any_length=True, rebuilds=True, needs_smooth=True, coupling="coordinate", metric=True)
    preparation = LOW_RANK_TERMS
    advice = "lower lowrank.rank or adjoint.num_anchors"

    def gradients_per_order(self, context: Context, options: Mapping[str, str]) -> int:
        refresh = options.get("refresh")
        return open_low_rank(context).spec.query_gradients(None if refresh is None else refresh_interval(refresh))

    def table_bytes(self, estimator: Estimator, footprint: Footprint) -> int:
        return table_bytes(open_low_rank(estimator.context).spec, footprint, 1)

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost:
        """So many orders, and the replay of the reference order, which they are compared with."""
        spec = LOW_RANK_TERMS.planned(problem, config)
        count, peak = spec.query_gradients(), query_memory(spec, timings.footprint, orders)
        products = 4 * spec.rank * spec.size * timings.flop
        replayed = count * timings.item + spec.steps * (timings.step + products)
        seconds = (orders + 1) * replayed + orders * timings.probe
        return StageCost("query: lowrank", (orders + 1) * count, seconds, 0, 0, *timings.footprint.split(peak))


LOW_RANK_METHOD = LowRank()
