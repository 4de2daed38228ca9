"""What a comparison of update rules found: every arm's values by order, and its difference from a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fut.display.numbers import jsonable
from fut.studies.paired import PairedEffect

LARGER, SMALLER, ALIKE, NONE, UNKNOWN = "larger", "smaller", "about as large", "none found", "one pair"
"""What a difference is against what shuffling alone gives."""


@dataclass(frozen=True)
class ArmValues:
    """One of the rules that were compared.

    Args:
        label: by which it was asked for.
        rule: its name.
        options: its constants.
        rate: largest learning rate that it was trained with.
        tried: rates with the probe loss of the reference order, where the rate was searched; None where that diverged.
        values: of the read-out by order; None where training diverged.
        sd: over orders, n − 1 in the denominator; None for fewer than two.
    """

    label: str
    rule: str
    options: Mapping[str, Any]
    rate: float
    tried: Sequence[tuple[float, float | None]]
    values: Sequence[float | None]
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """An arm minus its baseline, over shared orders.

    Args:
        arm: its label.
        against: the baseline's.
        differences: by order, of those in which both were trained.
        effect: the mean of these with its intervals.
        noise: half the 95 % interval of the difference of two single runs of the baseline in random orders; None for one.
        verdict: whether the mean is larger than that.
        rho: correlation of both arms over the orders; None for fewer than three.
    """

    arm: str
    against: str
    differences: Sequence[float]
    effect: PairedEffect
    noise: float | None
    verdict: str
    rho: float | None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Difference:
        """From its fields in JSON."""
        return cls(**{**content, "effect": PairedEffect.from_dict(content["effect"])})


@dataclass(frozen=True)
class Compared:
    """Update rules on the same data, from the same parameters, in the same orders.

    Args:
        readout: its name.
        unit: of all values.
        orders: how many random orders were trained, by every arm.
        arms: the rules.
        differences: of every arm but the first from its baseline.
        note: which orders diverged; empty for none.
    """

    readout: str
    unit: str
    orders: int
    arms: Sequence[ArmValues]
    differences: Sequence[Difference]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        content = asdict(self)
        content.pop("readout")  # which stands beside the answer, with what was asked
        found: dict[str, Any] = jsonable(content | {"orientation": "arm minus baseline"})
        return found

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Compared:
        """From `as_dict`, and the read-out's name beside it."""
        return cls(
            content["readout"],
            content["unit"],
            content["orders"],
            [ArmValues(**arm) for arm in content["arms"]],
            [Difference.from_dict(one) for one in content["differences"]],
            content["note"],
        )


def verdict(effect: PairedEffect, noise: float | None) -> str:
    """What a mean difference is against the difference of two single runs that differ in their orders alone.

    Args:
        effect: the mean difference with its interval.
        noise: half the 95 % interval of what the orders alone give two runs.
    """
    if effect.interval is None or noise is None:
        return UNKNOWN
    low, high = effect.interval
    if low <= 0 <= high:
        return NONE
    nearest, farthest = min(abs(low), abs(high)), max(abs(low), abs(high))
    return LARGER if nearest > noise else SMALLER if farthest < noise else ALIKE
