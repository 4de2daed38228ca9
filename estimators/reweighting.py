"""Reweighting in place: what a read-out does when items count more, less or not at all in the steps they stand in.

Every item stays in its step of the reference order, so the expansion is about the reference run itself: the items' own
gradients at its own checkpoints, and one backward sweep along it with each step's own Hessian. With a_{t,j} = <lambda_t,
g_j(theta_t)>, lambda_t the sensitivity of the read-out to a gradient injected at step t, the first-order effect of new
shares s_j of step t is sum_j (s_j - 1/n) a_{t,j}, and the derivative by a weight at w = 1 is

    d phi / d w_j = (a_{t,j} - mean_j a_{t,j}) / n,

a metagradient (Ilyas & Engstrom 2025, MAGIC, arXiv 2504.16430). Replaying the true rule adds what is nonlinear in the
step's gradient; curvature enters to first order through the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import OrderError
from .orders.order import Order
from .replay import GradientsAndNorms, Picks, require_finite
from .rules.base import Rule, next_state
from .shapes import Float
from .state import State

Rows = Sequence[dict[int, int]]
"""For every step, the row of each of its items."""


def own_rows(reference: Order, twins: Sequence[int]) -> Rows:
    """Rows of the reference order's items, step by step; equal items share the first one's row and go by its number.

    twins: for every item, the item that stands for its content.
    """
    rows: list[dict[int, int]] = []
    for step in reference.steps:
        of_step: dict[int, int] = {}
        for row, item in enumerate(step):
            of_step.setdefault(twins[item], row)
        rows.append(of_step)
    return rows


def require_in_place(order: Order, rows: Rows) -> None:
    """OrderError unless the order, in its canonical form, trains every step on some of the step's own items."""
    if len(order) != len(rows):
        raise OrderError(
            f"reweighting: expected orders of {len(rows)} steps, got {len(order)}; leave items out by weight "
            "(`without:I,J`), or leave a step empty ([])"
        )
    for t, (step, of_step) in enumerate(zip(order.steps, rows, strict=True)):
        moved = next((item for item in step if item not in of_step), None)
        if moved is not None:
            raise OrderError(
                f"reweighting: expected every item in its step of the reference order, got item {moved} at step {t}; "
                "use --estimator adjoint for orders that move items"
            )


def first_order_values(injection: Float[Tensor, "r D"], gradients: Float[Tensor, "n D"]) -> Float[Tensor, "r n"]:
    """a_j = <lambda, g_j> for r read-outs: [r, D], [n, D] -> [r, n], in double precision, item by item."""
    sensitivity = injection.double()
    return torch.stack([sensitivity @ row.double() for row in gradients], dim=-1)


def attributions(values: Float[Tensor, "*r n"]) -> Float[Tensor, "*r n"]:
    """d phi / d w_j at w = 1 from values a [..., n]: (a_j - mean a) / n; zero for a step's only item."""
    return (values - values.mean(-1, keepdim=True)) / values.shape[-1]


def response_squares(
    injection: Float[Tensor, "r D"], gradients: Float[Tensor, "n D"], mean: Float[Tensor, " D"] | None = None
) -> Float[Tensor, "r D"]:
    """sum_j (lambda_c (g_j - mean g)_c)² of a step, by coordinate: [r, D], [n, D] -> [r, D].

    Up to a factor, the variance of what a coordinate contributes when items are left out at random. A step's only item
    leaves nothing: its own gradient counts. mean: of all the step's gradients, where these are some of them.
    """
    centre = gradients.mean(0) if len(gradients) > 1 else torch.zeros_like(gradients[0])
    centre = centre if mean is None else mean
    return injection.square() * (gradients - centre).square().sum(0)


@dataclass(frozen=True)
class OwnGradients:
    """Gradients of the step's own items at the reference run's checkpoints, on all or some coordinates.

    table: (step) -> [n items, k]. gram: (step) -> [n items, n items], inner products over all coordinates, from which the
    global norm of any weighting is known; None where nothing needs it.
    """

    rows: Rows
    table: Callable[[int], Tensor]
    gram: Callable[[int], Tensor] | None = None

    def __call__(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> GradientsAndNorms:
        gradient = picks.combine(self.table(step), self.rows[step])
        return gradient, None if self.gram is None else self._norms(self.gram(step).double(), step, picks).to(gradient)

    def _norms(self, gram: Tensor, step: int, picks: Picks) -> Float[Tensor, " n"]:
        """|sum_j s_j g_j| for every run [n]; run by run, so that it does not depend on the batch."""
        norms = []
        eye = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        for n in range(len(picks.items)):
            shares = picks.row(n).combine(eye, self.rows[step])[0]
            norms.append((shares @ gram @ shares).clamp(min=0.0).sqrt())
        return torch.stack(norms)


@dataclass(frozen=True)
class InPlaceTransition:
    """Replay that gathers, by coordinate, what the dual-weighted read-out adds to its own first order: [n, k].

    Gathered is sum_t (w_t delta_t - lambda_t G_t), G_t the step's gradient: together with <slope, delta_T> at the end, and
    less the same of the reference order, it is the nonlinear remainder, to which the linear part is added from values over
    all coordinates. A sample of coordinates then errs in the remainder alone.
    centre: (step) -> theta_t [k]. weights, injections: (step) -> w_t and lambda_t [k].
    """

    rule: Rule
    rate: Callable[[int], float]
    gradients: OwnGradients
    centre: Callable[[int], Tensor]
    weights: Callable[[int], Tensor]
    injections: Callable[[int], Tensor]

    def start(self, state: State) -> State:
        return State(state.theta, state.memory | {"gathered": torch.zeros_like(state.theta)}, state.clock)

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        gradient, norm = self.gradients(step, picks, state.theta)
        require_finite(step, gradient)
        gathered = state.memory["gathered"] + (state.theta - self.centre(step)) * self.weights(step)
        gathered = gathered - gradient * self.injections(step)
        memory = {k: b for k, b in state.memory.items() if k != "gathered"}
        after = next_state(self.rule, State(state.theta, memory, state.clock), gradient, self.rate(step), norm)
        return State(after.theta, after.memory | {"gathered": gathered}, after.clock)

    def remainder(self, end: State, steps: int, slope: Float[Tensor, " k"]) -> Float[Tensor, "n k"]:
        """What every coordinate contributes beyond first order, up to the reference order's own: [n, k]; slope: [k]."""
        return end.memory["gathered"] + (end.theta - self.centre(steps)) * slope
