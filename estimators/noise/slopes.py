"""How the variance over orders grows with the learning rate: an exponent near 4 without memory, near 2 with it.

From one lifted state, the same permutations of the same batches are trained at every rate, constant over a window of a fixed
number of steps. The traps are known: a decaying rate, a window of fixed rate times steps, a state that is warmed anew for every
rate, or single precision each give another exponent. The experiment is that of "Optimizer Memory Makes Shuffle Order a
First-Order Source of Fine-Tuning Noise", known here by a summary; its details are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import EstimatorError
from ..orders.order import Order
from ..replay import Gradients, GradientsAndNorms, OrderBatch, Picks, RuleTransition, replay
from ..rules.adam import AdamW
from ..rules.base import Rule, next_state
from ..rules.clock_matched import ClockMatchedAdamW, ClockMatchedMomentum
from ..rules.lion import Lion
from ..rules.momentum import Momentum
from ..rules.sgd import SGD
from ..shapes import Float
from ..state import State
from .small_network import SmallNetwork

SMALL = (1e-6, 1e-3)
"""Rates over which an exponent is taken to be that of the limit."""
FINITE = (1e-4, 1e-2)
"""Rates as training has them."""
RATES = tuple(10.0 ** (k / 2) for k in range(-12, -3))
WARMUP, WARM_RATE = 240, 1e-2
POINTS = 3
"""Rates that a fit needs."""
RESOLVED = 1e4
"""How many times the variance of rounding a variance must be to count."""

RuleAt = Callable[[float], Rule]
"""The rule of a learning rate."""


class SlopeError(EstimatorError, ValueError):
    """Rates or windows of which no exponent can be taken."""


def _clocked_heavy_ball(rate: float) -> Rule:
    return Momentum(kind="heavy_ball", beta=0.9 ** (rate / WARM_RATE))


SLOPE_RULES: Mapping[str, RuleAt] = {
    "sgd": lambda rate: SGD(),
    "momentum": lambda rate: Momentum(kind="ema"),
    "heavy_ball": lambda rate: Momentum(kind="heavy_ball"),
    "adamw": lambda rate: AdamW(weight_decay=0.1),
    "lion": lambda rate: Lion(),
    "momentum_clock_matched": lambda rate: ClockMatchedMomentum(reference_rate=WARM_RATE),
    "adamw_clock_matched": lambda rate: ClockMatchedAdamW(reference_rate=WARM_RATE, weight_decay=0.1),
    "heavy_ball_clock_matched": _clocked_heavy_ball,
}
"""What is compared by name; `momentum` averages, and the last, which does not, shows that matching its clock is not enough."""


@dataclass(frozen=True)
class Slope:
    """Variance over orders by learning rate, and its exponents.

    Args:
        rates: learning rates, ascending.
        variances: trace of the sample covariance of theta_T, by rate.
        probe_variances: sample variance of the probe loss, by rate [nats²].
        resolved: by rate, whether the variance is far above that of rounding.
        small: exponent over `SMALL`, by least squares in logarithms; None with fewer than `POINTS` resolved rates.
        finite: the same over `FINITE`.
        probe_small: the same of the probe loss over `SMALL`.
        local: exponents between neighbouring rates; None where one is not resolved.
        bitwise: whether a second replay gave the same bits.
    """

    rates: tuple[float, ...]
    variances: tuple[float, ...]
    probe_variances: tuple[float, ...]
    resolved: tuple[bool, ...]
    small: float | None
    finite: float | None
    probe_small: float | None
    local: tuple[float | None, ...]
    bitwise: bool


def warmed(network: SmallNetwork, items: Sequence[int]) -> list[Tensor]:
    """Gradients [D] along a training by AdamW that visits the items in turn, and the parameters at its end, last."""
    rule: Rule = AdamW()
    state, found = rule.init(network.start[None]), []
    batch = OrderBatch.pack([Order.of([items[t % len(items)] for t in range(WARMUP)])])
    for t in range(WARMUP):
        gradient, _ = network.gradients(t, batch.at(t), state.theta)
        state, _ = rule.step(state, gradient, WARM_RATE)
        found.append(gradient[0])
    return [*found, state.theta[0]]


def warm_state(rule: Rule, history: Sequence[Tensor]) -> State:
    """The rule's memory of a common history, at its common end: one state for every rule and rate."""
    *gradients, end = history
    state = rule.init(end)
    for gradient in gradients:
        state = next_state(rule, state, gradient, WARM_RATE)._replace(theta=end)
    return state


