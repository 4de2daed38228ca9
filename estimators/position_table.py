"""First-order values of positions: what putting item i at step s does to a read-out, one number a pair.

    M[s, i] = <costate after step s, R_s(z_s, g_i) - z_{s+1}>

over the whole lifted state of the centre, parameters and memory: nonlinear in the rule, linear in what follows. An order
costs one look-up a step, and the best order under M is a linear assignment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import OrderError
from .orders.order import Order
from .replay import OrderBatch
from .rules.base import Rule, next_state
from .shapes import Float
from .state import State

CACHED = 1 << 16
"""Numbers of one buffer that are worked on at once."""


class StepStates(NamedTuple):
    """Lifted states [k] of the centre before and after a step, and the costate after it, buffers [r, k]."""

    before: State
    after: State
    costate: State

    def part(self, coordinates: Tensor | slice) -> StepStates:
        """The same on some of the coordinates."""
        return StepStates(*(state.restrict(coordinates) for state in self))


def item_values(
    rule: Rule,
    rate: float,
    states: StepStates,
    gradients: Float[Tensor, "items k"],
    norms: Float[Tensor, " items"],
) -> Float[Tensor, "r items k"]:
    """What every coordinate adds to one step's row of M for r read-outs, in double precision: [r, items, k].

    gradients: the items' [items, k]; norms: [items], over all coordinates, for clipping. A row of M is the sum over all
    coordinates; over a sample of them, weighted by the inverse of their probabilities, it is unbiased.
    """
    before, after, costate = (state.map(Tensor.double) for state in states)
    moved = next_state(rule, before.rows(len(gradients)), gradients.double(), rate, norms.double())
    values = costate.theta[:, None] * (moved.theta - after.theta)
    for name, buffer in costate.memory.items():
        values += buffer[:, None] * (moved.memory[name] - after.memory[name])
    return values


def chunked_values(
    rule: Rule, rate: float, states: StepStates, gradients: Float[Tensor, "items k"], norms: Float[Tensor, " items"]
) -> Iterator[tuple[slice, Tensor]]:
    """`item_values` of as many coordinates at a time as stay in a core's cache, and which these are.

    rule: of the coordinates that are given, of which those that are updated together stay together.
    """
    for here in rule.blocks(gradients.shape[1], max(1, CACHED // len(gradients))):
        yield here, item_values(rule.restrict(here), rate, states.part(here), gradients[:, here], norms)


def look_up(
    table: Float[Tensor, "T items"], batch: OrderBatch, rows: Sequence[dict[int, int]] | None = None
) -> Float[Tensor, "n T"]:
    """What every step of n orders is worth under a table [T, items], the mean over a step's items: [n, T].

    rows: for every step, where in its row of the table its items stand; None if the table holds every item.
    """
    steps = [batch.at(s).combine(table[s][:, None], rows[s] if rows else None)[:, 0] for s in range(batch.steps)]
    return torch.stack(steps, dim=-1)


def summed(tables: Float[Tensor, "T rows items"], batch: OrderBatch) -> Float[Tensor, "n rows"]:
    """What n orders are worth under several tables [T, rows, items]: [n, rows], added up step by step, so that no order depends
    on its batch."""
    rows, total = tables.mT.contiguous(), torch.zeros(len(batch), tables.shape[1]).to(tables)
    for step in range(batch.steps):
        total += batch.at(step).combine(rows[step])
    return total


def added_up(columns: Float[Tensor, "*n C"]) -> Float[Tensor, "*n"]:
    """Sums over the last axis [..., C] -> [...], one column after the other, so that no row depends on those beside it."""
    total = torch.zeros_like(columns[..., 0])
    for column in columns.unbind(-1):
        total += column
    return total


def best_assignment(table: np.ndarray) -> Order:
    """The order of least sum under a table [T, items], every item once; OrderError unless there are as many as steps."""
    steps, items = table.shape
    if steps != items:
        raise OrderError(
            f"best order: expected as many items as steps, each item once, got {items} items and {steps} steps; "
            "read the table of positions itself and assign its entries as the window needs it"
        )
    from scipy.optimize import linear_sum_assignment

    return Order.of(linear_sum_assignment(table)[1].tolist())
