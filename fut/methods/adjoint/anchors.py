"""Item gradients at a few checkpoints, block by block of items: on all coordinates as scratch, or on the sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from estimators.rules.clipping import global_norm
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.expansion.spec import ITEM_BLOCK
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
        theta = expansion.trajectory.state(spec.anchors[anchor]).theta
        found = expansion.problem.item_gradients(theta, range(first, min(first + ITEM_BLOCK, count)))
        arrays = {"gradient": found.cpu().numpy(), "norm": global_norm(found)[:, None].cpu().numpy()}
        expansion.anchored.write(anchored_key(spec, anchor, first), arrays, {})
        yield


def run_sampled_anchors(expansion: Expansion, blocks: Sequence[Block]) -> Iterator[None]:
    """Write the gradients on the kept coordinates [ITEM_BLOCK, k] and norms of blocks of terms."""
    terms = expansion.open_terms()
    for block in blocks:
        theta = expansion.trajectory.state(expansion.spec.anchors[block.step]).theta
        found = expansion.problem.item_gradients(theta, range(block.first, block.last))
        values = {"gradient": found[:, expansion.indices], "norm": global_norm(found)[:, None]}
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
        gradient, norm = (torch.from_numpy(store.read_array(key, name)) for name in ("gradient", "norm"))
        return gradient.to(self.expansion.problem.device), norm.squeeze(-1).to(self.expansion.problem.device)

    def rows(self, anchor: int, items: Sequence[int]) -> Tensor:
        """Gradients of some items [len(items), D] at an anchor."""
        return torch.stack([self.block(anchor, i - i % ITEM_BLOCK)[0][i % ITEM_BLOCK] for i in items])
