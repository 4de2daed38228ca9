"""Item gradients at a few checkpoints, block by block of items: on all coordinates as scratch, or on the sample. And how many
checkpoints: by what interpolating gradients between them errs by, on a few items, before the others are taken.

For each number of anchors in turn, the gradients of a few items half-way between neighbouring anchors are compared with those
interpolated: anchors that are left out of twice as many. What counts is what the first read-out makes of the difference, in the
table of positions, beside what it makes of the items' own differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import anchors_around
from estimators.position_table import StepStates, chunked_values
from estimators.rules.clipping import global_norm
from estimators.state import State
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import COUNTS, AdjointSpec
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.training.problem import item_gradient_chunks
from storage import Block

ANCHORED = ("gradient", "norm")
"""Terms of the anchors."""
HELD = 1 << 30
"""Bytes of item gradients that are kept in memory for reading them again."""


def anchored_key(spec: AdjointSpec, anchor: int, first: int) -> int:
    """The number of the block of items that begins with item `first`, at an anchor, in the store of whole gradients."""
    return anchor * -(-spec.problem.config.data.items // ITEM_BLOCK) + first // ITEM_BLOCK


def missing_anchors(expansion: Expansion) -> list[tuple[int, int]]:
    """Blocks of items, by anchor and first item, whose gradients on all coordinates are missing."""
    spec, count = expansion.spec, expansion.problem.config.data.items
    blocks = [(anchor, first) for anchor in range(len(spec.anchors)) for first in range(0, count, ITEM_BLOCK)]
    return [block for block in blocks if not expansion.anchored.has(anchored_key(spec, *block))]


def run_anchors(expansion: Expansion, blocks: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Write the gradients [ITEM_BLOCK, D] and norms [ITEM_BLOCK, 1] of blocks of items."""
    spec, count = expansion.spec, expansion.problem.config.data.items
    for anchor, first in blocks:
        theta, problem = (
            expansion.trajectory.state(spec.anchors[anchor]).theta,
            expansion.problem.at(spec.anchors[anchor]),
        )
        found = problem.item_gradients(theta, range(first, min(first + ITEM_BLOCK, count)))
        norm = global_norm(found, expansion.problem.objective.layout.slices)[:, None]
        expansion.anchored.put(anchored_key(spec, anchor, first), {"gradient": found, "norm": norm}, replace=False)
        yield


def run_sampled_anchors(expansion: Expansion, blocks: Sequence[Block]) -> Iterator[None]:
    """Write the gradients on the kept coordinates [ITEM_BLOCK, k] and norms of blocks of terms: computed, or lent."""
    terms = expansion.open_terms()
    for block in blocks:
        if expansion.lender is not None:
            wanted, items = terms.missing_names(block, ANCHORED), range(block.first, block.last)
            terms.write(block, {name: expansion.lender.read_items(name, block.step, items) for name in wanted})
            yield
            continue
        anchor = expansion.spec.anchors[block.step]
        theta = expansion.trajectory.state(anchor).theta
        chunks = item_gradient_chunks(expansion.problem.at(anchor), theta, range(block.first, block.last))
        parts = [
            (found[:, expansion.indices], global_norm(found, expansion.problem.objective.layout.slices)[:, None])
            for found in chunks
        ]
        values = {name: torch.cat(part) for name, part in zip(ANCHORED, zip(*parts, strict=True), strict=True)}
        wanted = terms.missing_names(block, ANCHORED)
        terms.write(block, {name: values[name].cpu().numpy() for name in wanted})
        yield


