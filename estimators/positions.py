"""First-order values of positions: what putting item i at step s does to a read-out, one number a pair.

    M[s, i] = <costate after step s, R_s(z_s, g_i) - z_{s+1}>

over the whole lifted state of the centre, parameters and memory: nonlinear in the rule, linear in what follows. An order
costs one look-up a step, and the best order under M is a linear assignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .errors import OrderError
from .order import Order
from .replay import OrderBatch
from .rule import Rule
from .state import State


def item_values(
    rule: Rule,
    rate: float,
    before: State,
    after: State,
    costate: State,
    gradients: Tensor,
    norms: Tensor,
    weight: Tensor,
) -> Tensor:
    """One step's row of M for r read-outs, in double precision: [r, items], in the read-outs' unit.

    before, after: lifted states [k] of the centre before and after the step. costate: after the step, buffers [r, k].
    gradients: the items' [items, k]; norms: [items], over all coordinates, for clipping. weight: [k], 1/p of a coordinate.
    Item by item, so that equal items get equal bits.
    """
    before, after, costate = (_double(state) for state in (before, after, costate))
    values = []
    for gradient, norm in zip(gradients.double(), norms.double(), strict=True):
        moved = rule.step(before, gradient, rate, norm)[0]
        value = costate.theta @ (weight * (moved.theta - after.theta))
        for name, buffer in costate.memory.items():
            value = value + buffer @ (weight * (moved.memory[name] - after.memory[name]))
        values.append(value)
    return torch.stack(values, dim=-1)


def _double(state: State) -> State:
    return State(state.theta.double(), {k: b.double() for k, b in state.memory.items()}, state.clock)


def look_up(table: Tensor, batch: OrderBatch) -> Tensor:
    """What every step of n orders is worth under a table [T, items], the mean over a step's items: [n, T]."""
    steps = [batch.at(s).combine(table[s][:, None])[:, 0] for s in range(batch.steps)]
    return torch.stack(steps, dim=-1)


def best_assignment(table: np.ndarray) -> Order:
    """The order of least sum under a table [T, items], every item once; OrderError unless there are as many as steps."""
    steps, items = table.shape
    if steps != items:
        raise OrderError(
            f"best order: expected as many items as steps, each item once, got {items} items and {steps} steps; "
            "read the table of positions itself and assign its entries as the window needs it"
        )
    chosen: Sequence[int] = linear_sum_assignment(table)[1].tolist()
    return Order.of(chosen)
