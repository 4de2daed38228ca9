"""AdamW scaled module by module by the signal-to-noise ratio of its gradients (MoLS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..errors import RuleError
from ..modules import modules_of
from ..parameters import Coupling
from ..state import State
from .base import Decay, check_choice, check_number, in_range
from .moments import Moments
from .rows import by_row, tensors

Scaling = Literal["frozen", "online"]
Reference = Literal["highest", "mean"]


@dataclass(frozen=True, kw_only=True)
class ModuleScaledAdamW(Moments):
    """AdamW whose step of module k is scaled by a_k = (1 + 1/SNR_k)^(p/2) (1 + 1/SNR_ref)^(-p/2), within [1/a_max, a_max].

    The method is known here from a summary alone; this form of it is ours. SNR_k = (sum mhat^2 - rho sum vhat) / (sum vhat -
    sum mhat^2) over the coordinates of module k, mhat = m'/c1, vhat = v'/c2, rho = (1-b1)(1+p1)/((1+b1)(1-p1)), the share of
    noise that mhat still has; not below `floor`. Which modules there are: `modules_of`. Memory `scale` [D] is a_k at each
    coordinate.

    Tested by AdamW, bit for bit at p = 0 and by the given multiples elsewhere, and on gradients of known ratio.

    power: p, 1 compensates what noise damps, -1 trusts clean modules more, 0 is AdamW. scaling: `frozen` takes the scale once,
    at step `calibration`; `online` at every step from there. Before it the scale is 1. reference: `highest` SNR, or the
    (geometric) `mean` of the modules'. largest: a_max >= 1. floor: > 0.

    Raises RuleError for constants out of range.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    decay: Decay = "decoupled"
    power: float = 1.0
    scaling: Scaling = "frozen"
    calibration: int = 20
    reference: Reference = "highest"
    largest: float = 10.0
    floor: float = 1e-3

    name: ClassVar[str] = "adamw_mols"
    coupling: ClassVar[Coupling] = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("power", self.power, in_range(self.power, -float("inf")), "a number")
        check_choice("scaling", self.scaling, get_args(Scaling))
        check_choice("reference", self.reference, get_args(Reference))
        check_number("largest", self.largest, in_range(self.largest, 1.0), "a number >= 1")
        check_number("floor", self.floor, in_range(self.floor, 0.0) and self.floor != 0, "a number > 0")
        whole = isinstance(self.calibration, int) and in_range(self.calibration, 2)
        check_number("calibration", self.calibration, whole, "a whole number >= 2 of steps")

    def init(self, theta: Tensor) -> State:
        began = super().init(theta)
        return State(theta, began.memory | {"scale": torch.ones_like(theta)}, began.clock)

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        denominator = self._denominator(memory["v"], (1.0 - clock["p2"]) ** 0.5)
        delta = memory["m"] * -(rate / (1.0 - clock["p1"])) / denominator
        due = clock["step"] >= self.calibration if self.scaling == "online" else clock["step"] == self.calibration
        scale = self._scales(memory, clock) if due else state.memory["scale"].expand(memory["m"].shape)
        return delta * scale, memory | {"scale": scale}, clock

    def _scales(self, memory: Mapping[str, Tensor], clock: dict[str, float]) -> Tensor:
        """a_k at each coordinate [..., D]."""
        layout, modules = self.parameters, modules_of(self.parameters)

        def one(m: Tensor, v: Tensor) -> tuple[Tensor]:
            ratios = self._ratios(tensors(layout, m), tensors(layout, v), modules, clock)
            damped = {module: 1.0 + 1.0 / ratio for module, ratio in ratios.items()}
            noises = torch.stack(list(damped.values()))
            against = noises.min() if self.reference == "highest" else noises.log().mean().exp()
            scales = {
                module: (noise / against).pow(self.power / 2.0).clamp(1.0 / self.largest, self.largest)
                for module, noise in damped.items()
            }
            sizes = zip(modules, layout.sizes, strict=True)
            return (torch.cat([scales[module].expand(size) for module, size in sizes]),)

        return by_row(one, memory["m"], memory["v"])[0]

    def _ratios(
        self, ms: list[Tensor], vs: list[Tensor], modules: tuple[str, ...], clock: dict[str, float]
    ) -> dict[str, Tensor]:
        """SNR of each module of one run, from the tensors of its moments."""
        b1, c1, c2 = self.betas[0], 1.0 - clock["p1"], 1.0 - clock["p2"]
        rho = (1.0 - b1) * (1.0 + clock["p1"]) / ((1.0 + b1) * c1)
        found = {}
        for module in dict.fromkeys(modules):
            own = [place for place, other in enumerate(modules) if other == module]
            moved = sum((ms[i] / c1).square().sum() for i in own)
            spread = sum(vs[i].sum() / c2 for i in own)
            if not isinstance(moved, Tensor) or not isinstance(spread, Tensor):
                raise RuleError(f"the rule `{self.name}`: expected tensors in module `{module}`, got none; name some")
            noise = spread - moved
            known = noise > 0
            ratio = (moved - rho * spread) / torch.where(known, noise, torch.ones_like(noise))
            found[module] = torch.where(known, ratio, torch.full_like(ratio, 1 / self.floor)).clamp(min=self.floor)
        return found