class AnchoredItems:
    """What `run_anchors` wrote, read block by block; of the blocks read last as many as `HELD` allows stay in memory."""

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        size = ITEM_BLOCK * expansion.problem.objective.start().nbytes
        self.block = lru_cache(maxsize=max(2, HELD // size))(self._block)

    def _block(self, anchor: int, first: int) -> tuple[Tensor, Tensor]:
        """Gradients [ITEM_BLOCK, D] of the items from `first` on, and their norms."""
        store, key = self.expansion.anchored, anchored_key(self.expansion.spec, anchor, first)
        gradient, norm = (store.tensor(key, name, self.expansion.problem.device) for name in ("gradient", "norm"))
        return gradient, norm.squeeze(-1)

    def norms(self, anchor: int) -> Tensor:
        """Norms of all items' gradients [items] at an anchor."""
        store, spec = self.expansion.anchored, self.expansion.spec
        keys = [anchored_key(spec, anchor, i) for i in range(0, spec.problem.config.data.items, ITEM_BLOCK)]
        return torch.cat([store.tensor(key, "norm", self.expansion.problem.device) for key in keys]).squeeze(-1)

    def rows(self, anchor: int, items: Sequence[int]) -> Tensor:
        """Gradients of some items [len(items), D] at an anchor."""
        return torch.stack([self.block(anchor, i - i % ITEM_BLOCK)[0][i % ITEM_BLOCK] for i in items])


PILOTS = 8
"""Items whose gradients are compared."""
SEEDS = 1 << 61
"""Added to the expansion's seed for drawing them."""


def missing_choice(expansion: Expansion) -> Sequence[int]:
    """The pilots that choosing may come to; none where anchors are configured or chosen."""
    if expansion.settled or expansion.spec.config.num_anchors or expansion.chosen.has(0):
        return ()
    return range(max(1, most_pilots(expansion.spec)))


def run_choice(expansion: Expansion, pilots: Sequence[int]) -> Iterator[None]:
    """Write which steps are the anchors, and what was found of each number that was tried."""
    tried: dict[int, float] = {}
    spec = expansion.spec
    for count in COUNTS[:-1]:
        anchors, middles = spec.spread(count), between(spec, count)
        yield from _run_pilots(expansion, [*anchors, *middles])
        tried[count] = interpolation_error(expansion, anchors, middles) if middles else 0.0
        if tried[count] <= spec.config.anchor_error:
            break
    count = count if tried[count] <= spec.config.anchor_error else COUNTS[-1]  # an error that is no number is none
    arrays = {
        "anchors": np.array(spec.spread(count)),
        "tried": np.array(list(tried)),
        "error": np.array(list(tried.values())),
    }
    expansion.chosen.write(0, arrays, {"pilots": len(expansion.pilots.steps())}, replace=True)


def between(spec: AdjointSpec, count: int) -> list[int]:
    """The steps half-way between so many anchors and their neighbours; none where they leave no step between them."""
    return sorted(set(spec.spread(2 * count - 1)) - set(spec.spread(count)))


def most_pilots(spec: AdjointSpec) -> int:
    """Steps at which a few items' gradients are taken, at most; none where the anchors' number is configured."""
    if spec.config.num_anchors:
        return 0
    return len(set().union(*({*spec.spread(c), *between(spec, c)} for c in COUNTS[:-1])))


def pilot_gradients(spec: AdjointSpec) -> int:
    """Gradients of items that choosing took, or can take at most."""
    if spec.config.num_anchors:
        return 0
    choice = spec.choice
    return len(pilot_items(spec)) * (most_pilots(spec) if choice is None else choice.pilots)


def pilot_items(spec: AdjointSpec) -> list[int]:
    """The items that are compared, ascending."""
    draw = torch.Generator().manual_seed(spec.config.seed + SEEDS)
    found: list[int] = torch.randperm(spec.problem.config.data.items, generator=draw)[:PILOTS].tolist()
    return sorted(found)


def _run_pilots(expansion: Expansion, steps: Sequence[int]) -> Iterator[None]:
    for step in (step for step in sorted(steps) if not expansion.pilots.has(step)):
        theta = expansion.trajectory.state(step).theta
        found = expansion.problem.at(step).item_gradients(theta, pilot_items(expansion.spec))
        arrays = {
            "gradient": found.cpu().numpy(),
            "norm": global_norm(found, expansion.problem.objective.layout.slices).cpu().numpy(),
        }
        expansion.pilots.write(step, arrays, {})
        yield


def interpolation_error(expansion: Expansion, anchors: Sequence[int], middles: Sequence[int]) -> float:
    """Root mean square, over items and the steps between anchors, of what interpolation changes in the first read-out's table of
    positions, in that of the table's own differences between items. What all items have in common no order feels."""
    wrong = spread = 0.0
    ends = dict(pairwise(anchors))
    for step in middles:
        low, high, share = anchors_around(anchors, step)
        before, after, true = (_pilot(expansion, s) for s in (anchors[low], anchors[high], step))
        guess = tuple((1.0 - share) * a + share * b for a, b in zip(before, after, strict=True))
        values, guessed = (_values(expansion, step, *found) for found in (true, guess))
        width = ends[anchors[low]] - anchors[low]
        wrong += width * (guessed - values).var(correction=0).item()
        spread += width * values.var(correction=0).item()
    return (wrong / spread) ** 0.5 if spread else 0.0


def _pilot(expansion: Expansion, step: int) -> tuple[Tensor, Tensor]:
    read, device = expansion.pilots.read_array, expansion.problem.device
    gradient, norm = (torch.from_numpy(read(step, name)).to(device) for name in ("gradient", "norm"))
    return gradient, norm


def _values(expansion: Expansion, step: int, gradients: Tensor, norms: Tensor) -> Tensor:
    """Of the first read-out, what these gradients are worth at a step: [items], float64."""
    problem, (before, after, costate) = expansion.problem, expansion.around(step)
    states = StepStates(before, after, State(costate.theta[:1], {k: b[:1] for k, b in costate.memory.items()}, {}))
    found = chunked_values(problem.rule, problem.rate(step), states, gradients, norms)
    return torch.stack([values[0].sum(-1) for _, values in found]).sum(0)
