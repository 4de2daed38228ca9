"""How much of every step's gradient the end of a window holds: impulse weights of rules with linear memory.

With the preconditioner D frozen, the parameters at the end of T steps are linear in the gradients,

    theta_T = a_0 theta_0 - k_0 D m_0 - D sum_s w_s g_s,

and one backward recursion gives the weights w_s, a_0 and k_0. With m_s = d_s m_{s-1} + h_s G_s,
theta_s = (1 - r_s lam) theta_{s-1} - r_s D (n_s G_s + u_s m_s), and G_s = g_s, or g_s + lam theta_{s-1} where decay is coupled:

    a_T = 1,  q_{T+1} = 0;  q_s = a_s r_s u_s + d_{s+1} q_{s+1};  w_s = h_s q_s + a_s r_s n_s;
    a_{s-1} = a_s (1 - r_s lam), or a_s - lam w_s where decay is coupled;  k_0 = d_1 q_1.

The memory's clock runs with the steps, not with rate times steps; hence a weight depends on the position. The idea is that of
"Optimizer Memory Makes Shuffle Order a First-Order Source of Fine-Tuning Noise", known here by a summary; the recursion is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import RuleError
from ..rules.adam import Adam
from ..rules.base import Rule
from ..rules.clipping import clip_gradient
from ..rules.clock_matched import ClockMatched
from ..rules.grouped import Grouped
from ..rules.mols import ModuleScaledAdamW
from ..rules.moments import Moments
from ..rules.momentum import Momentum
from ..rules.nadam import NAdam
from ..rules.sgd import SGD
from ..shapes import Float
from ..state import State

EVERYTHING = (slice(None),)
REPLAY = "replay frozen gradients instead, which serves every rule"


class LinearStep(NamedTuple):
    """A step of a linear memory: m' = decay m + share g; theta' = theta - rate D (direct g + through m')."""

    decay: float
    share: float
    direct: float
    through: float


@singledispatch
def linear_step(rule: Rule, clock: Mapping[str, float], rate: float) -> LinearStep:
    """The step of a rule whose memory of the gradient is linear, its preconditioner aside.

    Args:
        rule: one of those that are registered here; another package adds its own by `linear_step.register`.
        clock: counters before the step.
        rate: learning rate of the step.

    Raises:
        RuleError: for a rule without linear memory.
    """
    raise RuleError(f"the rule `{rule.name}`: expected a rule with linear memory, which has impulse weights; {REPLAY}")


@linear_step.register
def _(rule: SGD, clock: Mapping[str, float], rate: float) -> LinearStep:
    return LinearStep(0.0, 1.0, 1.0, 0.0)


@linear_step.register
def _(rule: Momentum, clock: Mapping[str, float], rate: float) -> LinearStep:
    share = 1.0 - rule.beta if rule.kind == "ema" else 1.0
    direct, through = (1.0, rule.beta) if rule.kind == "nesterov" else (0.0, 1.0)
    return LinearStep(rule.beta, share, direct, through)


@linear_step.register(Adam)
@linear_step.register(ModuleScaledAdamW)
def _(rule: Moments, clock: Mapping[str, float], rate: float) -> LinearStep:
    beta = rule.betas[0]
    return LinearStep(beta, 1.0 - beta, 0.0, 1.0 / (1.0 - clock["p1"] * beta))


@linear_step.register
def _(rule: NAdam, clock: Mapping[str, float], rate: float) -> LinearStep:
    step = clock["step"] + 1.0
    mu, ahead, beta = rule.momentum_at(step), rule.momentum_at(step + 1.0), rule.betas[0]
    product = clock["mu_product"] * mu
    return LinearStep(beta, 1.0 - beta, (1.0 - mu) / (1.0 - product), ahead / (1.0 - product * ahead))


@linear_step.register
def _(rule: ClockMatched, clock: Mapping[str, float], rate: float) -> LinearStep:
    return linear_step(rule.at(rate), clock, rate) if rate else LinearStep(1.0, 0.0, 0.0, 0.0)


def preconditioner(rule: Rule, state: State) -> Float[Tensor, "*n D"] | None:
    """What a rule multiplies its momentum by, coordinate by coordinate, at a state; None for rules that have no such thing.

    Raises:
        RuleError: at a state without a second moment yet, where none is known.
    """
    if not isinstance(rule, Moments):
        return None
    if state.clock["p2"] >= 1.0:
        raise RuleError(
            f"the rule `{rule.name}`: expected a state with a second moment, got the first state of all; begin the window "
            f"after some steps, or {REPLAY}"
        )
    square = state.memory["largest" if "largest" in state.memory else "v"] / (1.0 - state.clock["p2"])
    found = 1.0 / rule._denominator(square)
    return found * _scale(rule, state) if isinstance(rule, ModuleScaledAdamW) else found


def _scale(rule: ModuleScaledAdamW, state: State) -> Tensor:
    """Its modules' scales; RuleError where they may still change."""
    if state.clock["step"] < rule.calibration or rule.scaling == "online":
        raise RuleError(
            f"the rule `{rule.name}`: expected scales that no longer change, got a state before their calibration; {REPLAY}"
        )
    return state.memory["scale"]


@dataclass(frozen=True)
class Kernel:
    """Impulse weights of some coordinates, which one rule updates.

    Args:
        places: where they stand in theta [D].
        weights: w_s [T], float64, in units of the learning rate.
        start: a_0, what is left of the parameters.
        momentum: k_0, what the momentum at the start still moves, in units of the learning rate.
        preconditioner: D [k], its mean over the window where it is not frozen; None for 1.
        clip: bound on the norm of their own gradients; None for none.
        averaged: weights of every coordinate [T, k], the preconditioner in them, which follows the average over orders; None
            where it is frozen.
    """

    places: tuple[slice, ...]
    weights: Float[Tensor, " T"]
    start: float
    momentum: float
    preconditioner: Float[Tensor, " k"] | None = None
    clip: float | None = None
    averaged: Float[Tensor, "T k"] | None = None

    def take(self, vectors: Float[Tensor, "*n D"]) -> Float[Tensor, "*n k"]:
        """Their coordinates of vectors."""
        return torch.cat([vectors[..., place] for place in self.places], dim=-1)

    def potentials(self, gradients: Float[Tensor, "*n D"]) -> Float[Tensor, "*n k"]:
        """D g of gradients, clipped as the rule clips them."""
        own = self.clipped(gradients)
        return own if self.preconditioner is None else own * self.preconditioner

    def clipped(self, gradients: Float[Tensor, "*n D"]) -> Float[Tensor, "*n k"]:
        """Their coordinates of gradients, clipped as the rule clips them."""
        return clip_gradient(self.clip, self.take(gradients))

    @property
    def spread(self) -> float:
        """S_ww, the sum of squares of the weights about their mean."""
        return float((self.weights - self.weights.mean()).square().sum())

    @property
    def attribution(self) -> list[float]:
        """Weights of the positions, their mean being 1 [T]: w_s / mean(w)."""
        mean = self.weights.mean()
        return (self.weights / torch.where(mean == 0, torch.ones_like(mean), mean)).tolist()


def impulse_kernel(
    rule: Rule, state: State, rates: Sequence[float], squares: Float[Tensor, " k"] | None = None
) -> Kernel:
    """The impulse weights of a rule with linear memory over a window.

    Args:
        rule: a registered one, of one group; `impulse_kernels` also takes groups.
        state: the lifted state [k] before the window, at which the preconditioner is frozen.
        rates: learning rates of the T steps.
        squares: mean over the window's items of the squared gradient [k], for a preconditioner that is not frozen: its second
            moment then goes on as it does on average over orders. None to freeze it.

    Returns:
        The kernel of all coordinates of the state.

    Raises:
        RuleError: for a rule without linear memory, a frozen second moment that there is not yet, or a preconditioned rule
            whose decay is coupled, as its weights differ from coordinate to coordinate.
    """
    preconditioned = isinstance(rule, Moments)
    scale = preconditioner(rule, state) if not preconditioned or squares is None else None
    coupled, decoupled = rule._decays
    if coupled and preconditioned:
        raise RuleError(
            f"the rule `{rule.name}`: expected decoupled decay beside a preconditioner, got coupled; {REPLAY}"
        )
    steps = _linear_steps(rule, state.clock, rates)
    weights = torch.zeros(len(rates), dtype=torch.float64)
    left, queue, following, remaining = 1.0, 0.0, 0.0, []
    for s in reversed(range(len(rates))):
        step, rate = steps[s], float(rates[s])
        queue = left * rate * step.through + following * queue
        weights[s] = step.share * queue + left * rate * step.direct
        remaining.append(left)
        left = left - coupled * float(weights[s]) - left * rate * decoupled
        following = step.decay
    kernel = Kernel(EVERYTHING, weights, left, following * queue, scale, None)
    if squares is None or not isinstance(rule, Moments):
        return kernel
    scales = _average_preconditioners(rule, state, rates, squares)
    return replace(kernel, preconditioner=scales.mean(0), averaged=_averaged(rates, steps, remaining[::-1], scales))


def _averaged(
    rates: Sequence[float], steps: Sequence[LinearStep], left: Sequence[float], scales: Float[Tensor, "T k"]
) -> Float[Tensor, "T k"]:
    """Weights with the preconditioner of every step in them."""
    found, queue, following = torch.zeros_like(scales), torch.zeros_like(scales[0]), 0.0
    for s in reversed(range(len(rates))):
        step, moved = steps[s], left[s] * float(rates[s]) * scales[s]
        queue = step.through * moved + following * queue
        found[s] = step.share * queue + step.direct * moved
        following = step.decay
    return found


def _average_preconditioners(rule: Moments, state: State, rates: Sequence[float], squares: Tensor) -> Tensor:
    """D of every step [T, k], its second moment being the mean over orders."""
    v, p2 = state.memory["v"], state.clock["p2"]
    largest, found = state.memory.get("largest"), []
    fixed = _scale(rule, state) if isinstance(rule, ModuleScaledAdamW) else 1.0
    for rate in rates:
        beta = rule.matched(rule.betas[1], rate) if isinstance(rule, ClockMatched) else rule.betas[1]
        v, p2 = beta * v + (1.0 - beta) * squares, beta * p2
        largest = None if largest is None else torch.maximum(largest, v)
        found.append(fixed / rule._denominator((v if largest is None else largest) / (1.0 - p2)))
    return torch.stack(found)


def _linear_steps(rule: Rule, clock: Mapping[str, float], rates: Sequence[float]) -> list[LinearStep]:
    """The step of every rate, the counters going on as the rule has them."""
    alone = replace(rule, layout=None) if rule.coupling == "coordinate" else None
    steps, now = [], dict(clock)
    for rate in rates:
        steps.append(linear_step(rule, now, rate))
        now = _ticked(alone or rule, now, rate)
    return steps


def _ticked(rule: Rule, clock: dict[str, float], rate: float) -> dict[str, float]:
    """The counters after a step."""
    if isinstance(rule, ModuleScaledAdamW):
        return rule._tick(clock)
    empty = rule.init(torch.zeros(1, dtype=torch.float64))
    return rule.update(empty._replace(clock=clock), torch.zeros(1, dtype=torch.float64), rate)[2]


def impulse_kernels(
    rule: Rule, state: State, rates: Sequence[float], squares: Float[Tensor, " D"] | None = None
) -> tuple[Kernel, ...]:
    """The impulse weights over a window, a kernel for the coordinates of every group of parameters.

    Arguments and errors as of `impulse_kernel`. Clipping over all groups is for `clip_gradient` beforehand.
    """
    if not isinstance(rule, Grouped):
        return (impulse_kernel(rule, state, rates, squares),)
    kernels = []
    for share in rule.shares(state):
        part = None if squares is None else torch.cat([squares[place] for place in share.places])
        own = impulse_kernel(share.rule, share.state, [share.rate(rate) for rate in rates], part)
        kernels.append(replace(own, places=share.places, clip=share.rule.clip))
    return tuple(kernels)


def displacement(
    kernels: Sequence[Kernel],
    state: State,
    gradients: Float[Tensor, "T D"],
    momentum: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, " D"]:
    """theta_T - theta_0 [D] by the kernels, for the gradients of the steps in the order in which they come.

    momentum: m_0 [D]; that of the state if None, 0 for rules without one.
    """
    held = state.memory.get("m", torch.zeros_like(state.theta)) if momentum is None else momentum
    moved = torch.zeros_like(state.theta)
    for kernel in kernels:
        own = kernel.weights.to(gradients) @ kernel.potentials(gradients)
        carried = kernel.momentum * kernel.take(held)
        if kernel.preconditioner is not None:
            carried = carried * kernel.preconditioner
        part = (kernel.start - 1.0) * kernel.take(state.theta) - carried - own
        first = 0
        for place in kernel.places:
            width = moved[place].shape[-1]
            moved[place] = part[first : first + width]
            first += width
    return moved
