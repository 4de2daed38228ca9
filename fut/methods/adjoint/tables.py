"""From whole-size scratch to the terms that stay: what the estimators read, on the sampled coordinates.

Beside the adjoint's terms, the table of positions: values [T, r, items] of putting an item at a step, for the r exact
read-outs. It takes the costate after the step (curvature of all that follows included), the rule's own next state, and item
gradients interpolated from the anchors. Where all coordinates are kept, or a sample of them has a control variate
(`control_variate.py`), it is of all of them, and is kept a second time with every coordinate's entries held within what
simulated orders had there (`estimators.control_variates.Bounded`); a control variate also takes it in weighted sums over the
sample. Without one it is of the sample, weighted by 1/p: unbiased. So is the table of the functionals (`quadratic.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Anchored, anchors_around
from estimators.control_variates import Bounded
from estimators.position_table import StepStates, chunked_values
from fut.methods.adjoint.anchors import ANCHORED, AnchoredItems, anchored_key
from fut.methods.adjoint.control_variate import all_weights
from fut.methods.adjoint.files import CENTRE, Expansion
from fut.methods.adjoint.quadratic import as_clipped, sample_weighted, weighted_by
from fut.methods.adjoint.sampling import bounded_tables
from fut.methods.curvature_batches import OUTLYING
from fut.methods.expansion.spec import ITEM_BLOCK
from storage import Block, TermStore

RITZ = ("lowrank", "eigenvalue")
"""What the replay's curvature is read from, where it has some."""
OF_ITEMS = ("positions", "controlled_positions", "sampled_positions", "left_out", "functionals")
FOLDED = ("centre", "weight", *OF_ITEMS, *RITZ, "answer")
"""Terms that are folded, and of them those of every item."""
Folding = tuple[Sequence[str], Block]
"""Names of terms, and a block of them."""


def missing_tables(expansion: Expansion) -> list[Folding]:
    """Blocks of terms that are missing, with the names of those that are folded together."""
    terms = expansion.open_terms()
    parts = [present(terms, names) for names in (ANCHORED, FOLDED)]
    return [(names, block) for names in parts for block in terms.missing(names)]


def fold(expansion: Expansion, units: Sequence[Folding]) -> Iterator[None]:
    """Write blocks: gradients, the trajectory and the sweep's weights on the sample, and the tables of positions."""
    terms = expansion.open_terms()
    indices, table = expansion.indices.cpu().numpy(), PositionTable(expansion, terms)
    swept = expansion.sweep.swept.read_array
    kept = slice(None) if expansion.spec.drawn_first else indices  # of what the sweep wrote

    def anchored(block: Block, name: str) -> np.ndarray:
        return expansion.anchored.read_array(anchored_key(expansion.spec, block.step, block.first), name)

    makers: dict[str, Callable[[Block], np.ndarray]] = {
        "gradient": lambda b: anchored(b, "gradient")[:, indices],
        "norm": lambda b: anchored(b, "norm"),
        "centre": lambda b: _centre(expansion, b.step)[None],
        "weight": lambda b: swept(b.step, "weight")[b.first : b.last, kept],
        "positions": lambda b: table.row(b.step).values[0, b.first : b.last],
        "controlled_positions": lambda b: table.row(b.step).values[-1, b.first : b.last],
        "sampled_positions": lambda b: table.sampled(b.step)[b.first : b.last],
        "left_out": lambda b: table.left_out(b.step)[b.first : b.last],
        "functionals": lambda b: table.row(b.step).functionals[b.first : b.last],
        "lowrank": lambda b: expansion.ritz.read_array(b.step, "lowrank")[b.first : b.last, indices],
        "answer": lambda b: swept(b.step, "answer")[b.first : b.last, kept],
        "eigenvalue": lambda b: expansion.ritz.read_array(b.step, "eigenvalue")[None],
    }
    for names, block in units:
        for name in terms.missing_names(block, names):
            terms.write(block, {name: np.ascontiguousarray(makers[name](block))})
        yield


def _centre(expansion: Expansion, step: int) -> np.ndarray:
    """Parameters [k] of the trajectory before a step, on the sampled coordinates."""
    if expansion.spec.drawn_first:
        return expansion.sweep.swept.read_array(step, f"{CENTRE}theta")
    found: np.ndarray = expansion.trajectory.parameters(step)[expansion.indices].cpu().numpy()
    return found


def sampled_around(expansion: Expansion, step: int) -> StepStates:
    """The trajectory before and after a step, and the exact read-outs' costate after it, on the sampled coordinates."""
    if not expansion.spec.drawn_first:
        return expansion.around(step).part(expansion.indices)
    before, after = (expansion.sweep.centre(t) for t in (step, step + 1))
    return StepStates(before, after, expansion.sweep.costate(step + 1))


