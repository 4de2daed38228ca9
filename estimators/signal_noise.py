"""Signal and noise of gradients, module by module: S = |E g|², N = tr Cov(g), SNR = S / N.

Two ways to the same numbers. From M gradients at one point, with mean gbar and Vhat = sum |g_j - gbar|² / (M - 1):

    N = Vhat,  S = |gbar|² - Vhat / M,   both unbiased.

From Adam's moments, where mhat still has a share rho of the noise,

    rho = (1 - b1)(1 + p1) / ((1 + b1)(1 - p1)),
    N = sum (vhat - mhat²) / (1 - rho),  S = sum (mhat² - rho vhat) / (1 - rho),

p1 being the running product of b1. The plain ratio mhat² / (vhat - mhat²) cannot be below rho / (1 - rho). That Adam's mean step
is damped by sqrt(SNR / (1 + SNR)), and that modules differ in SNR, is the subject of "Revealing Modular Gradient Noise Imbalance
in LLMs: Calibrating Adam via Signal-to-Noise Ratio", known here by a summary; the estimators are ours (rho as in Balles and
Hennig 2018, arXiv:1705.07774).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import EstimatorError
from .intervals import student_quantile
from .rules.base import Rule
from .rules.grouped import Grouped
from .rules.moments import Moments
from .shapes import Float
from .state import State

LEVEL = 0.9
LARGEST, FLOOR = 10.0, 1e-3
"""Bound of a suggested scale, and the least SNR that one is made of."""


class SignalError(EstimatorError, ValueError):
    """Gradients of which no noise can be taken."""


@dataclass(frozen=True)
class SignalNoise:
    """Signal and noise of some coordinates.

    Args:
        signal: estimate of |E g|²; unbiased, and so perhaps below 0.
        noise: estimate of tr Cov(g).
        interval: 90 % interval of their ratio; None where there is none.
    """

    signal: float
    noise: float
    interval: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """SNR; infinite without noise."""
        return self.signal / self.noise if self.noise > 0 else math.inf

    @property
    def damping(self) -> float:
        """sqrt(SNR / (1 + SNR)), what Adam's mean step is of a noiseless one's; 0 for a signal that is not above 0."""
        ratio = max(self.ratio, 0.0)
        return 1.0 if math.isinf(ratio) else math.sqrt(ratio / (1.0 + ratio))


def of_gradients(gradients: Float[Tensor, "n k"]) -> SignalNoise:
    """Signal and noise from n independent gradients at one point; the interval is by the jackknife, with Student's quantile.

    Raises:
        SignalError: for fewer than three gradients.
    """
    count = len(gradients)
    if count < 3:
        raise SignalError(f"signal and noise: expected at least 3 gradients, got {count}; 16 is a good number")
    given = gradients.double()
    square, products = given.square().sum(-1), given @ given.sum(0)  # |g_j|² and g_j . sum g
    total = float(products.sum())  # |sum g|²
    signal, noise = _split(float(square.sum()), total, count)
    left = [
        _split(float(square.sum()) - a, total - 2 * b + a, count - 1)
        for a, b in zip(square.tolist(), products.tolist(), strict=True)
    ]
    if noise <= 0 or any(n <= 0 for _, n in left):
        return SignalNoise(signal, noise)
    ratios = [s / n for s, n in left]
    mean = sum(ratios) / count
    error = math.sqrt((count - 1) / count * sum((r - mean) ** 2 for r in ratios))
    half = student_quantile(0.5 + LEVEL / 2, count - 1) * error
    return SignalNoise(signal, noise, (signal / noise - half, signal / noise + half))


def _split(squares: float, total: float, count: int) -> tuple[float, float]:
    """S and N from sum |g_j|² and |sum g_j|²."""
    noise = (squares - total / count) / (count - 1)
    return total / count**2 - noise / count, noise


def of_moments(rule: Rule, state: State) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]] | None:
    """Signal and noise of every coordinate [D] from Adam's moments, debiased; NaN where a group keeps no such moments.

    Args:
        rule: one that keeps Adam's moments, or groups of which some do.
        state: its lifted state [D].

    Returns:
        Terms of S and of N, whose sums over a module are its own; None where no coordinate has moments of two steps or more.
    """
    if isinstance(rule, Grouped):
        signal = torch.full_like(state.theta, math.nan, dtype=torch.float64)
        noise = signal.clone()
        for share in rule.shares(state):
            found = of_moments(share.rule, share.state)
            for terms, own in zip((signal, noise), found or (), strict=False):
                widths = [terms[place].shape[-1] for place in share.places]
                for place, part in zip(share.places, own.split(widths), strict=True):
                    terms[place] = part
        return None if noise.isnan().all() else (signal, noise)
    clock = state.clock
    if not isinstance(rule, Moments) or "p1" not in clock or clock["step"] < 2:
        return None
    b1, p1 = rule.betas[0], clock["p1"]
    rho = (1.0 - b1) * (1.0 + p1) / ((1.0 + b1) * (1.0 - p1))
    m = state.memory["m"].double() / (1.0 - p1)
    v = state.memory["v"].double() / (1.0 - clock["p2"])
    return (m.square() - rho * v) / (1.0 - rho), (v - m.square()) / (1.0 - rho)


def pooled(found: Sequence[SignalNoise]) -> SignalNoise:
    """Of several steps: signals and noises are averaged before they are divided."""
    return SignalNoise(sum(s.signal for s in found) / len(found), sum(s.noise for s in found) / len(found))


def suggested_scales(
    ratios: Mapping[str, float], power: float = 1.0, largest: float = LARGEST, floor: float = FLOOR
) -> dict[str, float]:
    """Factor of every module's learning rate, ((1 + 1/SNR) / (1 + 1/SNR_ref))^(power/2), as the rule `adamw_mols` has it.

    Args:
        ratios: SNR by module; the highest is the reference.
        power: 1 compensates Adam's damping of noisy modules, -1 damps them further, 0 leaves all as they are.
        largest: bound of the factors, and 1/largest.
        floor: least SNR.
    """
    damped = {module: 1.0 + 1.0 / max(ratio, floor) for module, ratio in ratios.items()}
    least = min(damped.values(), default=1.0)
    return {
        module: min(max((value / least) ** (power / 2.0), 1.0 / largest), largest) for module, value in damped.items()
    }
