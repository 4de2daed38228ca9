"""The adjoint methods: a replay about the expansion trajectory weighed by costates, and the look-up in its table of positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fut.artifacts.directory import ADJOINT, directory_bytes
from fut.methods.adjoint import memory
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.few import few_facts
from fut.methods.adjoint.identity import holding, open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.positions import Positions, table_name
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.batching import batch_size
from fut.methods.context import Context
from fut.methods.footprint import Footprint
from fut.methods.settings import Config
from fut.methods.timings import StageCost, Timings
from fut.training.problem import Problem


class AdjointMethod(Method):
    """Exact to first order in curvature, with no gradient per order."""

    name = "adjoint"
    opens: type[Estimator] = Adjoint
    capabilities = Capabilities(needs_smooth=True, coupling="coordinate", by_coordinate=True, swept=True, early=True)
    preparation = EXPANSION
    advice = "lower adjoint.coordinates or adjoint.num_anchors"
    note = "by the expansion about the trajectory"
    replays = True

    def table_bytes(self, estimator: Estimator, footprint: Footprint) -> int:
        return memory.tables(
            AdjointSpec(footprint.problem, cast("Adjoint", estimator).expansion.spec.resolved), footprint
        )

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost:
        spec = AdjointSpec(problem, config.adjoint)
        kept = spec.expected_coordinates
        together = min(orders, batch_size(2 * kept))
        lowrank = 4 * spec.rank * timings.flop if spec.rank else 0.0
        seconds = (orders + 1) * spec.steps * kept * (timings.replayed(together, kept) + lowrank)
        peak = timings.footprint.split(memory.query(spec, timings.footprint, orders))
        return StageCost("query: adjoint", 0, seconds, 0, 0, *peak)

    def fingerprint(self, context: Context, readout: str) -> Mapping[str, Any]:
        held = holding(context, readout)
        few = few_facts(held)
        known = {**held.spec.config.identity(), "readouts": held.spec.names}
        return known if few is None or not self.replays else known | {"few": few["coordinates"]}


class PositionsMethod(AdjointMethod):
    """First order in every single placement: a look-up for every step."""

    name, opens, replays = "positions", Positions, False
    capabilities = Capabilities(
        needs_smooth=True, coupling="coordinate", by_coordinate=True, swept=True, empty_steps=False, early=True
    )

    def read_bytes(self, context: Context) -> int:
        table = table_name(open_expansion(context).spec)
        return directory_bytes(context.path / ADJOINT / "terms" / "arrays" / table)

    def table_bytes(self, estimator: Estimator, footprint: Footprint) -> int:
        return 0

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> None:  # type: ignore[override]
        return None


ADJOINT_METHOD, POSITIONS = AdjointMethod(), PositionsMethod()
