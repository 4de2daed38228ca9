"""A step block by block, in blocks that stay in the processor's cache: of rules that update every coordinate by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..state import State

BLOCK, NARROWEST = 1 << 15, 1 << 10
"""Numbers of a block for every thread, and its least width in a stack. Smaller ones cost calls, larger ones leave the cache."""
LEAST = 8
"""Blocks below which a step is taken as a whole."""
R = TypeVar("R")
"""A rule."""


def width_of(theta: Tensor) -> int:
    """How many coordinates a block of a stack [..., D] has; 0 where the stack is small, or on an accelerator, whose calls cost
    more than its memory."""
    rows = max(theta.numel() // max(theta.shape[-1], 1), 1)
    width = max(BLOCK * torch.get_num_threads() // rows, NARROWEST)
    return width if theta.device.type == "cpu" and theta.shape[-1] >= LEAST * width else 0


def in_blocks(
    pieces: Sequence[tuple[slice, R]], size: int, step: Callable[[R, slice], tuple[State, Tensor]]
) -> tuple[State, Tensor]:
    """The step of a whole vector, put together from the steps of its blocks.

    Args:
        pieces: every block and the rule restricted to it, ascending.
        size: D.
        step: (rule, block) -> the state after the step and the displacement, of a block.

    Returns:
        State and displacement [..., D], with the bits that the step of the whole gives: operations on single numbers round alike
        wherever these stand.
    """
    whole: list[Tensor] = []
    names: list[str] = []
    clock: dict[str, float] = {}
    for block, rule in pieces:
        state, moved = step(rule, block)
        if not whole:
            names = list(state.memory)
            parts = (state.theta, moved, *state.memory.values())
            whole = [part.new_empty(*part.shape[:-1], size) for part in parts]
        for counter, count in state.clock.items():  # a block knows those of its own groups; `step` is the largest
            clock[counter] = max(clock.get(counter, count), count)
        for place, part in zip(whole, (state.theta, moved, *(state.memory[name] for name in names)), strict=True):
            place[..., block] = part
    theta, delta, *memory = whole
    return State(theta, dict(zip(names, memory, strict=True)), clock), delta
