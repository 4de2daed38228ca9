"""Paired differences over seeds: the mean effect, intervals of it, and an exact test (arXiv 2601.21624, section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from estimators.intervals import student_quantile
from fut.display.numbers import jsonable_fields

LEVEL, RESAMPLES, ENUMERATED, DRAWS = 0.95, 10_000, 16, 100_000


@dataclass(frozen=True)
class PairedEffect:
    """The average treatment effect of n pairs, in the unit of what was measured; treated minus control.

    Args:
        count: n.
        mean: over the pairs.
        sd: of the pairs, n − 1 in the denominator; None for one pair.
        interval: 95 % Student t interval of the mean, the primary one; None for one pair.
        bootstrap: 95 % percentile bootstrap of the mean, as the paper asks; it holds too seldom (0.83 of 0.95 at n = 5).
        p_value: two-sided sign-flip test of "no effect", exact up to n = 16; None for one pair.
        least_p_value: 2^(1 − n), the smallest that n pairs can give.
    """

    count: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    p_value: float | None
    least_p_value: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return jsonable_fields(asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PairedEffect:
        """From `as_dict`."""
        ends = {name: content[name] and tuple(content[name]) for name in ("interval", "bootstrap")}
        return cls(**{**content, **ends})


def paired_effect(differences: Sequence[float], seed: int = 0) -> PairedEffect:
    """The mean of n >= 1 paired differences, with intervals.

    Args:
        differences: treated minus control, by pair.
        seed: of the bootstrap, and of the sign flips where they are drawn.

    Raises:
        ValueError: for none, or for any that is not finite.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"paired effect: expected a list of n >= 1 finite differences, got {differences!r}")
    count, mean = len(values), float(values.mean())
    least = 2.0 ** (1 - count)
    if count == 1:
        return PairedEffect(count, mean, None, None, None, None, least)
    sd = float(values.std(ddof=1))
    half = student_quantile((1 + LEVEL) / 2, count - 1) * sd / count**0.5
    draw = np.random.default_rng(seed)
    means = values[draw.integers(0, count, (RESAMPLES, count))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p_value = sign_flip_test(values, draw)
    return PairedEffect(count, mean, sd, (mean - half, mean + half), (float(low), float(high)), p_value, least)


def sign_flip_test(values: np.ndarray, draw: np.random.Generator) -> float:
    """Two-sided p-value of "each difference is as likely positive as negative": all 2^n signs, or a sample of them."""
    count = len(values)
    if count <= ENUMERATED:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
    else:
        signs = np.vstack([np.ones(count), draw.choice((1.0, -1.0), (DRAWS, count))])
    sums, seen = np.abs(signs @ values), abs(values.sum())
    return float((sums >= seen * (1 - 1e-12)).mean())
