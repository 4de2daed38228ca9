"""The low-rank method: endpoints from low-rank curvature, refreshed by a few true mean gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.context import Context
from fut.methods.footprint import Footprint
from fut.methods.lowrank.estimator import LowRankReplay, refresh_interval
from fut.methods.lowrank.pipeline import LOW_RANK_TERMS, query_memory, table_bytes
from fut.methods.lowrank.terms import open_low_rank
from fut.methods.settings import Config
from fut.methods.timings import StageCost, Timings
from fut.training.problem import Problem


class LowRank(Method):
    """Rebuilds the endpoint: replay about a trajectory of mixtures with curvature, a few gradients per order."""

    name, aliases, opens = "lowrank", ("curved",), LowRankReplay
    capabilities = Capabilities(any_length=True, rebuilds=True, needs_smooth=True, coupling="coordinate")
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
        return StageCost("query: lowrank", (orders + 1) * count, seconds, 0, 0, peak)

    def fingerprint(self, context: Context, readout: str) -> Mapping[str, Any]:
        return open_low_rank(context).spec.settings


LOW_RANK_METHOD = LowRank()
