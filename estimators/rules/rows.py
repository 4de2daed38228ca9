"""Run by run: how rules that reduce over coordinates give a run in a stack the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from ..parameters import ParameterLayout


def by_row(function: Callable[..., Sequence[Tensor]], *stacks: Tensor, trailing: Sequence[int] = ()) -> list[Tensor]:
    """Apply a function of single runs to each run of some stacks, by itself.

    Args:
        function: of one tensor [k] from each stack, to tensors.
        stacks: [..., k]; leading axes that differ are broadcast.
        trailing: how many axes of each stack belong to a single run; 1 where nothing is said.

    Returns:
        The function's tensors, each stacked [..., k'].
    """
    own = [*trailing, *(1 for _ in stacks[len(trailing) :])]
    lead = torch.broadcast_shapes(*(s.shape[: s.ndim - n] for s, n in zip(stacks, own, strict=True)))
    ends = [s.shape[s.ndim - n :] for s, n in zip(stacks, own, strict=True)]
    flat = [s.expand(*lead, *end).reshape(prod(lead), *end) for s, end in zip(stacks, ends, strict=True)]
    # a fresh copy begins at the same alignment whatever the stack, and kernels round by alignment
    found = [function(*(row.clone() for row in rows)) for rows in zip(*flat, strict=True)]
    return [torch.stack(parts).reshape(*lead, *parts[0].shape) for parts in zip(*found, strict=True)]


def tensors(layout: ParameterLayout, row: Tensor) -> list[Tensor]:
    """The tensors of one run's vector [D], each a copy of its own, for the same bits wherever it stands in the vector."""
    return [part.clone() for part in layout.split(row)]


def cut(vector: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """A vector [k] cut into copies of given sizes."""
    return [part.clone() for part in vector.split(list(sizes))]


def joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Tensors as one vector, also where there are none."""
    return torch.cat([part.reshape(-1) for part in parts]) if parts else like.new_zeros(0)