def slope_experiment(
    steps: int,
    permutations: int,
    seed: int = 0,
    precision: str = "float64",
    tick: Callable[[], object] = lambda: None,
    names: Sequence[str] = tuple(SLOPE_RULES),
) -> dict[str, Slope]:
    """The experiment on a small network, for some rules of `SLOPE_RULES`, by default all.

    Args:
        steps: T, batches of the window.
        permutations: of them, drawn uniformly, the same for every rule and rate.
        seed: of data, start and permutations.
        precision: `float64`; in `float32` most variances are those of rounding, and have no exponent.
        tick: called after every rule.
        names: of the rules.

    Raises:
        SlopeError: for fewer than 2 steps or permutations, or another precision.
    """
    if precision not in ("float64", "float32") or steps < 2:
        raise SlopeError(
            f"slopes: expected 2 steps or more in float64 or float32, got {steps} steps in {precision}; correct it"
        )
    network = SmallNetwork(steps, seed=seed, dtype=getattr(torch, precision))
    drawn = shuffled(range(steps), permutations, seed)
    return window_slopes(network, warmed(network, range(steps)), drawn, names, tick)


class Window(Protocol):
    """A window of steps that can be trained from any parameters."""

    def gradients(self, step: int, picks: Picks, theta: Float[Tensor, "n D"]) -> GradientsAndNorms:
        """Of what n runs consume, each at its own parameters; for `RuleTransition`."""

    def probe_loss(self, theta: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """A number of each of n parameters."""


def shuffled(steps: Sequence[Any], count: int, seed: int) -> list[list[Any]]:
    """So many uniform permutations of the entries of an order, of one seed."""
    draw = np.random.default_rng(seed)
    return [[steps[place] for place in draw.permutation(len(steps)).tolist()] for _ in range(count)]


def window_slopes(
    window: Window,
    history: Sequence[Tensor],
    permutations: Sequence[Sequence[Any]],
    names: Sequence[str] = tuple(SLOPE_RULES),
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Slope]:
    """The exponents of some rules of `SLOPE_RULES` on a window, all from one point.

    Args:
        window: what is trained.
        history: gradients [D] that fill the rules' memory, and the parameters before the window, last.
        permutations: of the window's steps, the same for every rule and rate.
        names: of the rules.
        tick: called after every rule.
    """
    found = {}
    for name in names:
        rule = SLOPE_RULES[name]
        state = warm_state(rule(WARM_RATE), history)
        found[name] = order_slope(rule, state, window.gradients, permutations, probe=window.probe_loss)
        tick()
    return found


def order_slope(
    rule: RuleAt,
    state: State,
    gradients: Gradients,
    permutations: Sequence[Sequence[Any]],
    rates: Sequence[float] = RATES,
    probe: Callable[[Tensor], Tensor] | None = None,
) -> Slope:
    """The variance over permutations of the window's batches at every rate, and its exponents.

    Args:
        rule: the rule of a rate.
        state: the lifted state [D] that every replay begins from.
        gradients: true ones, of n runs at their own parameters.
        permutations: of the window's steps, each an item or a list of items.
        rates: constant learning rates, ascending.
        probe: parameters [n, D] -> read-outs [n].

    Raises:
        SlopeError: for fewer than two permutations.
    """
    if len(permutations) < 2:
        raise SlopeError(
            f"slopes: expected at least 2 permutations, got {len(permutations)}; draw more, 128 is a good number"
        )
    batch = OrderBatch.pack([Order.of(p) for p in permutations])

    def trained(rate: float) -> Tensor:
        transition = RuleTransition(rule(rate), lambda step: rate, gradients)
        return replay(transition, state.rows(len(batch)), batch).theta

    variances, probes = [], []
    for rate in rates:
        ends = trained(rate)
        variances.append(float(ends.double().var(0).sum()))
        probes.append(float(probe(ends).double().var()) if probe is not None else 0.0)
    bitwise = torch.equal(ends, trained(rates[-1]))
    floor = RESOLVED * rounding_variance(state.theta, batch.steps)
    resolved = tuple(v > floor for v in variances)
    local = tuple(
        float(np.log(variances[i + 1] / variances[i]) / np.log(rates[i + 1] / rates[i]))
        if all(resolved[i : i + 2])
        else None
        for i in range(len(rates) - 1)
    )
    return Slope(
        rates=tuple(rates),
        variances=tuple(variances),
        probe_variances=tuple(probes),
        resolved=resolved,
        small=_exponent(rates, variances, resolved, SMALL),
        finite=_exponent(rates, variances, resolved, FINITE),
        probe_small=_exponent(rates, probes, resolved, SMALL),
        local=local,
        bitwise=bitwise,
    )


def rounding_variance(theta: Float[Tensor, " D"], steps: int) -> float:
    """Trace of the covariance that rounding alone gives theta after some steps, each rounded once, uniformly."""
    return steps * float(torch.finfo(theta.dtype).eps ** 2 * theta.double().square().sum()) / 12


def _exponent(
    rates: Sequence[float], variances: Sequence[float], resolved: Sequence[bool], ends: tuple[float, float]
) -> float | None:
    """Least squares of log variance on log rate, within a factor of rounding of both ends."""
    kept = [
        (r, v)
        for r, v, known in zip(rates, variances, resolved, strict=True)
        if known and v > 0 and ends[0] * 0.999 <= r <= ends[1] * 1.001
    ]
    if len(kept) < POINTS:
        return None
    x, y = np.log(np.array(kept)).T
    return float(np.polyfit(x, y, 1)[0])
