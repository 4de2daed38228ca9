"""`noise slopes`: how does the noise of the order grow with the learning rate, and which part of it is the optimizer's memory?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from estimators.noise.slopes import (
    FINITE,
    RATES,
    SLOPE_RULES,
    SMALL,
    Slope,
    Window,
    shuffled,
    slope_experiment,
    window_slopes,
)
from fut.display.format import columns, number
from fut.display.picture import save
from fut.errors import UsageError
from fut.progress import Progress, silent
from fut.protocols import Archive

PRECISIONS = ("float64", "float32")
SLOPES = "slopes"
"""The kind under which the answer of a run is kept."""
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
        rules: by name; all for none.

    Raises:
        UsageError: for numbers out of range.
    """

    steps: int = 12
    permutations: int = 128
    seed: int = 0
    precision: str = "float64"
    rules: tuple[str, ...] = ()

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
        if unknown := [rule for rule in self.rules if rule not in SLOPE_RULES]:
            raise UsageError(f"noise slopes: expected rules of {', '.join(SLOPE_RULES)}, got {', '.join(unknown)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The rules that are asked for."""
        return self.rules or tuple(SLOPE_RULES)

    def gradients(self, per_step: int = 1) -> int:
        """Gradients of items that the answer takes, those that fill memory aside."""
        return len(self.names) * (len(RATES) + 1) * self.permutations * self.steps * per_step


@dataclass(frozen=True)
class Slopes:
    """Exponents of the variance over orders by learning rate.

    Args:
        steps: of the window.
        permutations: of its batches.
        precision: in which it was computed.
        slopes: by rule.
        model: on what, in words.
    """

    steps: int
    permutations: int
    precision: str
    slopes: Mapping[str, Slope]
    model: str = "a small network"

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
            "model": self.model,
            "ranges": {"small": list(SMALL), "finite": list(FINITE)},
            "slopes": {name: asdict(slope) for name, slope in self.slopes.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Slopes:
        """From `as_dict`."""
        slopes = {name: Slope(**slope) for name, slope in content["slopes"].items()}
        return cls(content["steps"], content["permutations"], content["precision"], slopes, content["model"])


class OwnWindow(Window, Protocol):
    """The last steps of a run, on its own model."""

    @property
    def about(self) -> str:
        """The model, in words."""

    @property
    def entries(self) -> Sequence[Sequence[int]]:
        """Items of every step."""

    @property
    def history(self) -> Sequence[Any]:
        """Gradients [D] that fill a rule's memory, and the parameters before the window, last."""


def noise_slopes(
    request: SlopesRequest, progress: Progress = silent, own: OwnWindow | None = None, archive: Archive | None = None
) -> Slopes:
    """Train the permutations at every rate, for every rule, from one warmed state.

    Args:
        request: what is asked.
        progress: hears of every rule.
        own: the window of a run; None for a small network.
        archive: where the answer of a run is kept.
    """
    asked = request.steps, request.permutations
    with progress("slopes by rule", len(request.names)) as tick:
        if own is None:
            found = slope_experiment(*asked, request.seed, request.precision, tick, request.names)
            return Slopes(*asked, request.precision, found)
        permutations = shuffled(own.entries, request.permutations, request.seed)
        found = window_slopes(own, own.history, permutations, request.names, tick)
    answer = Slopes(*asked, request.precision, found, own.about)
    if archive is not None:
        archive.keep(SLOPES, asdict(request), answer, request=asdict(request))
    return answer


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
        f"Exponent of the variance over {found.permutations} orders of {found.steps} steps by learning rate, on {found.model} "
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