def sampled_injection(expansion: Expansion, step: int) -> Tensor:
    """Sensitivities of the functionals to a gradient injected at a step [m, k], on the sampled coordinates."""
    found = expansion.sweep.injection(step)
    return found if expansion.spec.drawn_first else found[:, expansion.indices]


def present(terms: TermStore, names: Sequence[str]) -> list[str]:
    """Those of the names that a store has, by what it was configured for."""
    stored = {spec.name for spec in terms.specs}
    return [name for name in names if name in stored]


def anchor_error(expansion: Expansion, row: int = 0) -> float | None:
    """What leaving an anchor out would do to an order's estimate: standard deviation over random orders, in its unit.

    From the table of positions at every anchor but the first and last, interpolated without it: an order sums T such
    errors. With all anchors, whose spacing is half as wide, the error is some four times smaller. None below three anchors.
    """
    terms = expansion.terms()
    if len(expansion.spec.anchors) < 3 or terms.missing(["left_out"]):
        return None
    found = [terms.read_items("left_out", a, [row])[0] for a in range(1, len(expansion.spec.anchors) - 1)]
    return float(np.sqrt(expansion.spec.steps * np.mean([values.var() for values in found])))


def steep_items(expansion: Expansion) -> list[dict[str, float]]:
    """Items with a gradient more than `OUTLYING` times as long as the items' median at an anchor, the steepest first: the item,
    how many times as long, and the anchor's step where it is most."""
    terms, anchors = expansion.terms(), expansion.spec.anchors
    if terms.missing(["norm"]):
        return []
    norms = np.stack([terms.read("norm", a)[:, 0] for a in range(len(anchors))])
    usual = np.median(norms, axis=1, keepdims=True)
    times = np.divide(norms, usual, out=np.zeros_like(norms), where=usual > 0)
    found = [(float(times[:, i].max()), i, anchors[int(times[:, i].argmax())]) for i in range(norms.shape[1])]
    steep = sorted((one for one in found if one[0] > OUTLYING), reverse=True)
    return [{"item": item, "times": ratio, "step": step} for ratio, item, step in steep]


class Row(NamedTuple):
    """A step of the tables, float64. values: of positions [1, r, items]; where they are of all coordinates also held
    [2, r, items]. functionals: what items add to them [m * sums, items]."""

    values: np.ndarray
    functionals: np.ndarray


