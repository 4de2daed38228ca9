"""Intervals of signal-to-noise ratios by Adam's moments: the sampling law of the ratio, not a second measurement of it.

The estimates of signal and noise from moments (`signal_noise.of_moments`) are quadratic in the gradients g_t of all steps so far.
With a_t and c_t the weights that the debiased moments give step t, and R the ratio,

    S - R N = sum_ts W_ts g_t . g_s,   W = alpha a a' + beta diag(c),
    alpha = (1 + R) / (1 - rho),  beta = -(rho + R) / (1 - rho),  rho = sum a_t²,

averaged over the states that are pooled, which share most of their steps. For independent gradients mu + e of covariance Sigma
its mean is 0 at the true R, and its variance

    2 tr(Sigma²) tr(W²) + 4 (mu' Sigma mu) |W 1|² + K sum_t W_tt²,   K = Var |e|² - 2 tr(Sigma²).

K is 0 for normal gradients; third moments are left out. The three numbers of the noise are estimated from gradients of items at
one point, and scaled to the noise that the moments say. Half the interval is Student's quantile times the root of the variance,
over N. The derivation is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .intervals import student_quantile
from .rules.base import Rule
from .rules.grouped import Grouped
from .rules.moments import Moments
from .shapes import Float, Int
from .signal_noise import LEVEL, SignalNoise
from .state import State

LONGEST = 20_000
"""Steps of a memory that are weighed; earlier ones have no weight to speak of."""


class Memory(NamedTuple):
    """What Adam's moments of some coordinates remember. betas: their decays. steps: updates that they have seen."""

    betas: tuple[float, float]
    steps: int


class NoiseShape(NamedTuple):
    """The covariance Sigma of a gradient of mean mu.

    trace: tr Sigma. square: tr Sigma², by which a noise of few directions is told from one of many. along: mu' Sigma mu.
    excess: Var |e|² above that of a normal law, at least 0. freedom: degrees of freedom of these estimates.
    """

    trace: float
    square: float
    along: float
    excess: float
    freedom: int

    def of_mean(self, count: int) -> NoiseShape:
        """That of the mean of so many independent gradients."""
        return NoiseShape(
            self.trace / count, self.square / count**2, self.along / count, self.excess / count**3, self.freedom
        )


def noise_shape(gradients: Float[Tensor, "n k"]) -> NoiseShape | None:
    """From n >= 3 independent gradients at one point; without bias where they are normal. None where they do not differ.

    Args:
        gradients: rows.
    """
    count = len(gradients)
    given = gradients.double()
    if count < 3:
        return None
    mean = given.mean(0)
    away = given - mean
    inner = away @ away.mT
    trace = float(inner.trace()) / (count - 1)
    if not trace > 0:
        return None
    raw = float(inner.square().sum()) / (count - 1) ** 2
    square = (count - 1) ** 2 / ((count + 1) * (count - 2)) * (raw - trace**2 / (count - 1))
    square = max(square, 0.0)
    along = float((away @ mean).square().sum()) / (count - 1) - square / count
    spread = float(away.square().sum(1).var()) * (count / (count - 1)) ** 2
    return NoiseShape(trace, square, max(along, 0.0), max(spread - 2 * square, 0.0), count - 1)


def memory_of(rule: Rule, state: State, coordinates: Int[Tensor, " k"]) -> tuple[Memory, Int[Tensor, " j"]] | None:
    """The memory of those of some coordinates that have Adam's moments, and which these are.

    Args:
        rule: one that keeps Adam's moments, or groups of which some do.
        state: its lifted state [D].
        coordinates: of a module.

    Returns:
        None where no coordinate has moments, or groups with different ones share the module.
    """
    if not isinstance(rule, Grouped):
        known = isinstance(rule, Moments) and state.clock["step"] >= 2
        return (Memory(_betas(rule), int(state.clock["step"])), coordinates) if known else None
    found: dict[Memory, list[Tensor]] = {}
    for share in rule.shares(state):
        inside = torch.zeros(state.theta.shape[-1], dtype=torch.bool, device=coordinates.device)
        for place in share.places:
            inside[place] = True
        own = coordinates[inside[coordinates]]
        kept = memory_of(share.rule, share.state, own)
        if len(own) and kept is not None:
            found.setdefault(kept[0], []).append(own)
    if len(found) != 1:
        return None
    ((memory, parts),) = found.items()
    return memory, torch.cat(parts)


def _betas(rule: Rule) -> tuple[float, float]:
    first, second = rule.betas  # type: ignore[attr-defined]
    return float(first), float(second)


def with_interval(found: SignalNoise, memories: Sequence[Memory], shape: NoiseShape) -> SignalNoise:
    """Signal and noise by moments with the 90 % interval of their ratio; as they are where the noise is not above 0.

    Args:
        found: signal and noise, pooled over states.
        memories: of these states.
        shape: of the noise of a step's gradient.
    """
    if not found.noise > 0:
        return found
    ratio = max(found.ratio, 0.0)
    square, ones, diagonal = _weights(memories, ratio)
    scale = found.noise / shape.trace
    variance = (
        2 * scale**2 * shape.square * square + 4 * scale * shape.along * ones + scale**2 * shape.excess * diagonal
    )
    half = student_quantile(0.5 + LEVEL / 2, shape.freedom) * math.sqrt(variance) / found.noise
    return SignalNoise(found.signal, found.noise, (found.ratio - half, found.ratio + half))


def _weights(memories: Sequence[Memory], ratio: float) -> tuple[float, float, float]:
    """tr(W²), |W 1|² and the squares of W's diagonal, of the mean over states."""
    last = max(memory.steps for memory in memories)
    at = torch.arange(max(last - LONGEST, 0), last, dtype=torch.float64) + 1  # steps, the last one last
    rows, alphas, diagonal = [], [], torch.zeros_like(at)
    for (b1, b2), steps in memories:
        first, second = (_shares(beta, steps - at, steps) for beta in (b1, b2))
        rho = float(first.square().sum())
        rows.append(first)
        alphas.append((1 + ratio) / (1 - rho) / len(memories))
        diagonal -= (rho + ratio) / (1 - rho) / len(memories) * second
    a, alpha = torch.stack(rows), torch.tensor(alphas, dtype=torch.float64)
    square = float(alpha @ (a @ a.mT).square() @ alpha) + float(diagonal.square().sum())
    square += 2 * float(alpha @ (a.square() @ diagonal))
    ones = (alpha * a.sum(1)) @ a + diagonal
    return square, float(ones.square().sum()), float((alpha @ a.square() + diagonal).square().sum())


def _shares(beta: float, ages: Tensor, steps: int) -> Tensor:
    """What a debiased moment holds of every step; ages: steps since then, below 0 for later ones."""
    weights = (1 - beta) * beta ** ages.clamp(min=0) / (1 - beta**steps)
    return torch.where(ages < 0, 0.0, weights)
