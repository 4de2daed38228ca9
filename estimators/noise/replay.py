"""The first-order replay coefficient: a rule replayed on frozen gradients, exact for every rule as the learning rate goes to 0.

In a window of T steps the parameters do not move as the rate goes to 0; the memory does. So

    theta_T(pi) = theta_0 + rate R1(pi) + O(rate²),

and R1 is what the rule makes of the gradients at theta_0 in the order pi. What other parts of the rule do, the second moment of
Adam or the sign of Lion, is in it. The name is from "Optimizer Memory Makes Shuffle Order a First-Order Source of Fine-Tuning
Noise", known here by a summary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from ..errors import RuleError
from ..orders.order import Order
from ..replay import CachedGradients, OrderBatch, RuleTransition, replay
from ..rules.base import Rule
from ..shapes import Float
from ..state import State

TOGETHER = 1 << 24
"""Numbers of one buffer of the runs that are replayed at once."""


def replayed(
    rule: Rule, state: State, gradients: Float[Tensor, "items D"], rate: Callable[[int], float], orders: Sequence[Order]
) -> Iterator[Float[Tensor, "n D"]]:
    """theta_T - theta_0 [n, D] of orders, some at a time, replayed on frozen gradients.

    Args:
        rule: any that needs mean gradients alone.
        state: the lifted state [D] before the window.
        gradients: of every item that the orders name, by its number there.
        rate: learning rate of a step of the window.
        orders: of one length.

    Raises:
        RuleError: for a rule that needs the gradients of a step's items.
    """
    if rule.needs(state.clock):
        raise RuleError(
            f"the rule `{rule.name}`: expected a rule of the mean gradient, got one that needs "
            f"{', '.join(sorted(rule.signals))}; measure its order noise by retraining"
        )
    transition = RuleTransition(rule, rate, CachedGradients(lambda step: gradients))
    together = max(1, TOGETHER // max(1, state.theta.shape[-1]))
    for first in range(0, len(orders), together):
        some = orders[first : first + together]
        end = replay(transition, state.rows(len(some)), OrderBatch.pack(some, gradients.device))
        yield end.theta - state.theta
