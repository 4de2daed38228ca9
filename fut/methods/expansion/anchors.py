"""Item gradients at a few checkpoints of the centre, block by block of items: on all coordinates as scratch, or on the sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from estimators.rules.clipping import global_norm
from fut.progress import Progress
from storage import TermStore

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


ITEM_BLOCK = 8
"""Items, or rows, of a block of a term, and of a file of item gradients."""
HELD = 1 << 30
"""Bytes of item gradients that are kept in memory for reading them again."""


def run_anchors(expansion: Expansion, progress: Progress) -> None:
    """Write the gradients [ITEM_BLOCK, D] and norms [ITEM_BLOCK, 1] of every block that is missing."""
    count = expansion.problem.config.data.items
    blocks = [(anchor, first) for anchor in range(len(expansion.anchors)) for first in range(0, count, ITEM_BLOCK)]
    missing = [block for block in blocks if not expansion.anchored.has(expansion.anchored_key(*block))]
    with progress("anchors", len(missing)) as tick:
        for anchor, first in missing:
            theta = expansion.state(expansion.anchors[anchor]).theta
            found = expansion.problem.item_gradients(theta, range(first, min(first + ITEM_BLOCK, count)))
            arrays = {"gradient": found.cpu().numpy(), "norm": global_norm(found)[:, None].cpu().numpy()}
            expansion.anchored.write(expansion.anchored_key(anchor, first), arrays, {})
            tick()


def run_sampled_anchors(expansion: Expansion, terms: TermStore, progress: Progress) -> None:
    """Write the gradients on the kept coordinates [ITEM_BLOCK, k] and norms of every block that the terms lack."""
    missing = terms.missing(["gradient", "norm"])
    with progress("anchors", len(missing)) as tick:
        for block in missing:
            theta = expansion.state(expansion.anchors[block.step]).theta
            found = expansion.problem.item_gradients(theta, range(block.first, block.last))
            values = {"gradient": found[:, expansion.indices], "norm": global_norm(found)[:, None]}
            wanted = terms.missing_names(block, ["gradient", "norm"])
            terms.write(block, {name: values[name].cpu().numpy() for name in wanted})
            tick()


class AnchoredItems:
    """What `run_anchors` wrote, read block by block; of the blocks read last as many as `HELD` allows stay in memory."""

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        size = ITEM_BLOCK * expansion.problem.objective.start().nbytes
        self.block = lru_cache(maxsize=max(2, HELD // size))(self._block)

    def _block(self, anchor: int, first: int) -> tuple[Tensor, Tensor]:
        """Gradients [ITEM_BLOCK, D] of the items from `first` on, and their norms."""
        store, key = self.expansion.anchored, self.expansion.anchored_key(anchor, first)
        gradient, norm = (torch.from_numpy(store.read_array(key, name)) for name in ("gradient", "norm"))
        return gradient.to(self.expansion.problem.device), norm.squeeze(-1).to(self.expansion.problem.device)

    def rows(self, anchor: int, items: Sequence[int]) -> Tensor:
        """Gradients of some items [len(items), D] at an anchor."""
        return torch.stack([self.block(anchor, i - i % ITEM_BLOCK)[0][i % ITEM_BLOCK] for i in items])
