"""A step block by block, in blocks that stay in the processor's cache: of rules that update every coordinate by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..state import State
from .memory import lent

BLOCK, NARROWEST = 1 << 17, 1 << 10
"""Numbers of a block for every thread, and its least width in a stack. Smaller ones cost calls, larger ones leave the cache."""
LEAST = 4
"""Blocks below which a step is taken as a whole."""
R = TypeVar("R")
"""A rule."""


class Form(NamedTuple):
    """How a step is taken. displaced: with the displacement beside the next state. owned: the state may be overwritten."""

    displaced: bool = False
    owned: bool = False


def width_of(theta: Tensor) -> int:
    """How many coordinates a block of a stack [..., D] has; 0 where the stack is small, or on an accelerator, whose calls cost
    more than its memory."""
    rows = max(theta.numel() // max(theta.shape[-1], 1), 1)
    width = max(BLOCK * torch.get_num_threads() // rows, NARROWEST)
    return width if theta.device.type == "cpu" and theta.shape[-1] >= LEAST * width else 0


def in_blocks(
    pieces: Sequence[tuple[slice, R]],
    size: int,
    step: Callable[[R, slice, State | None], tuple[State, tuple[Tensor, ...]]],
) -> tuple[State, tuple[Tensor, ...]]:
    """The step of a whole vector, put together from the steps of its blocks.

    Args:
        pieces: every block and the rule restricted to it, ascending.
        size: D.
        step: (rule, block, into) -> the state after the step and further vectors, of a block. It may write the state into the
            tensors of `into`, and then gives these; None leaves it no choice.

    Returns:
        State and vectors [..., D], with the bits that the step of the whole gives: operations on single numbers round alike
        wherever these stand.
    """
    whole: list[Tensor] = []
    names: list[str] = []
    clock: dict[str, float] = {}
    for block, rule in pieces:
        places = [vector[..., block] for vector in whole]
        into = State(places[0], dict(zip(names, places[1:], strict=False)), {}) if places else None
        state, more = step(rule, block, into)
        if not whole:
            names = list(state.memory)
            whole = [_empty(part, size) for part in (state.theta, *state.memory.values(), *more)]
            places = [vector[..., block] for vector in whole]
        for counter, count in state.clock.items():  # a block knows those of its own groups; `step` is the largest
            clock[counter] = max(clock.get(counter, count), count)
        for place, part in zip(places, (state.theta, *(state.memory[name] for name in names), *more), strict=True):
            if part is not place:
                place.copy_(part)
    theta, memory, rest = whole[0], whole[1 : 1 + len(names)], whole[1 + len(names) :]
    return State(theta, dict(zip(names, memory, strict=True)), clock), tuple(rest)


def _empty(like: Tensor, size: int) -> Tensor:
    """A vector [..., size] for parts such as `like` [..., k]."""
    shape = (*like.shape[:-1], size)
    return lent(math.prod(shape) * like.element_size()).view(like.dtype).view(shape)
