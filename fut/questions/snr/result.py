"""What `fut snr` answers: signal, noise and their ratio, by module and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estimators.signal_noise import SignalNoise, suggested_scales
from fut.display.numbers import jsonable
from fut.estimation.signals import StepSignals


@dataclass(frozen=True)
class ModuleSnr:
    """Signal-to-noise ratios of a run's gradients.

    Args:
        sizes: parameters of every module, by name.
        gradients: items of each point.
        power: of the suggested scales, as in the rule `adamw_mols`.
        points: by step, ascending.
    """

    sizes: Mapping[str, int]
    gradients: int
    power: float
    points: Sequence[StepSignals]

    def scales(self, point: StepSignals) -> dict[str, float]:
        """Factors of the modules' learning rates that their ratios at a point suggest."""
        return suggested_scales({module: one.ratio for module, one in point.gradients.items()}, self.power)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        points = [
            {
                "step": point.step,
                "modules": {
                    module: _values(one)
                    | {
                        "damping": one.damping,
                        "scale": self.scales(point)[module],
                        "floor_share": None if point.floor_shares is None else point.floor_shares[module],
                        "moments": _values(point.moments[module]) if module in point.moments else None,
                    }
                    for module, one in point.gradients.items()
                },
            }
            for point in self.points
        ]
        content: dict[str, Any] = jsonable(
            {"sizes": dict(self.sizes), "gradients": self.gradients, "power": self.power, "points": points}
        )
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModuleSnr:
        """From `as_dict`."""
        return cls(content["sizes"], content["gradients"], content["power"], [_point(one) for one in content["points"]])


def _values(one: SignalNoise) -> dict[str, Any]:
    interval = None if one.interval is None else list(one.interval)
    return {"signal": one.signal, "noise": one.noise, "snr": one.ratio, "interval": interval}


def _point(content: Mapping[str, Any]) -> StepSignals:
    """A point from its values in JSON."""
    modules = content["modules"]
    shares = {module: one["floor_share"] for module, one in modules.items()}
    return StepSignals(
        content["step"],
        {module: _signal(one) for module, one in modules.items()},
        {module: _signal(one["moments"]) for module, one in modules.items() if one["moments"] is not None},
        None if None in shares.values() else shares,
    )


def _signal(content: Mapping[str, Any]) -> SignalNoise:
    ends = content["interval"]
    return SignalNoise(content["signal"], content["noise"], None if ends is None else (ends[0], ends[1]))
