"""From whole-size scratch to the terms that stay: what the estimators read, on the sampled coordinates.

Beside the adjoint's terms, the table of positions: values [T, r, items] of putting an item at a step, for the r fine read-outs.
It takes the costate after the step (curvature of all that follows included), the rule's own next state, and item gradients
interpolated from the anchors. Where all coordinates are kept, or a sample of them has a control variate (`fut.control`), it is of
all of them, and is kept a second time with every coordinate's entries held within what simulated orders had there
(`estimators.control.Tamed`); a control variate also takes it in weighted sums over the sample. Without one it is of the sample,
weighted by 1/p: unbiased. So is the table of the functionals (`fut.bending`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Anchored, anchors_around
from estimators.position_table import chunked_values
from fut.methods.adjoint.control_variate import ROWS, all_weights
from fut.methods.adjoint.quadratic import sample_weighted, sums_of, weighted_by
from fut.methods.adjoint.sampling import tamed_tables
from fut.methods.expansion.anchors import ITEM_BLOCK, AnchoredItems
from fut.progress import Progress, silent
from storage import Block, TermSpec, TermStore

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


ANCHORED = ("gradient", "norm")
RITZ = ("lowrank", "eigenvalue")
"""What the replay's curvature is read from, where it has some."""
FOLDED = (
    "centre",
    "weight",
    "positions",
    "controlled_positions",
    "sampled_positions",
    "left_out",
    "functionals",
    *RITZ,
    "answer",
)
"""Terms that are folded first, since a table on the sample reads them, and then."""


def term_specs(expansion: Expansion) -> list[TermSpec]:
    """The terms of an expansion: weights of read-outs, and their slopes as those of step T.

    Positions, what leaving an anchor out does to them, and functionals are in double precision, as they are few.
    """
    k, n, r = len(expansion.indices), expansion.problem.config.data.items, len(expansion.names)
    shapes = {
        "gradient": (len(expansion.anchors), n, k),
        "norm": (len(expansion.anchors), n, 1),
        "weight": (expansion.steps + 1, r, k),
        "centre": (expansion.steps + 1, 1, k),
    }
    dtype = expansion.problem.config.model.dtype
    if expansion.rank:
        shapes["lowrank"] = (len(expansion.curvatures), expansion.rank, k)
        shapes["answer"] = (expansion.steps, r, k)
    specs = [TermSpec(name, shape, dtype) for name, shape in shapes.items()]
    if expansion.rank:
        specs.append(TermSpec("eigenvalue", (len(expansion.curvatures), 1, expansion.rank), "float64"))
    few = {"positions": (expansion.steps, expansion.fine, n), "left_out": (len(expansion.anchors), expansion.fine, n)}
    if expansion.functionals:
        few["functionals"] = (expansion.steps, expansion.functionals * sums_of(expansion), n)
    specs += [TermSpec(name, shape, "float64") for name, shape in few.items()]
    if expansion.of_all:
        specs.append(TermSpec("controlled_positions", few["positions"], "float64"))
    if expansion.controlled:
        specs.append(TermSpec("sampled_positions", (expansion.steps, expansion.fine * ROWS, n), dtype))
    return specs


def fold(expansion: Expansion, terms: TermStore, progress: Progress = silent) -> None:
    """Write what is missing: gradients, the centre and the sweep's weights on the sample, and the tables of positions."""
    kept, table = expansion.indices.cpu().numpy(), PositionTable(expansion, terms)
    makers: dict[str, Callable[[Block], np.ndarray]] = {
        "gradient": lambda b: expansion.anchored.read_array(expansion.anchored_key(b.step, b.first), "gradient")[
            :, kept
        ],
        "norm": lambda b: expansion.anchored.read_array(expansion.anchored_key(b.step, b.first), "norm"),
        "centre": lambda b: expansion.centre.read_array(b.step, "theta")[None, kept],
        "weight": lambda b: expansion.swept.read_array(b.step, "weight")[b.first : b.last, kept],
        "positions": lambda b: table.row(b.step).values[0, b.first : b.last],
        "controlled_positions": lambda b: table.row(b.step).values[-1, b.first : b.last],
        "sampled_positions": lambda b: table.sampled(b.step)[b.first : b.last],
        "left_out": lambda b: table.left_out(b.step)[b.first : b.last],
        "functionals": lambda b: table.row(b.step).functionals[b.first : b.last],
        "lowrank": lambda b: expansion.ritz.read_array(b.step, "lowrank")[b.first : b.last, kept],
        "answer": lambda b: expansion.swept.read_array(b.step, "answer")[b.first : b.last, kept],
        "eigenvalue": lambda b: expansion.ritz.read_array(b.step, "eigenvalue")[None],
    }
    parts = [has_names(terms, names) for names in (ANCHORED, FOLDED)]
    with progress("fold", sum(len(terms.missing(names)) for names in parts)) as tick:
        for names in parts:
            for block in terms.missing(names):
                for name in terms.missing_names(block, names):
                    terms.write(block, {name: np.ascontiguousarray(makers[name](block))})
                tick()


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


class Row(NamedTuple):
    """A step of the tables, float64. values: of positions [1, r, items]; where they are of all coordinates also held
    [2, r, items]. functionals: what items add to them [m * sums, items]."""

    values: np.ndarray
    functionals: np.ndarray


