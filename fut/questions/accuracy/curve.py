"""`verify --curve`: the comparison after several steps of the orders, each of which is trained once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fut.display.format import columns, interval, number
from fut.display.notebook import COLOURS, MARKERS
from fut.display.numbers import from_fields
from fut.display.picture import save
from fut.methods.registry import is_baseline
from fut.questions.accuracy import render
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import base_of, step_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class CurveVerification(Verification):
    """The comparison at the end of the window, and after earlier steps of the same orders.

    Args:
        along: by step, ascending, the comparison after it.
    """

    along: dict[int, Verification] = field(default_factory=dict)

    @classmethod
    def of(cls, verified: Mapping[str, Verification]) -> CurveVerification:
        """From comparisons by read-out, the last of them at the end."""
        *earlier, (_, end) = verified.items()
        return cls(**vars(end), along={step: found for name, found in earlier if (step := step_of(name)) is not None})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CurveVerification:
        """From `as_dict`."""
        along = {int(step): Verification.from_dict(found) for step, found in content["along"].items()}
        return from_fields(cls, {**content, "along": along})

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"along": {step: found.as_dict() for step, found in self.along.items()}}

    @property
    def steps(self) -> dict[int, Verification]:
        """By step, ascending, the comparison after it; the end of the window last."""
        end = len(self.orders[0]) if self.orders else 0
        return {**self.along, end: self}

    def rows(self) -> list[dict[str, Any]]:
        """A row per step and estimator."""
        earlier = [{"step": step} | row for step, found in self.along.items() for row in found.rows()]
        return [*earlier, *({"step": max(self.steps)} | row for row in super().rows())]

    def draw(self, axes: Axes) -> None:
        """Spearman over the steps, a line per estimator."""
        for number_, name in enumerate(n for n in render.in_order(self.estimators) if not is_baseline(n)):
            found = [(step, of.estimators[name]) for step, of in self.steps.items() if name in of.estimators]
            style: dict[str, Any] = {
                "color": COLOURS[number_ % len(COLOURS)],
                "marker": MARKERS[number_ % len(MARKERS)],
            }
            axes.plot(
                [step for step, _ in found], [row["spearman"] for _, row in found], label=name, markersize=4, **style
            )
        axes.set(xlabel="steps of the window", ylabel="Spearman of estimated with retrained values", ylim=(None, 1))
        axes.legend(fontsize="small", frameon=False)


def table(result: CurveVerification) -> str:
    """A line per step and estimator, and below it the full table of the end."""
    rows = [["step", "estimator", "sd of truth", "Spearman", "90 %", "skill", "coverage"]]
    for step, found in result.steps.items():
        spread = Verification.as_dict(found)["true_sd"]
        for name in render.in_order(found.estimators):
            row = found.estimators[name]
            if is_baseline(name):
                continue
            cells = [number(row["spearman"]), interval(row["spearman_interval"]), number(row["skill"])]
            rows.append([str(step), name, f"{spread:.3g}", *cells, number(row.get("coverage"))])
    return f"{columns(rows)}\n\nafter {max(result.steps)} steps: {render.table(result)}"


def scatter(result: Verification, path: Path) -> Path:
    """The picture of a verification; of a curve Spearman over the steps."""
    if not isinstance(result, CurveVerification):
        return render.scatter(result, path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), dpi=200, layout="constrained")
    axes = figure.subplots()
    result.draw(axes)
    axes.set_title(f"{base_of(result.readout)} of {len(result.orders)} random orders", fontsize="medium")
    return save(figure, path)
