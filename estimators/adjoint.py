"""Goal-oriented estimation: one backward sweep gives how the read-out responds to curvature along the whole trajectory.

Replay without curvature gives displacements delta_t from the centre; the read-out of the recursion linearised in
curvature is then exactly (variation of constants, the dual-weighted residual of Becker & Rannacher 2001)

    phi(theta_T) + <grad phi, delta_T> + sum_t <w_t, delta_t>,    w_t = mean_i H_i(theta_t) lambda_{t,i},

where lambda_{t,i} is the sensitivity of the read-out to a gradient injected at step t. No Hessian work per order.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .orders.order import Order
from .position_table import added_up
from .replay import GradientsAndNorms, Picks, Transition, sampled_norm
from .rules.base import Rule
from .shapes import Bool, Float, Int
from .state import State
from .trajectory import mean_state

UNLIKE = 0.1
"""Mean square by which items' injections may differ from their mean, as a share of its own, for one product of the mean to stand
for the items' own."""


class Answers(NamedTuple):
    """How a step's items move the read-outs: the state [D] before it, their gradients [D], their injections [c, r, D], what
    stands for these in pooled products [r, D], and the costate after the step."""

    state: State
    gradients: Sequence[Float[Tensor, " D"]]
    injections: Float[Tensor, "c r D"]
    mean: Float[Tensor, "r D"]
    costate: State

    @property
    def touching(self) -> Float[Tensor, "c r D"]:
        """The injections where an item touches a coordinate; elsewhere it has no curvature, and answers by up to 1/eps: 0."""
        return torch.where(torch.stack(list(self.gradients))[:, None] != 0, self.injections, 0)


class Sensitivity(NamedTuple):
    """What the sweep yields for a step, for r read-outs: weight w_t [r, D], injection lambda_t [r, D] (mean over the
    step's items), and the costate before the step."""

    step: int
    weight: Tensor
    injection: Tensor
    costate: State


