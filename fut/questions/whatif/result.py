"""What if the data had come in another order? What that changes of every read-out, beside what is known of the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fut.display.notebook import COLOURS, GREY, MARKERS, Displayable, labelled
from fut.display.numbers import jsonable, perplexity
from fut.display.scale import NATS
from fut.protocols import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Change:
    """One read-out under another order, in its unit; `delta` is the value minus the reference order's: negative is better
    for a loss.

    value: the read-out's. reference: its value in the reference order. interval: 90 % interval of the value, or None,
    and then `note` says why. source: `estimate`, or `retrained` where the value is the truth. truth: the value after really
    training in this order, beside an estimate, where that was asked for or is known.
    """

    readout: str
    unit: str
    value: float
    reference: float
    interval: tuple[float, float] | None
    estimator: str
    source: str
    note: str
    truth: float | None = None

    @classmethod
    def of(cls, answer: Value, reference: float, remark: str = "", truth: float | None = None) -> Change:
        """From what is said of an order.

        Args:
            answer: what is said.
            reference: the reference order's value.
            remark: what is to be said of the answer beside its own note.
            truth: the value after retraining, where that was asked for.
        """
        note = f"{answer.note}; {remark}" if remark else answer.note
        about = (answer.readout, answer.unit, answer.value, reference, answer.interval)
        return cls(*about, answer.estimator, answer.source, note, answer.truth if truth is None else truth)

    @property
    def delta(self) -> float:
        return self.value - self.reference

    @property
    def delta_interval(self) -> tuple[float, float] | None:
        """90 % interval of `delta`: the reference order's value is known."""
        return None if self.interval is None else (self.interval[0] - self.reference, self.interval[1] - self.reference)

    @property
    def perplexity(self) -> float | None:
        """exp(value) per token; None for a read-out that is no loss in nats/token."""
        return perplexity(self.value) if self.unit == NATS else None

    @property
    def perplexity_delta(self) -> float | None:
        """Perplexity minus that of the reference order; negative is better."""
        return None if self.perplexity is None else self.perplexity - perplexity(self.reference)

    @property
    def error(self) -> float | None:
        """Estimate minus truth, where the truth is known."""
        return None if self.truth is None else self.value - self.truth

    def as_dict(self) -> dict[str, Any]:
        """Every field, and what follows from them."""
        content: dict[str, Any] = {
            "value": self.value,
            "reference": self.reference,
            "delta": self.delta,
            "interval": self.interval,
            "delta_interval": self.delta_interval,
            "perplexity": self.perplexity,
            "perplexity_delta": self.perplexity_delta,
            "unit": self.unit,
            "estimator": self.estimator,
            "source": self.source,
            "note": self.note,
        }
        if self.truth is not None:
            content |= {"truth": self.truth, "true_delta": self.truth - self.reference, "error": self.error}
        plain = math.isfinite(self.value) and math.isfinite(content["perplexity"] or 0.0)
        return content if plain else jsonable(content)

    @classmethod
    def from_dict(cls, readout: str, content: Mapping[str, Any]) -> Change:
        """From `as_dict`; a value that was not finite comes back as NaN."""
        values = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        values |= {n: float("nan") for n in ("value", "reference") if values[n] is None}
        interval = content["interval"]
        return cls(**values | {"readout": readout, "interval": None if interval is None else tuple(interval)})


@dataclass(frozen=True)
class WhatIf(Displayable):
    """What training in another order would have changed, one `Change` per read-out.

    start: the order that was edited, as it was named. edits: as they were applied. order: the items of every step.
    digest: of that order.
    """

    start: str
    edits: list[str]
    order: list[Any]
    digest: str
    changes: list[Change]

    def __getitem__(self, readout: str) -> Change:
        """The change of one read-out."""
        changes = {change.readout: change for change in self.changes}
        if readout not in changes:
            raise KeyError(f"{readout}: expected one of {', '.join(changes)}")
        return changes[readout]

    def as_dict(self) -> dict[str, Any]:
        whole = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "changes"}
        changes = {c.readout: c.as_dict() for c in self.changes}
        return {"question": "whatif", **whole, "asked": list(changes), "readouts": changes}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WhatIf:
        """From `as_dict`."""
        changes = [Change.from_dict(name, content["readouts"][name]) for name in content["asked"]]
        return cls(content["start"], content["edits"], content["order"], content["digest"], changes)

    def title(self) -> str:
        start = self.start if len(self.start) <= 40 else f"{self.start[:40]}…"
        return ", ".join([f"What if: {start}", *self.edits])

    def rows(self) -> list[dict[str, Any]]:
        """A row per read-out: `delta` against the reference order with its interval `low` … `high`, and the value."""
        rows = []
        for change in self.changes:
            row = {"readout": change.readout, "unit": change.unit, "delta": change.delta}
            row |= dict(zip(("low", "high"), change.delta_interval or (None, None), strict=True)) | {
                "value": change.value
            }
            row |= {"perplexity": change.perplexity, "perplexity_delta": change.perplexity_delta}
            truth = (
                {} if change.truth is None else {"true_delta": change.truth - change.reference, "error": change.error}
            )
            rows.append(row | {"estimator": change.estimator, "source": change.source} | truth)
        return rows

    def notes(self) -> list[str]:
        return list(dict.fromkeys(f"{change.estimator}: {change.note}" for change in self.changes))

    def draw(self, axes: Axes) -> None:
        """A line per read-out: the change, its interval, and the truth where it is known."""
        units = {change.unit for change in self.changes}
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--", label="reference")
        for place, change in enumerate(self.changes):
            low, high = change.delta_interval or (math.nan, math.nan)
            ends = [[change.delta - low], [high - change.delta]]
            first = "estimate" if place == 0 else None
            axes.errorbar([change.delta], [place], xerr=ends, fmt=MARKERS[0], color=COLOURS[0], capsize=3, label=first)
            if change.truth is not None:
                true = [change.truth - change.reference]
                axes.plot(true, [place], MARKERS[1], color=COLOURS[1], label="retrained" if place == 0 else None)
        names = [c.readout if len(units) == 1 else labelled(c.readout, c.unit) for c in self.changes]
        axes.set_yticks(range(len(names)), names)
        unit = next(iter(units)) if len(units) == 1 else ""
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=labelled("Δ against the reference order", unit))
        axes.legend(fontsize="small", frameon=False)