class PositionTable:
    """The tables of positions and of functionals, a step at a time, from scratch and the anchors' gradients."""

    def __init__(self, expansion: Expansion, terms: TermStore) -> None:
        self.expansion = expansion
        self.row = lru_cache(maxsize=1)(lambda step: self._values(step, range(len(expansion.anchors))))
        self.left_out, self.sampled = lru_cache(maxsize=1)(self._left_out), lru_cache(maxsize=1)(self._sampled)
        self.items = AnchoredItems(expansion)

        def reader(name: str) -> Callable[[int], Tensor]:
            return lru_cache(maxsize=3)(lambda a: torch.from_numpy(terms.read(name, a)).to(expansion.problem.device))

        self.kept = {name: Anchored(expansion.anchors, reader(name)) for name in ("gradient", "norm")}
        self.weights = lru_cache(maxsize=1)(lambda: all_weights(expansion))
        self.tamed = lru_cache(maxsize=1)(lambda: tamed_tables(expansion))

    def _interpolated(self, step: int, among: Sequence[int], first: int) -> tuple[Tensor, Tensor]:
        """Gradients [ITEM_BLOCK, D] of a block of items, and their norms, between the anchors that are `among` all of them."""
        low, high, share = anchors_around([self.expansion.anchors[a] for a in among], step)
        before = self.items.block(among[low], first)
        if not share:
            return before
        after = self.items.block(among[high], first)
        return (1.0 - share) * before[0] + share * after[0], (1.0 - share) * before[1] + share * after[1]

    def _left_out(self, index: int) -> np.ndarray:
        """What values [r, items] at an anchor become, less what they are, once it is left out; 0 at the ends."""
        anchors = self.expansion.anchors
        if index in (0, len(anchors) - 1):
            return np.zeros((self.expansion.fine, self.expansion.problem.config.data.items))
        rest = [a for a in range(len(anchors)) if a != index]
        without, of_all = (self._values(anchors[index], among) for among in (rest, range(len(anchors))))
        return without.values[-1] - of_all.values[-1]

    def _values(self, step: int, among: Sequence[int]) -> Row:
        """A step's row with gradients from the anchors `among` all: on all coordinates; without a control variate on the
        sample."""
        if not self.expansion.controlled:
            return self._of_sample(step, among)
        problem, states, fine = self.expansion.problem, self.expansion.around(step), self.expansion.fine
        items = problem.config.data.items
        total = torch.zeros(2, fine, items, dtype=torch.float64, device=problem.device)
        injection, bent = self._injection(step), []
        for first in range(0, items, ITEM_BLOCK):
            gradients, block = self._interpolated(step, among, first), slice(first, first + ITEM_BLOCK)
            bent.append(weighted_by(injection, gradients[0]))
            for here, found in chunked_values(problem.rule, problem.rate(step), states, *gradients):
                total[0, :, block] += found.sum(-1)
                total[1, :, block] += self.tamed().part(here)(found).sum(-1)
        return Row(total.cpu().numpy(), torch.cat(bent, dim=1).cpu().numpy())

    def _injection(self, step: int) -> Tensor:
        """Sensitivities of the functionals to a gradient injected at a step [m, D]; [0, D] where there are none."""
        expansion = self.expansion
        return expansion.injection(step) if expansion.functionals else expansion.state(step).theta[None][:0]

    def _kept_at(self, name: str, among: Sequence[int]) -> Callable[[int], Tensor]:
        """A term of the kept coordinates at the anchors `among` all of them."""
        read = self.kept[name].table
        return lambda a: read(among[a])

    def _of_sample(self, step: int, among: Sequence[int]) -> Row:
        """A step's row from the kept coordinates, weighted by the inverse of their probabilities."""
        problem, states = self.expansion.problem, self.expansion.around(step).part(self.expansion.indices)
        anchors, weight = [self.expansion.anchors[a] for a in among], 1.0 / self.expansion.probabilities
        gradient, norm = (Anchored(anchors, self._kept_at(name, among))(step) for name in ANCHORED)
        kinds, fine = 1 + self.expansion.whole, self.expansion.fine
        total = torch.zeros(kinds, fine, len(gradient), dtype=torch.float64, device=problem.device)
        rule = problem.rule.restrict(self.expansion.indices)
        for here, found in chunked_values(rule, problem.rate(step), states, gradient, norm.squeeze(-1)):
            total[0] += (found * weight[here]).sum(-1)
            if self.expansion.whole:
                total[1] += self.tamed().part(here)(found).sum(-1)
        injection = self._injection(step)[:, self.expansion.indices]
        if not self.expansion.whole:
            injection = sample_weighted(injection, self.weights())
        return Row(total.cpu().numpy(), weighted_by(injection, gradient).cpu().numpy())

    def _sampled(self, step: int) -> np.ndarray:
        """The weighted sums over every sample [r * samples * sums, items] of a step's values, as they are taken."""
        problem, indices, weights = self.expansion.problem, self.expansion.indices, self.weights()
        states, tamed = self.expansion.around(step).part(indices), self.tamed().part(indices)
        gradient, norm = self.kept["gradient"](step), self.kept["norm"](step).squeeze(-1)
        total = torch.zeros(
            self.expansion.fine, len(weights), len(gradient), dtype=torch.float64, device=problem.device
        )
        rule = problem.rule.restrict(indices)
        for here, found in chunked_values(rule, problem.rate(step), states, gradient, norm):
            total += weights[:, here] @ tamed.part(here)(found).mT
        return total.flatten(0, 1).to(problem.objective.dtype).cpu().numpy()