class PositionTable:
    """The tables of positions and of functionals, a step at a time, from scratch and the anchors' gradients."""

    def __init__(self, expansion: Expansion, terms: TermStore) -> None:
        self.expansion = expansion
        self.row = lru_cache(maxsize=1)(self._row)
        self.left_out, self.sampled = lru_cache(maxsize=1)(self._left_out), lru_cache(maxsize=1)(self._sampled)
        self.items = AnchoredItems(expansion)
        self.norms = lru_cache(maxsize=None)(self.items.norms)

        def reader(name: str) -> Callable[[int], Tensor]:
            return lru_cache(maxsize=3)(lambda a: torch.from_numpy(terms.read(name, a)).to(expansion.problem.device))

        self.kept = {name: Anchored(expansion.spec.anchors, reader(name)) for name in ("gradient", "norm")}
        self.weights = lru_cache(maxsize=1)(lambda: all_weights(expansion))
        self.bounded = lru_cache(maxsize=1)(lambda: bounded_tables(expansion))

    def _interpolated(self, step: int, among: Sequence[int], first: int) -> tuple[Tensor, Tensor]:
        """Gradients [ITEM_BLOCK, D] of a block of items, and their norms, between the anchors that are `among` all of them."""
        low, high, share = anchors_around([self.expansion.spec.anchors[a] for a in among], step)
        before = self.items.block(among[low], first)
        if not share:
            return before
        gradient, norm = self.items.block(among[high], first)
        return (1.0 - share) * before[0] + share * gradient, (1.0 - share) * before[1] + share * norm

    def _norms(self, step: int, among: Sequence[int]) -> Tensor:
        """Norms of all items' gradients [items], as `_interpolated` has them."""
        low, high, share = anchors_around([self.expansion.spec.anchors[a] for a in among], step)
        before = self.norms(among[low])
        return (1.0 - share) * before + share * self.norms(among[high]) if share else before

    def _left_out(self, index: int) -> np.ndarray:
        """What values [r, items] at an anchor become, less what they are, once it is left out; 0 at the ends."""
        anchors, spec = self.expansion.spec.anchors, self.expansion.spec
        rest = self.without(index)
        if not rest:
            return np.zeros((spec.fine, self.expansion.problem.config.data.items))
        if spec.drawn_first and spec.controlled:
            return self.expansion.sweep.swept.read_array(anchors[index], "left_out")
        change: np.ndarray = self._values(anchors[index], rest).values[-1] - self.row(anchors[index]).values[-1]
        return change

    def without(self, index: int) -> list[int]:
        """The anchors but one; none where that is the first or the last, which cannot be left out."""
        every = range(len(self.expansion.spec.anchors))
        return [a for a in every if a != index] if 0 < index < len(every) - 1 else []

    def _row(self, step: int) -> Row:
        """A step's row: made, or as the sweep wrote it."""
        spec = self.expansion.spec
        if not (spec.drawn_first and spec.controlled):
            return self._values(step, range(len(spec.anchors)))
        return Row(*(self.expansion.sweep.swept.read_array(step, name) for name in Row._fields))

    def _values(self, step: int, among: Sequence[int]) -> Row:
        """A step's row with gradients from the anchors `among` all: on all coordinates; without a control variate on the
        sample."""
        if not self.expansion.spec.controlled:
            return self._of_sample(step, among)
        return self.of_all(step, among, self.expansion.around(step), self._injection(step), self.bounded())

    def of_all(self, step: int, among: Sequence[int], states: StepStates, injection: Tensor, bounded: Bounded) -> Row:
        """A step's row on all coordinates. states: around it; injection: of the functionals [m, D]; bounded: how it is taken."""
        problem, fine = self.expansion.problem, self.expansion.spec.fine
        items = problem.config.data.items
        median = self._norms(step, among).median()
        total, bent = torch.zeros(2, fine, items, dtype=torch.float64, device=problem.device), []
        for first in range(0, items, ITEM_BLOCK):
            gradients, block = self._interpolated(step, among, first), slice(first, first + ITEM_BLOCK)
            bent.append(weighted_by(injection, as_clipped(*gradients, median, problem.rule.clip)))
            for here, found in chunked_values(problem.rule, problem.rate(step), states, *gradients):
                total[0, :, block] += found.sum(-1)
                total[1, :, block] += bounded.part(here)(found).sum(-1)
        return Row(total.cpu().numpy(), torch.cat(bent, dim=1).cpu().numpy())

    def _injection(self, step: int, sampled: bool = False) -> Tensor:
        """Sensitivities of the functionals to a gradient injected at a step [m, D], or on the sample; of none [0, D]."""
        expansion = self.expansion
        if not expansion.spec.functionals:
            start = expansion.problem.objective.start()
            return (start[expansion.indices] if sampled else start)[None][:0]
        return sampled_injection(expansion, step) if sampled else expansion.sweep.injection(step)

    def _of_sample(self, step: int, among: Sequence[int]) -> Row:
        """A step's row from the kept coordinates, weighted by the inverse of their probabilities."""
        problem, states = self.expansion.problem, sampled_around(self.expansion, step)
        spec, weight = self.expansion.spec, 1.0 / self.expansion.probabilities
        anchors = [spec.anchors[a] for a in among]

        def interpolated(name: str) -> Tensor:
            read = self.kept[name].table
            return Anchored(anchors, lambda a: read(among[a]))(step)

        gradient, norm = interpolated("gradient"), interpolated("norm")
        total = torch.zeros(1 + spec.whole, spec.fine, len(gradient), dtype=torch.float64, device=problem.device)
        rule = problem.rule.restrict(self.expansion.indices)
        for here, found in chunked_values(rule, problem.rate(step), states, gradient, norm.squeeze(-1)):
            total[0] += (found * weight[here]).sum(-1)
            if spec.whole:
                total[1] += self.bounded().part(here)(found).sum(-1)
        injection = self._injection(step, sampled=True)
        if not spec.whole:
            injection = sample_weighted(injection, self.weights())
        return Row(
            total.cpu().numpy(),
            weighted_by(injection, as_clipped(gradient, norm.squeeze(-1), norm.median(), rule.clip)).cpu().numpy(),
        )

    def _sampled_bounded(self, step: int) -> Bounded:
        """How a step's entries of the table are taken on the sample."""
        if not self.expansion.spec.drawn_first:
            return self.bounded().part(self.expansion.indices)
        bound = self.expansion.sweep.bound(step)
        return Bounded(torch.ones_like(bound), bound)

    def _sampled(self, step: int) -> np.ndarray:
        """The weighted sums over every sample [r * samples * sums, items] of a step's values, as they are taken."""
        problem, indices, weights = self.expansion.problem, self.expansion.indices, self.weights()
        states, bounded = sampled_around(self.expansion, step), self._sampled_bounded(step)
        gradient, norm = self.kept["gradient"](step), self.kept["norm"](step).squeeze(-1)
        fine = self.expansion.spec.fine
        total = torch.zeros(fine, len(weights), len(gradient), dtype=torch.float64, device=problem.device)
        rule = problem.rule.restrict(indices)
        for here, found in chunked_values(rule, problem.rate(step), states, gradient, norm):
            total += weights[:, here] @ bounded.part(here)(found).mT
        return total.flatten(0, 1).to(problem.objective.dtype).cpu().numpy()
