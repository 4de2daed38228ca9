"""What `fut noise` answers: the retrained spread over orders, and estimates of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fut.display.numbers import from_fields
from fut.estimation.order_noise import LocalNoise, PositionWeights
from fut.studies.noise.spread import OrderEffect


@dataclass(frozen=True)
class Estimated:
    """A spread over random orders by one way of estimating it, beside the retrained one.

    Args:
        sd: over random orders, in the read-out's unit.
        interval: 90 % interval of `sd` where it is a sample's, for normal values; None for a closed form, which has none.
        ratio: its spread by the retrained one's, over the same orders where it answers single orders.
        spearman: rank correlation with the retrained values, order by order; None where it answers no single order. That two
            spreads agree does not say that orders do.
        trace: sum of the variances of all parameters; None where it is not known.
    """

    sd: float
    interval: tuple[float, float] | None = None
    ratio: float | None = None
    spearman: float | None = None
    trace: float | None = None


@dataclass(frozen=True)
class OrderNoise:
    """The noise of the order of a run.

    Args:
        readout: its name.
        unit: of all values.
        window: steps over which orders differ.
        spread: of the retrained orders.
        estimates: by `closed form`, `replay` and `positions`, as far as they could be had.
        local: what they are made of; None without a run.
        values: of the retrained orders.
        note: which orders diverged, and are left out; empty for none.
    """

    readout: str
    unit: str
    window: int
    spread: OrderEffect
    estimates: dict[str, Estimated]
    local: LocalNoise | None
    values: list[float]
    note: str = ""

    @property
    def difference(self) -> float:
        """Standard deviation of the difference of two runs in random orders, sqrt(2) times that of one, in the unit."""
        return math.sqrt(2) * self.spread.sd

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "unit": self.unit,
            "steps": self.window,
            "difference_sd": self.difference,
            **self.spread.as_dict(),
            "estimates": {name: asdict(found) for name, found in self.estimates.items()},
            "local": None if self.local is None else self.local.as_dict(),
            "values": self.values,
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> OrderNoise:
        """From `as_dict`, and the read-out's name beside it."""
        local = content["local"]
        if local is not None:
            local = LocalNoise(**{**local, "weights": [PositionWeights(**part) for part in local["weights"]]})
        return cls(
            content["readout"],
            content["unit"],
            content["steps"],
            from_fields(OrderEffect, content),
            {name: Estimated(**estimate) for name, estimate in content["estimates"].items()},
            local,
            content["values"],
            content["note"],
        )
