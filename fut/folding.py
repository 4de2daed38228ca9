"""From whole-size scratch to the terms that stay: what the estimators read, on the sampled coordinates.

Beside the adjoint's terms, the table of positions: values [T, r, items] of putting an item at a step, for the r fine read-outs.
It takes the costate after the step (curvature of all that follows included), the rule's own next state, and item gradients
interpolated from the anchors; on all coordinates where all are kept, else on the sample, weighted by 1/p: unbiased.
"""

from __future__ import annotations

from collections.abc import Callable
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

FOLDED = ("centre", "weight", "positions", "left_out")


def term_specs(expansion: Expansion) -> list[TermSpec]:
    """The terms of an expansion: weights of read-outs, then of functionals, and their slopes as those of step T.

    Positions, and what leaving an anchor out does to them, are in double precision, as they are few.
    """
    k, n, r = len(expansion.indices), expansion.problem.config.data.items, len(expansion.names)
    shapes = {
        "gradient": (len(expansion.anchors), n, k),
        "norm": (len(expansion.anchors), n, 1),
        "weight": (expansion.steps + 1, r + expansion.functionals, k),
        "centre": (expansion.steps + 1, 1, k),
    }
    specs = [TermSpec(name, shape, expansion.problem.config.model.dtype) for name, shape in shapes.items()]
    few = {"positions": (expansion.steps, expansion.fine, n), "left_out": (len(expansion.anchors), expansion.fine, n)}
    return [*specs, *(TermSpec(name, shape, "float64") for name, shape in few.items())]


def fold(expansion: Expansion, terms: TermStore) -> None:
    """Write what is missing: the centre's parameters and the sweep's weights on the sample, and the table of positions."""
    kept, folded = expansion.indices.cpu().numpy(), has_names(terms, FOLDED)
    table = PositionTable(expansion, terms)
    for block in terms.missing(folded):
        values = {
            "centre": lambda b=block: expansion.centre.read_array(b.step, "theta")[None, kept],
            "weight": lambda b=block: expansion.swept.read_array(b.step, "weight")[b.first : b.last, kept],
            "positions": lambda b=block: table.row(b.step)[b.first : b.last],
            "left_out": lambda b=block: table.left_out(b.step)[b.first : b.last],
        }
        for name in terms.missing_names(block, folded):
            terms.write(Block(block.step, block.first, block.last), {name: np.ascontiguousarray(values[name]())})


def has_names(terms: TermStore, names: tuple[str, ...]) -> list[str]:
    """Those of the names that a store has: one made by an earlier version lacks the table of positions."""
    held = {spec.name for spec in terms.specs}
    return [name for name in names if name in held]


def anchor_error(expansion: Expansion, row: int = 0) -> float | None:
    """What leaving an anchor out would do to an order's estimate: standard deviation over random orders, in its unit.

    From the table of positions at every anchor but the first and last, interpolated without it: an order sums T such
    errors. With all anchors, whose spacing is half as wide, the error is some four times smaller. None below three anchors.
    """
    terms = expansion.terms()
    if len(expansion.anchors) < 3 or not has_names(terms, ("left_out",)) or terms.missing(["left_out"]):
        return None
    found = [terms.read_items("left_out", a, [row])[0] for a in range(1, len(expansion.anchors) - 1)]
    return float(np.sqrt(expansion.steps * np.mean([values.var() for values in found])))


class PositionTable:
    """The table of positions, a step at a time, from scratch and the anchors' gradients."""

    def __init__(self, expansion: Expansion, terms: TermStore) -> None:
        self.expansion = expansion
        self.row = lru_cache(maxsize=1)(lambda step: self._values(step, self.tables["gradient"], self.tables["norm"]))
        self.left_out = lru_cache(maxsize=1)(self._left_out)

        def reader(name: str) -> Callable[[int], Tensor]:
            return lru_cache(maxsize=3)(lambda a: torch.from_numpy(terms.read(name, a)).to(expansion.problem.device))

        self.readers = {name: reader(name) for name in ("gradient", "norm")}
        self.tables = {name: Anchored(expansion.anchors, read) for name, read in self.readers.items()}

    def _left_out(self, index: int) -> np.ndarray:
        """What values [r, items] at an anchor become, less what they are, once it is left out; 0 at the ends."""
        anchors = self.expansion.anchors
        if index in (0, len(anchors) - 1):
            return np.zeros((self.expansion.fine, self.expansion.problem.config.data.items))
        rest = [a for a in range(len(anchors)) if a != index]

        def without(name: str) -> Anchored:
            return Anchored([anchors[a] for a in rest], lambda a: self.readers[name](rest[a]))

        found = self._values(anchors[index], without("gradient"), without("norm"))
        return found - self._values(anchors[index], self.tables["gradient"], self.tables["norm"])

    def _values(self, step: int, gradients: Anchored, norms: Anchored) -> np.ndarray:
        """Values [r, items] of a step, float64."""
        expansion, problem, indices = self.expansion, self.expansion.problem, self.expansion.indices
        values: Tensor = item_values(
            problem.rule,
            problem.rate(step),
            expansion.state(step).restrict(indices),
            expansion.state(step + 1).restrict(indices),
            expansion.costate(step + 1).restrict(indices),
            gradients(step),
            norms(step).squeeze(-1),
            1.0 / expansion.probabilities,
        )
        return values.cpu().numpy()
