"""Numbers on axes and in tables: powers of ten that keep digits few, units, signs, and which sign is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

NATS, PROBABILITY, LOSS = "nats/token", "probability", "loss"
"""LOSS is what a loss of the user's own is measured in, where nobody says more: it is shown without a unit."""
BETTER = {NATS: "negative", LOSS: "negative", PROBABILITY: "positive"}
"""Which sign of a difference is better, by unit; of a function of the user's own nobody knows."""


def shown_unit(unit: str) -> str:
    """A unit as it stands behind a number; nothing for a plain loss."""
    return "" if unit == LOSS else unit


def power_of_ten(exponent: int) -> str:
    """10 to a whole exponent, as in `10⁻³`."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@dataclass(frozen=True)
class Scale:
    """Values shown as value × 10^-exponent, so that their digits are few. unit: of the values, "" for none."""

    unit: str
    exponent: int

    @classmethod
    def of(cls, values: Iterable[float], unit: str) -> Scale:
        """By the largest magnitude, in steps of a thousand: it is shown as 0.1 to 100."""
        largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
        exponent = 3 * math.floor((math.log10(largest) + 1) / 3) if largest > 0 else 0
        return cls(unit, exponent if exponent < 0 or largest >= 1e4 else 0)

    @property
    def label(self) -> str:
        """The unit as an axis says it, e.g. `10⁻³ nats/token`."""
        power = power_of_ten(self.exponent) if self.exponent else ""
        return " ".join(part for part in (power, shown_unit(self.unit)) if part)

    def __call__(self, value: float) -> float:
        return value / 10.0**self.exponent


def minus(text: str) -> str:
    """A number as printed: a true minus sign, and no minus before zero."""
    return text.replace("-", "−" if any(c in "123456789" for c in text) else "")


def labelled(name: str, unit: str) -> str:
    """An axis's label or a table's head with its unit, if it has one."""
    return f"{name} [{unit}]" if (unit := shown_unit(unit)) else name


def better(unit: str) -> str:
    """Which sign of a difference is better, in words; empty where nobody knows."""
    return f"{BETTER[unit]} is better" if unit in BETTER else ""


def signed(name: str, unit: str, label: str | None = None) -> str:
    """A difference's label: its name, its unit, and which sign is better.

    Args:
        name: what the difference is of.
        unit: of the read-out.
        label: the unit as the axis says it, with a power of ten.
    """
    return ", ".join(part for part in (labelled(name, unit if label is None else label), better(unit)) if part)
