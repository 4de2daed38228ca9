"""Replay about the centre with curvature: low rank at a few anchors, and what that leaves out put back a few times.

    y_{t+1} = R_t(y_t, g_i + s_i (K_t delta_t + e_t)),   delta_t = gamma_t - theta_t,   K_t = L diag(values) L^T,
    e_s = grad L_B(gamma_s) - grad L_B(theta_s) - K_s delta_s at the refresh steps s, held until the next one,

g_i interpolated between anchors of the centre theta_t, K_t of the nearest curvature anchor, B a batch drawn from all items.
K and e are of the mean over items. s_i hands them to items element by element: 0 where item i has no gradient at all (the
embedding of a token that it lacks), else one over the share of items that have one; so the mean stays, and a rule like Adam
does not blow up what no item asked for. Where all items have gradients s_i = 1.
With a refresh at every step K cancels, and the mean gradient's true difference remains; without any, low rank alone.

K approximates the mean Hessian in the metric in which the rule feels it: the leading Ritz pairs Q of P^1/2 H P^1/2, with P
how far the rule moves a coordinate per unit of gradient, and L = P^-1/2 Q. No Euclidean basis of that size does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .adjoint import Anchored, AnchoredGradients, StreamedAnchors, anchors_around
from .errors import DivergenceError
from .lanczos import Product, RitzPairs, lanczos, seeded_draw
from .replay import GradientsAndNorms, Picks
from .rules.base import Rule, next_state
from .shapes import Float
from .state import State

Rows = Anchored | StreamedAnchors
QUANTILE_OF = 1 << 20
"""Coordinates, evenly spaced, that the clamp's quantile is taken over."""


def curvature_anchors(steps: int, count: int) -> list[int]:
    """The middles of `count` equal parts of the window: round((i + 1/2) T/n), each once."""
    return sorted({min(steps - 1, round((i + 0.5) * steps / count)) for i in range(count)})


