"""The ways in which an expansion's scratch can be stored, and what each costs as a whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.settings import Config
from fut.methods.stages import stage_costs
from fut.methods.timings import Strategy, Timings


def strategies(config: Config, timings: Timings) -> list[Strategy]:
    """A row for every way: `adjoint.storage`, and of a sample of coordinates `adjoint.drawn`."""
    configured = EXPANSION.planned(timings.problem, config)
    ways = ["after"] if configured.whole or not config.adjoint.num_anchors else ["after", "before"]
    chosen = ("retrain" if configured.retrains else "store", "before" if configured.drawn_first else "after")
    found = []
    for drawn, storage in product(ways, ("store", "retrain")):
        changed = {"drawn": drawn, "storage": storage}
        spec = replace(configured, config=configured.config.model_copy(update=changed))
        rows, total = list(stage_costs(EXPANSION, spec, timings)), EXPANSION.cost(spec)
        strategy = Strategy(
            EXPANSION.name,
            storage,
            drawn,
            (storage, drawn) == chosen,
            total.gradients,
            sum(row.seconds for row in rows),
            total.kept,
            total.scratch,
            max(row.host_bytes for row in rows),
            max(row.device_bytes for row in rows),
        )
        found.append(strategy)
    return found
