"""From whole-size scratch to the terms that stay: what the estimators read, on the sampled coordinates.

Beside the adjoint's terms, the table of positions: values [T, r, items] of putting an item at a step, for r read-outs.
It takes the costate after the step (curvature of all that follows included), the rule's own next state, and item gradients
interpolated from the anchors; on all coordinates where all are kept, else on the sample, weighted by 1/p: unbiased.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Anchored
from estimators.positions import item_values
from storage import Block, TermSpec, TermStore

if TYPE_CHECKING:
    from .expansion import Expansion

FOLDED = ("centre", "weight", "positions")


def term_specs(expansion: Expansion) -> list[TermSpec]:
    """The terms of an expansion: weights of read-outs, then of functionals, and their slopes as those of step T.

    Positions are in double precision, as they are few.
    """
    k, n, r = len(expansion.indices), expansion.problem.config.data.items, len(expansion.names)
    shapes = {
        "gradient": (len(expansion.anchors), n, k),
        "norm": (len(expansion.anchors), n, 1),
        "weight": (expansion.steps + 1, r + expansion.functionals, k),
        "centre": (expansion.steps + 1, 1, k),
    }
    specs = [TermSpec(name, shape, expansion.problem.config.model.dtype) for name, shape in shapes.items()]
    return [*specs, TermSpec("positions", (expansion.steps, r, n), "float64")]


def fold(expansion: Expansion, terms: TermStore) -> None:
    """Write what is missing: the centre's parameters and the sweep's weights on the sample, and the table of positions."""
    kept, folded = expansion.indices.cpu().numpy(), has_names(terms, FOLDED)
    table = PositionTable(expansion, terms)
    for block in terms.missing(folded):
        values = {
            "centre": lambda b=block: expansion.centre.read_array(b.step, "theta")[None, kept],
            "weight": lambda b=block: expansion.swept.read_array(b.step, "weight")[b.first : b.last, kept],
            "positions": lambda b=block: table.row(b.step)[b.first : b.last],
        }
        for name in terms.missing_names(block, folded):
            terms.write(Block(block.step, block.first, block.last), {name: np.ascontiguousarray(values[name]())})


def has_names(terms: TermStore, names: tuple[str, ...]) -> list[str]:
    """Those of the names that a store has: one made by an earlier version lacks the table of positions."""
    held = {spec.name for spec in terms.specs}
    return [name for name in names if name in held]


class PositionTable:
    """The table of positions, a step at a time, from scratch and the anchors' gradients."""

    def __init__(self, expansion: Expansion, terms: TermStore) -> None:
        self.expansion = expansion
        self.row = lru_cache(maxsize=1)(self._row)

        def reader(name: str) -> Anchored:
            read = lru_cache(maxsize=2)(lambda a: torch.from_numpy(terms.read(name, a)).to(expansion.problem.device))
            return Anchored(expansion.anchors, read)

        self.gradients, self.norms = reader("gradient"), reader("norm")

    def _row(self, step: int) -> np.ndarray:
        """Values [r, items] of a step, float64."""
        expansion, problem, indices = self.expansion, self.expansion.problem, self.expansion.indices
        values: Tensor = item_values(
            problem.rule,
            problem.rate(step),
            expansion.state(step).restrict(indices),
            expansion.state(step + 1).restrict(indices),
            expansion.costate(step + 1).restrict(indices),
            self.gradients(step),
            self.norms(step).squeeze(-1),
            1.0 / expansion.probabilities,
        )
        return values.cpu().numpy()