def refresh_steps(steps: int, every: int) -> list[int]:
    """Every `every` steps, the first at every // 2; none for 0."""
    return list(range(every // 2, steps, every)) if every else []


def sensitivity(rule: Rule, state: State, clamp: float = 1.0) -> Float[Tensor, " D"]:
    """P [D] >= 0, up to a factor: how far the rule moves each coordinate per unit of gradient there, at a state [D].

    The tangent at a zero gradient along ones, for AdamW about its preconditioner. Clamped above at its quantile `clamp`:
    coordinates that are hardly ever touched would dominate the metric, and endpoints blow up along them. The rate is taken
    as 1, so that a schedule's zero changes nothing.
    """
    still = state.map(torch.zeros_like)
    moved = rule.tangent(state, still.theta, 1.0, still, torch.ones_like(still.theta)).theta.abs()
    if clamp >= 1.0:
        return moved
    sampled = moved[:: -(-len(moved) // QUANTILE_OF)]  # torch.quantile refuses more than 16 million numbers
    place = min(len(sampled), max(1, round(clamp * len(sampled))))
    return moved.clamp(max=sampled.sort().values[place - 1])  # of `kthvalue` CUDA has no deterministic kernel


def low_rank(product: Product, weight: Float[Tensor, " D"], rank: int, seed: int) -> RitzPairs:
    """H ~ L diag(values) L^T: values [r], float64, and the rows of L^T [r, D], from Lanczos on P^1/2 H P^1/2.

    product: u [D] -> H u [D]. weight: P [D] >= 0; where it is 0 the rule moves nothing and L is 0.
    """
    root = (weight / weight.max().clamp(min=torch.finfo(weight.dtype).tiny)).sqrt()
    made, live = seeded_draw(len(root), seed), root > 0
    pairs = lanczos(lambda u: root * product(root * u), lambda number: made(number).to(root) * live, rank)
    return RitzPairs(pairs.values, torch.where(live, pairs.vectors / torch.where(live, root, 1.0), 0.0))


def scarcity(parts: Iterable[Tensor]) -> Float[Tensor, " D"]:
    """One over the share of items that have a gradient other than 0, for every coordinate [D]; 1 where none has.

    parts: the items' gradients at an anchor, some rows [n, D] at a time.
    """
    items, touched = 0, torch.zeros(1)
    for rows in parts:
        items, touched = items + len(rows), (rows != 0).to(rows.dtype).sum(0) + touched.to(rows)
    return 1.0 / torch.where(touched > 0, touched / items, 1.0)


@dataclass(frozen=True)
class Curvature:
    """K_t of the nearest anchor. anchors: steps, ascending. pairs: (index of the anchor) -> values [r] and rows [r, D].

    On a sample of k coordinates rows are [r, k] and weight [k] is the inverse of their probabilities: L^T delta is estimated
    from them, and K_t delta is of them.
    """

    anchors: Sequence[int]
    pairs: Callable[[int], RitzPairs]
    weight: Float[Tensor, " k"] | float = 1.0

    def __call__(self, step: int, delta: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """K_t delta [n, D] for delta [n, D]; row by row, so that a row has the same bits alone and in a stack."""
        nearest = min(range(len(self.anchors)), key=lambda i: abs(self.anchors[i] - step))
        values, rows = self.pairs(nearest)
        scale = values.to(delta)
        return torch.stack([(scale * (rows @ (row * self.weight))) @ rows for row in delta])


def touching(gradients: Rows, step: int, picks: Picks, scarcity: Callable[[int], Tensor]) -> Float[Tensor, "n k"]:
    """What share of mean curvature's response falls to what every run consumes [n, k]: its items' presence over the mean's."""
    anchor, items = anchors_around(gradients.anchors, step)[0], picks.unique()
    scale = scarcity(anchor)
    rows = (gradients.rows(anchor, items) != 0).to(scale) if items else torch.zeros_like(scale)[None]
    return picks.combine(rows, {item: row for row, item in enumerate(items)}) * scale


@dataclass(frozen=True)
class BentGradients:
    """Gradients of a replay about the centre, of all coordinates or a sample: g_i + s_i K_t delta_t, with no gradient anew.

    inner: g_i from the anchors. centre: (step) -> theta_t [k]. scarcity: (index of the anchor) -> `scarcity` there [k]. known:
    (step) -> where the sweep knows what a gradient does [k], bool: elsewhere nothing is added, as it could not be taken off.
    """

    inner: AnchoredGradients
    centre: Callable[[int], Tensor]
    curvature: Curvature
    scarcity: Callable[[int], Tensor]
    known: Callable[[int], Tensor]
    latest: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> GradientsAndNorms:
        gradient, norm = self.inner(step, picks, theta)
        bent = gradient + self.response(step, picks, theta)
        if norm is not None:  # of all coordinates, of which these are a sample
            added = [(b.square() - g.square()) * self.inner.weight for b, g in zip(bent, gradient, strict=True)]
            more = torch.stack([a.sum() for a in added]).to(norm)
            least = torch.stack([b.square().sum() for b in bent]).to(norm)  # of these coordinates alone
            norm = (norm.square() + more).maximum(least).sqrt()
        return bent, norm

    def response(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """s_i K_t delta_t [n, k]; kept for the parameters that were given last."""
        if self.latest and self.latest[0][0] == step and self.latest[0][1] is theta:
            return self.latest[0][2]
        share = touching(self.inner.gradients, step, picks, self.scarcity) * self.known(step)
        response = self.curvature(step, theta - self.centre(step)) * share
        if not torch.isfinite(response).all():
            raise DivergenceError(
                f"step {step}: expected a finite response of the replay's curvature, got NaN or infinity: with it the replay "
                "runs away from the trajectory; set adjoint.rank = 0"
            )
        self.latest[:] = [(step, theta, response)]
        return response


@dataclass(frozen=True)
class LowRankTransition:
    """One step of n replays about the centre.

    gradients: of items at the anchors [items, D]. centre: (step) -> theta_t [D]. refreshed: the refresh steps.
    difference: (step, gamma [D]) -> grad L_B(gamma) - grad L_B(theta_t) [D], asked at refresh steps alone.
    scarcity: (index of the anchor) -> `scarcity` there [D].
    """

    rule: Rule
    rate: Callable[[int], float]
    gradients: Rows
    centre: Callable[[int], Tensor]
    curvature: Curvature
    refreshed: Collection[int]
    difference: Callable[[int, Tensor], Tensor]
    scarcity: Callable[[int], Tensor]

    def start(self, state: State) -> State:
        """The state [n, D] that training starts from, with nothing put back yet."""
        return State(state.theta, state.memory | {"remainder": torch.zeros_like(state.theta)}, state.clock)

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        memory = dict(state.memory)
        remainder = memory.pop("remainder")
        bent = self.curvature(step, state.theta - self.centre(step))
        if step in self.refreshed:
            remainder = torch.stack([self.difference(step, theta) for theta in state.theta]) - bent
        gradient = self.gradients.pick(step, picks) + (bent + remainder) * touching(
            self.gradients, step, picks, self.scarcity
        )
        if not torch.isfinite(gradient).all():
            raise DivergenceError(
                f"lowrank: expected finite gradients, got NaN or infinity at step {step}: the order leads too far from the "
                "trajectory; refresh the curvature more often (lowrank:refresh=4), or lower lowrank.clamp"
            )
        after = next_state(self.rule, State(state.theta, memory, state.clock), gradient, self.rate(step))
        return State(after.theta, after.memory | {"remainder": remainder}, after.clock)
