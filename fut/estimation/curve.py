"""A read-out over the steps of one order: an estimate per step, each with its interval or the word that it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fut.display.format import amount, columns
from fut.display.notebook import COLOURS, GREY, labelled
from fut.estimation.results import Estimate, Estimates

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Curve(Estimates):
    """Estimates of one read-out after several steps of one order, ascending; the last may be of the window's end.

    Args:
        answers: one per step.
        steps: after how many steps of the window each is taken.
        readout: the read-out's name, without a step.
    """

    def __init__(self, answers: Sequence[Estimate], steps: Sequence[int], readout: str) -> None:
        super().__init__(answers)
        self.steps, self.readout = list(steps), readout

    @property
    def reference(self) -> list[float]:
        """The read-out after the same steps of the reference order, in its unit."""
        return [e.value - e.delta for e in self]

    def as_dict(self) -> dict[str, Any]:
        """The order, the read-out, and per step what `Estimate.as_dict` has."""
        about = {"order": self[0].order, "asked": self[0].asked, "readout": self.readout, "unit": self._unit}
        return about | {"curve": [{"step": t} | e.as_dict() for t, e in zip(self.steps, self, strict=True)]}

    def title(self) -> str:
        return f"{self.readout} over the steps of {self[0].asked or self[0].order[:12]}; Δ against the reference order"

    def rows(self) -> list[dict[str, Any]]:
        """A row per step: as `Estimates.rows`, with `step` in place of `order`."""
        found = zip(self.steps, super().rows(), strict=True)
        return [{"step": step} | {k: v for k, v in row.items() if k != "order"} for step, row in found]

    def draw(self, axes: Axes) -> None:
        """Values over the steps with their intervals, beside those of the reference order."""
        axes.plot(self.steps, self.reference, color=GREY, linestyle="--", label="reference")
        axes.plot(self.steps, [e.value for e in self], color=COLOURS[0], marker="o", markersize=4, label="estimate")
        ends = np.array([e.interval or (math.nan, math.nan) for e in self])
        axes.fill_between(self.steps, *ends.T, color=COLOURS[0], alpha=0.15, linewidth=0, label="90 % interval")
        true = [(step, e.truth) for step, e in zip(self.steps, self, strict=True) if e.truth is not None]
        if true:
            axes.plot(*zip(*true, strict=True), "s", color=COLOURS[1], markersize=4, label="retrained")
        axes.set(xlabel="steps of the window", ylabel=labelled(self.readout, self._unit))
        axes.legend(fontsize="small", frameon=False)

    def text(self) -> str:
        """The table as the command line prints it, with what is to be said of all steps beneath."""
        unit = self._unit
        rows = [["step", "value", "90 % interval", "Δ reference", "retrained"]]
        for step, e in zip(self.steps, self, strict=True):
            ends = "–" if e.interval is None else " … ".join(amount(v, "") for v in e.interval)
            truth = e.value if e.source == "retrained" else e.truth
            known = "–" if truth is None else amount(truth, "")
            rows.append([str(step), amount(e.value, ""), ends, f"{e.delta:+.6g}", known])
        how = ", ".join(dict.fromkeys("retrained" if e.source == "retrained" else e.estimator for e in self))
        head = f"{self.readout} over the steps of {self[0].asked}" + (f" [{unit}]" if unit else "") + f", by {how}"
        return "\n".join([head, columns(rows), *self.notes()])
