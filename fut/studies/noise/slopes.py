"""`noise slopes`: how does the noise of the order grow with the learning rate, and which part of it is the optimizer's memory?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from estimators.noise.slopes import FINITE, SLOPE_RULES, SMALL, Slope, slope_experiment
from fut.display.format import columns, number
from fut.display.picture import save
from fut.errors import UsageError
from fut.progress import Progress, silent

PRECISIONS = ("float64", "float32")
EXPECTED = {
    "sgd": "4",
    "momentum": "2",
    "heavy_ball": "2",
    "adamw": "2",
    "lion": "2",
    "momentum_clock_matched": "4",
    "adamw_clock_matched": "4",
    "heavy_ball_clock_matched": "2",
}
"""Exponents of the limit of small rates, by theory."""


@dataclass(frozen=True)
class SlopesRequest:
    """The experiment of slopes.

    Args:
        steps: T, of the window, at least 2.
        permutations: of its batches, at least 2.
        seed: of data, start and permutations.
        precision: `float64` or `float32`.

    Raises:
        UsageError: for numbers out of range.
    """

    steps: int = 12
    permutations: int = 128
    seed: int = 0
    precision: str = "float64"

    def __post_init__(self) -> None:
        if self.steps < 2 or self.permutations < 2 or self.seed < 0:
            raise UsageError(
                "noise slopes: expected at least 2 steps and 2 permutations and a seed from 0, got "
                f"{self.steps}, {self.permutations} and {self.seed}; 12 and 128 are good numbers"
            )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"noise slopes: expected a precision of {', '.join(PRECISIONS)}, got {self.precision}; take float64"
            )


@dataclass(frozen=True)
class Slopes:
    """Exponents of the variance over orders by learning rate.

    Args:
        steps: of the window.
        permutations: of its batches.
        precision: in which it was computed.
        slopes: by rule.
    """

    steps: int
    permutations: int
    precision: str
    slopes: Mapping[str, Slope]

    @property
    def unresolved(self) -> list[str]:
        """Rules of which some variance was no more than rounding."""
        return [name for name, slope in self.slopes.items() if not all(slope.resolved)]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "steps": self.steps,
            "permutations": self.permutations,
            "precision": self.precision,
            "ranges": {"small": list(SMALL), "finite": list(FINITE)},
            "slopes": {name: asdict(slope) for name, slope in self.slopes.items()},
        }


def noise_slopes(request: SlopesRequest, progress: Progress = silent) -> Slopes:
    """Train the permutations at every rate, for every rule, from one warmed state on a small network."""
    with progress("slopes by rule", len(SLOPE_RULES)) as tick:
        found = slope_experiment(request.steps, request.permutations, request.seed, request.precision, tick)
    return Slopes(request.steps, request.permutations, request.precision, found)


def text(found: Slopes) -> str:
    """For people: a table, and what it does not say."""
    rows: list[tuple[str, ...]] = [
        ("rule", "expected", "10⁻⁶–10⁻³", "10⁻⁴–10⁻²", "probe loss", "local, from small to large rates")
    ]
    for name, slope in found.slopes.items():
        local = " ".join(number(value, ".2f") for value in slope.local)
        cells = [number(value, ".3f") for value in (slope.small, slope.finite, slope.probe_small)]
        rows.append((name, EXPECTED.get(name, ""), *cells, local))
    lines = [
        f"Exponent of the variance over {found.permutations} orders of {found.steps} batches by learning rate "
        "(4: only curvature sees the order; 2: the optimizer's memory does).",
        columns(rows),
    ]
    if found.unresolved:
        lines.append(
            f"Not reported where the variance is not 10⁴ times that of rounding in {found.precision}: "
            f"{', '.join(found.unresolved)}."
        )
    if not all(slope.bitwise for slope in found.slopes.values()):
        lines.append("A second replay gave other bits: this machine's arithmetic is not deterministic.")
    return "\n".join(lines)


def draw(found: Slopes, path: Path) -> Path:
    """Variance by rate, both logarithmic, with the lines of the fits over small rates, as PNG; returns the path."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7.2, 5.2), dpi=150)
    for name, slope in found.slopes.items():
        kept = [(r, v) for r, v, known in zip(slope.rates, slope.variances, slope.resolved, strict=True) if known]
        if not kept:
            continue
        rates, variances = np.array(kept).T
        label = f"{name} ({number(slope.small, '.2f')})"
        (points,) = axes.loglog(rates, variances, "o", markersize=4, label=label)
        if slope.small is not None:
            inside = (rates >= SMALL[0] * 0.999) & (rates <= SMALL[1] * 1.001)
            offset = np.mean(np.log(variances[inside]) - slope.small * np.log(rates[inside]))
            axes.loglog(rates, np.exp(offset) * rates**slope.small, "-", linewidth=1, color=points.get_color())
    axes.set_xlabel("learning rate")
    axes.set_ylabel("trace of the covariance of the parameters over orders")
    axes.set_title(f"Order variance by learning rate, {found.steps} steps (exponent over 10⁻⁶–10⁻³)", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    try:
        return save(figure, path)
    finally:
        plt.close(figure)