@dataclass(frozen=True)
class Sweep:
    """The backward sweep along a trajectory of mean transitions.

    mixture: the items of every step. state: (step) -> lifted state [D], streamed. gradient: (step, item) -> g_i(theta_t)
    [D]. product: (theta [D], item, direction [D]) -> H_i(theta) u [D].
    pooled: (step, theta [D], directions [r, D], answer) -> H u [r, D] for a batch drawn from many items; where given, one such
    product of the mean injection stands for the mean of the items' own, at the cost of one batch whatever the mixture's size.
    answer: (gradient [D]) -> its own injections [r, D], for a part of the batch of which that does not hold.
    own: how many of the read-outs, the first ones, have the items' own products even so. unlike: how many have them at steps
    where one of these has items' injections that differ by more than `UNLIKE` (`unlikeness`).
    entering: (step) -> slopes [r, D] of read-outs that are taken before that step and not at the end; None where there are
    none. Such a read-out has a costate of 0 until then, and its slope is its weight at that step.
    """

    rule: Rule
    rate: Callable[[int], float]
    mixture: Order
    state: Callable[[int], State]
    gradient: Callable[[int, int], Tensor]
    product: Callable[[Tensor, int, Tensor], Tensor]
    pooled: Callable[[int, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor] | None = None
    own: int = 0
    unlike: int = 0
    entering: Callable[[int], Tensor | None] | None = None

    def start(self, slopes: Float[Tensor, "r D"]) -> State:
        """Costate at the end: the read-outs' gradients [r, D], nothing on the memory."""
        memory = {k: torch.zeros_like(slopes) for k in self.state(len(self.mixture)).memory}
        return State(slopes, memory, {})

    def backward(self, costate: State, first: int | None = None) -> Iterator[Sensitivity]:
        """From step `first` (the last by default) down to 0; each item's costate includes its own H lambda."""
        start = len(self.mixture) - 1 if first is None else first
        for step in range(start, -1, -1):
            state, items = self.state(step), self.mixture.steps[step]
            gradients = [self.gradient(step, i) for i in items]
            pulled = [self.rule.pullback(state, g, self.rate(step), costate) for g in gradients]
            each = torch.stack([u for _, u in pulled])
            injection = each.sum(0) / len(items) if self.pooled is None else mean_touched(each, torch.stack(gradients))
            weight = self._weight(step, items, Answers(state, gradients, each, injection, costate))
            if self.entering is not None and (slopes := self.entering(step)) is not None:
                weight = weight + slopes
            before = mean_state([p for p, _ in pulled])
            costate = State(before.theta + weight, before.memory, {})
            yield Sensitivity(step, weight, injection, costate)

    def _weight(self, step: int, items: Sequence[int], answers: Answers) -> Float[Tensor, "r D"]:
        """w_t [r, D]."""
        theta, mean = answers.state.theta, answers.mean
        unlike = self._unlike(step, answers)
        rows = len(mean) if self.pooled is None else self.unlike if unlike else self.own
        parts = []
        if rows:
            given = answers.touching if unlike else answers.injections
            pairs = zip(items, given, strict=True)
            products = [torch.stack([self._product(theta, i, u) for u in us[:rows]]) for i, us in pairs]
            parts.append(torch.stack(products).sum(0) / len(items))
        if self.pooled is not None and rows < len(mean):
            answer = partial(self._answer, step, answers.state, answers.costate)
            parts.append(self.pooled(step, theta, mean[rows:], lambda gradient: answer(gradient)[rows:]))
        return torch.cat(parts)

    def _unlike(self, step: int, answers: Answers) -> bool:
        """Whether pooled products would stand for injections that are too unlike; at the first step nothing is displaced yet."""
        if self.pooled is None or not step or self.unlike <= self.own:
            return False
        among = answers.injections[:, : self.unlike], answers.gradients, answers.mean[: self.unlike]
        return bool((unlikeness(*among) > UNLIKE).any())

    def _answer(self, step: int, state: State, costate: State, gradient: Float[Tensor, " D"]) -> Float[Tensor, "r D"]:
        """The injections [r, D] of a gradient."""
        return self.rule.pullback(state, gradient, self.rate(step), costate)[1]

    def _product(self, theta: Float[Tensor, " D"], item: int, direction: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """An item's product [D]; none is taken of a read-out that has not entered yet."""
        return self.product(theta, item, direction) if direction.any() else torch.zeros_like(direction)


def mean_touched(injections: Float[Tensor, "c r D"], gradients: Float[Tensor, "c D"]) -> Float[Tensor, "r D"]:
    """Mean sensitivity [r, D] of a step's items [c, r, D] over those whose gradient [c, D] is not zero; 0 where all are.

    What stands for the mean of H_i lambda_i is H lambda, with H the mean of many items'. Both factors go with whether an item
    touches a coordinate (a token's embedding, if it has the token): one that does not has no curvature there, but answers to a
    gradient with all the steepness of a second moment that has not begun, up to 1/eps. So lambda is the mean given that an
    item touches the coordinate, and the share of items that do is in H alone.
    """
    touched = gradients != 0
    count = touched.sum(0).clamp(min=1)
    return (injections * touched[:, None]).sum(0) / count


def unlikeness(
    injections: Float[Tensor, "c r D"], gradients: Sequence[Float[Tensor, " D"]], mean: Float[Tensor, "r D"]
) -> Float[Tensor, " r"]:
    """Mean square by which items' injections [c, r, D] differ from their mean [r, D], as a share of its own: [r], where an item's
    gradient [D] is not zero.

    Curvature and injections go together where a second moment has only begun: Adam then answers a gradient g with about 1/|g|, by
    the item's own g, and the item's curvature grows with |g|. H lambda of the means is then too large. A read-out without
    injections has 0.
    """
    apart, total = torch.zeros(2, len(mean), dtype=torch.float64, device=mean.device)
    for own, gradient in zip(injections, gradients, strict=True):
        touched = gradient != 0
        apart += torch.where(touched, own - mean, 0).square().sum(1, dtype=torch.float64)
        total += torch.where(touched, mean, 0).square().sum(1, dtype=torch.float64)
    return torch.where(total > 0, apart / total, 0)


@dataclass(frozen=True)
class DualTransition:
    """Replay that gathers, beside its state, what every coordinate contributes to sum_t <w_t, delta_t>: [n, r, k].

    Kept by coordinate and summed at the end, so that equal runs give equal bits whatever batch they stand in, and so
    that a sample of coordinates knows its own variance.
    inner: the replay, of all coordinates or of a sample of them. centre: (step) -> theta_t [k]. weights: (step) ->
    w_t [r, k].
    response: (step, what runs consume, theta [n, k]) -> what curvature that the replay has itself adds to its gradients [n, k].
    To first order that moves the read-out by its product with the injection lambda_t [r, k], which is taken off again,
    coordinate by coordinate: the sum stays exact to first order whatever the response is, if it is 0 where no injection is
    known; only what comes after changes.
    owned: whether nobody else holds the states that it is given, so that they may be overwritten.
    """

    inner: Transition
    centre: Callable[[int], Tensor]
    weights: Callable[[int], Tensor]
    response: Callable[[int, Picks, Tensor], Tensor] | None = None
    injections: Callable[[int], Tensor] | None = None
    owned: bool = False

    def __post_init__(self) -> None:
        if (self.response is None) != (self.injections is None):
            raise ValueError("dual transition: expected a response together with injections, got one of the two")

    def start(self, state: State, readouts: int) -> State:
        n, k = state.theta.shape
        gathered = torch.zeros(n, readouts, k, dtype=state.theta.dtype, device=state.theta.device)
        return State(state.theta, state.memory | {"gathered": gathered}, state.clock)

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        delta = state.theta - self.centre(step)
        gathered = state.memory["gathered"]
        out = gathered if self.owned else None
        gathered = torch.addcmul(gathered, delta[:, None], self.weights(step), out=out)
        if self.response is not None and self.injections is not None:
            bent = self.response(step, picks, state.theta)
            gathered = torch.addcmul(gathered, bent[:, None], self.injections(step), value=-1.0)
        memory = {k: b for k, b in state.memory.items() if k != "gathered"}
        after = self.inner(step, picks, State(state.theta, memory, state.clock))
        return State(after.theta, after.memory | {"gathered": gathered}, after.clock)

    def contributions(self, end: State, steps: int, slopes: Float[Tensor, "r k"]) -> Float[Tensor, "n r k"]:
        """What every coordinate contributes to <slope, delta_T> + sum_t <w_t, delta_t>: [n, r, k]; slopes: [r, k]."""
        return end.memory["gathered"] + (end.theta - self.centre(steps))[:, None] * slopes


@dataclass(frozen=True)
class Anchored:
    """Item gradients at a few anchor checkpoints, linear in between: (step) -> [items, k].

    anchors: steps, ascending, from 0. table: (index of the anchor) -> [items, k].
    """

    anchors: Sequence[int]
    table: Callable[[int], Tensor]

    def __call__(self, step: int) -> Float[Tensor, "items k"]:
        return interpolated(self.anchors, step, self.table)

    def pick(self, step: int, picks: Picks) -> Float[Tensor, "n k"]:
        """What n runs consume at a step, [n, k]: interpolated before it is picked, or after, whichever is less; the bits are
        the same."""
        if picks.plain and len(picks.items) > len(self.table(0)):
            return picks.combine(self(step))
        return interpolated(self.anchors, step, lambda index: picks.combine(self.table(index)))

    def rows(self, index: int, items: Sequence[int]) -> Float[Tensor, "items k"]:
        """Gradients of some items at an anchor [len(items), k]."""
        return self.table(index)[list(items)]


@dataclass(frozen=True)
class StreamedAnchors:
    """As `Anchored`, of which only the rows that are consumed are ever in memory: as many as a step's runs consume, twice.

    rows: (index of the anchor, items) -> [len(items), k].
    """

    anchors: Sequence[int]
    rows: Callable[[int, Sequence[int]], Tensor]

    def pick(self, step: int, picks: Picks) -> Float[Tensor, "n k"]:
        """What n runs consume at a step [n, k], bit for bit as `Anchored.pick` has it."""
        items = picks.unique() or [0]
        places = {item: place for place, item in enumerate(items)}
        return interpolated(self.anchors, step, lambda index: picks.combine(self.rows(index, items), places))


def interpolated(anchors: Sequence[int], step: int, at: Callable[[int], Tensor]) -> Tensor:
    """What is known at anchors, (index of the anchor) -> tensor, linear in between."""
    low, high, share = anchors_around(anchors, step)
    return (1.0 - share) * at(low) + share * at(high) if share else at(low)


def anchors_around(anchors: Sequence[int], step: int) -> tuple[int, int, float]:
    """Indices of the anchors around a step, and the share of the later one; beyond the ends, the nearest."""
    after = min(bisect_left(anchors, step), len(anchors) - 1)
    if anchors[after] <= step or after == 0:
        return after, after, 0.0
    low, high = anchors[after - 1], anchors[after]
    return after - 1, after, (step - low) / (high - low)


@dataclass(frozen=True)
class AnchoredGradients:
    """Gradients of a replay from a few anchors; norms and weight as in `CachedGradients`."""

    gradients: Anchored
    norms: Anchored | None = None
    weight: Float[Tensor, " k"] | float = 1.0

    def __call__(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> GradientsAndNorms:
        gradient = self.gradients.pick(step, picks)
        if self.norms is None:
            return gradient, None
        return gradient, sampled_norm(picks, gradient, self.norms.pick(step, picks).squeeze(-1), self.weight)


def spread_anchors(steps: int, count: int, rate: Callable[[int], float] | None = None) -> list[int]:
    """`count` anchor steps spread evenly over 0..steps-1, both ends among them; with a rate evenly over the sum of the learning
    rates before each step, so that they are dense where parameters move fast. Fewer where two fall on one step."""
    count = max(1, min(count, steps))
    passed = list(itertools.accumulate((rate(t) for t in range(steps - 1)), initial=0.0)) if rate else [0.0]
    if not passed[-1]:
        return sorted({round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)})
    wanted = [i * passed[-1] / max(count - 1, 1) for i in range(count)]
    return sorted({round(round(float(t), 6)) for t in np.interp(wanted, passed, range(steps))})


def inclusion_probabilities(scores: Float[Tensor, " D"], size: int, uniform: float = 0.1) -> Float[Tensor, " D"]:
    """Probabilities [D], proportional to scores (mixed with a uniform part) but at most 1, whose sum is `size`.

    All ones for size >= D, where sampling is exact.
    """
    scores = scores.double()
    if size >= len(scores):
        return torch.ones_like(scores)
    mixed = (1 - uniform) * scores / scores.sum().clamp(min=1e-300) + uniform / len(scores)
    sure = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    while True:
        scale = (size - sure.sum()) / mixed[~sure].sum()
        probability = torch.where(sure, 1.0, mixed * scale)
        fresh = (probability >= 1) & ~sure
        if not fresh.any():
            return probability
        sure |= fresh


def poisson_sample(probabilities: Float[Tensor, " D"], seed: int) -> Int[Tensor, " k"]:
    """Indices of an independent draw of every coordinate with its probability, ascending; the same on every device."""
    uniform = torch.rand(len(probabilities), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nonzero(uniform < probabilities.cpu()).squeeze(-1)


def independent_halves(
    probabilities: Float[Tensor, " k"], seed: int
) -> tuple[Bool[Tensor, " k"], Bool[Tensor, " k"], Float[Tensor, " k"]]:
    """Two independent Poisson samples out of one: which of its coordinates each holds [k], and their probabilities in both.

    A coordinate drawn with probability p goes to the first, the second or both samples, so that either holds it with
    probability a and both with a²: p = 2 a - a². One that is surely drawn is in both.
    """
    either = 1.0 - (1.0 - probabilities).sqrt()
    draw = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(probabilities), dtype=torch.float64, generator=draw).to(probabilities)
    both, alone = either.square() / probabilities, (either - either.square()) / probabilities
    return uniform < both + alone, (uniform < both) | (uniform >= both + alone), either


def sampling_variance(contributions: Float[Tensor, "n k"], probabilities: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """Unbiased estimate of the variance of sum_sample c/p over Poisson samples: sum c² (1 - p)/p²; [n, k], [k] -> [n]."""
    weight = (1.0 - probabilities) / probabilities.square()
    return contributions.double().square() @ weight.double()


def partial_sums(
    contributions: Float[Tensor, "n m k"], probabilities: Float[Tensor, " k"], run: int
) -> tuple[Float[Tensor, "n m C"], Float[Tensor, "n m C"]]:
    """Sums over runs of `run` coordinates, weighted by 1/p, and of their sampling variances: [n, m, k] -> twice [n, m, C].

    Each run is summed by itself, so that the sums of a row are the same bits whatever rows and blocks it is summed with.
    """
    weight = (1.0 / probabilities).to(contributions)
    spread = ((1.0 - probabilities) / probabilities.square()).to(contributions)
    return _run_sums(contributions * weight, run), _run_sums(contributions.square() * spread, run)


def weighted_sums(
    contributions: Float[Tensor, "n 1 k"], weights: Float[Tensor, "g k"], run: int
) -> Float[Tensor, "n g C"]:
    """Sums over runs of `run` coordinates with several weights: [n, 1, k], [g, k] -> [n, g, C]; summed as `partial_sums`."""
    return torch.cat([_run_sums(contributions * weight.to(contributions), run) for weight in weights], dim=1)


def _run_sums(x: Tensor, run: int) -> Tensor:
    short = -x.shape[-1] % run
    padded = torch.nn.functional.pad(x, (0, short)) if short else x
    runs: Tensor = padded.unflatten(-1, (-1, run))
    return runs.sum(-1)


def quadratic_part(
    values: Float[Tensor, "*n m"], variances: Float[Tensor, "*n m"], signs: Float[Tensor, " m"]
) -> Float[Tensor, "*n"]:
    """½ sum_j s_j c_j² of functionals c [..., m], less what their sampling variances [..., m] add to the squares on average."""
    return 0.5 * added_up(signs * (values.square() - variances))
