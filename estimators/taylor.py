"""The paper's estimators, FUT and FUT++ (arXiv 2505.22042, section 3), on sketched update terms.

The paper's recursion, gamma_{t+1} = gamma_t - eta_t [Gamma(theta_t, B) + Gamma'(theta_t, B) (gamma_t - theta_t) + ...],
is carried here as the displacement delta_t = gamma_t - theta_t from the reference run: the same mathematics, and exactly
zero for the reference order. Update terms are stored as displacements u_{t,i} = -eta_t Gamma(theta_t, B_i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .replay import Picks
from .shapes import Float
from .state import State

Table = Callable[[int], Tensor]
Moments = Literal["reference", "replayed"]


@dataclass(frozen=True)
class PaperTransition:
    """One step of FUT or FUT++ in sketch space, for n orders at once.

    update: (step) -> u_{t,.} [items, k]. reference: what the reference run consumed at each step (n = 1).
    derivative: (step, what is consumed, delta [n, k]) -> first- or second-order terms of the step's update [n, k].
    carry: None for moments of the `reference` run, the literal reading: a swapped gradient meets the reference run's
        moments and leaves no trace in them. For `replayed` moments, (step, difference of momenta, swapped) -> (next
        difference, change of displacement), where `swapped` is what the swapped gradient alone does in its own step
        (`Rule.carry`): momentum follows the new order, with Adam's preconditioner taken from the reference run.
    """

    update: Table
    reference: Callable[[int], Picks]
    derivative: Callable[[int, Picks, Tensor], Tensor]
    carry: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def start(self, n: int, k: int, like: Tensor) -> State:
        """Zero displacement and zero difference of momenta for n orders."""
        zero = torch.zeros(n, k, dtype=like.dtype, device=like.device)
        return State(zero, {"momentum": zero.clone()}, {})

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        table = self.update(step)
        change = picks.combine(table) - self.reference(step).combine(table)
        change = change + self.derivative(step, picks, state.theta)
        if self.carry is None:
            return State(state.theta + change, state.memory, {})
        momentum, change = self.carry(step, state.memory["momentum"], change)
        return State(state.theta + change, {"momentum": momentum}, {})


@dataclass(frozen=True)
class DirectionalDerivative:
    """Taylor terms from stored Jacobian-vector products.

    The products P J_t u_{t,j} (and, for order 2, P D²u_t[u_{t,j}, u_{t,j}]) are known only along the items' own update
    directions, so the displacement is expanded in them by least squares in sketch space, delta ~ sum_j c_j u_{t,j};
    then J delta ~ sum_j c_j J u_{t,j} and ½ D²u[delta, delta] ~ ½ sum_j c_j² D²u[u_j, u_j], cross terms left out.
    update, jvp, second: (step) -> [items, k]; second None stops at first order.
    """

    update: Table
    jvp: Table
    second: Table | None = None

    def __call__(self, step: int, picks: Picks, delta: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        if not delta.any():
            return torch.zeros_like(delta)
        basis = self.update(step).double()
        weights: Tensor = delta.double() @ torch.linalg.pinv(basis, rtol=1e-6)
        result = weights @ self.jvp(step).double()
        if self.second is not None:
            result = result + 0.5 * weights.square() @ self.second(step).double()
        return result.to(delta.dtype)


@dataclass(frozen=True)
class SecantDerivative:
    """Taylor terms from differences along the reference run, as the paper takes them: element by element.

    Gamma' ~ (Gamma(theta_t, B) - Gamma(theta_{t-1}, B)) / (theta_t - theta_{t-1}), a diagonal, and for order 2 its own
    difference quotient. Where the reference moved less than `floor` times its root mean square the quotient is taken as
    zero. Element-wise quotients do not commute with a JL sketch; with one, the quotient is along sketch coordinates.
    update: (step) -> [items, k]. moved: (step) -> theta_{t+1} - theta_t [k]. rate: (step) -> eta_t.
    """

    update: Table
    moved: Callable[[int], Tensor]
    rate: Callable[[int], float]
    order: Literal[1, 2] = 1
    floor: float = 1e-3

    def __call__(self, step: int, picks: Picks, delta: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        if step == 0 or not delta.any():
            return torch.zeros_like(delta)
        slope = self._slope(step, picks)
        result = slope * delta
        if self.order == 2 and step > 1:
            bend = self._quotient(slope - self._slope(step - 1, picks), step)
            result = result + 0.5 * bend * delta.square()
        return self.rate(step) * result

    def _slope(self, step: int, picks: Picks) -> Tensor:
        now, before = (picks.combine(self.update(t)) / self.rate(t) for t in (step, step - 1))
        return self._quotient(now - before, step)

    def _quotient(self, change: Tensor, step: int) -> Tensor:
        moved = self.moved(step - 1)
        usable = moved.abs() > self.floor * moved.square().mean().sqrt()
        return torch.where(usable, change / torch.where(usable, moved, 1.0), 0.0)
