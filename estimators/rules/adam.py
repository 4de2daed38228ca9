"""Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import RuleError
from ..state import State
from .base import Decay
from .clipping import clip_gradient
from .moments import Moments
from .signals import Signals


@dataclass(frozen=True, kw_only=True)
class Adam(Moments):
    """Adam with memory m, v [..., D] and clock step, p1, p2 (running products of the betas).

    m' = b1*m + (1-b1)*g; v' = b2*v + (1-b2)*g^2; c_i = 1 - p_i'; r = sqrt(v'/c2);
    theta' = theta - (rate/c1) * m'/(r + eps), as `torch.optim.Adam` (with coupled decay by default).

    betas: decays of m and v per step, 0 <= beta < 1. eps: >= 0; at eps = 0, r + eps is taken as 1 where it vanishes,
    so that coordinates without a gradient so far stay where they are. amsgrad: r is of the largest v so far (Reddi et al. 2018),
    kept in memory `largest`.

    The operations are torch's, in its order, so that float32 parameters get the bits that `torch.optim.Adam(foreach=False)` gives
    them. A test holds these operations to round a number alike wherever it stands, in a vectorised body or its tail.

    Tested by `torch.optim.Adam`, with every flag that changes its numbers.

    Raises RuleError for betas or eps out of range.
    """

    decay: Decay = "coupled"
    amsgrad: bool = False

    name: ClassVar[str] = "adam"
    _in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.amsgrad, bool):
            raise RuleError(f"`amsgrad`: expected true or false, got {self.amsgrad!r}; write one of them")

    def init(self, theta: Tensor) -> State:
        began = super().init(theta)
        return began._replace(memory=began.memory | {"largest": torch.zeros_like(theta)}) if self.amsgrad else began

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        _, denominator = self._root(memory, clock)
        return memory["m"] * -(rate / (1.0 - clock["p1"])) / denominator, memory, clock

    def _plain_step(
        self, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals, into: State | None
    ) -> tuple[State, tuple[Tensor, ...]]:
        """With the bits of `update`, in fewer vectors: what is new here is written in place, so that it has no derivative."""
        if gradient.shape != state.theta.shape:
            return super()._plain_step(state, gradient, rate, norm, signals, into)
        (b1, b2), (coupled, decoupled), clock = self.betas, self._decays, self._tick(state.clock)
        gradient = clip_gradient(self.clip, gradient, norm)
        if coupled:
            gradient = torch.add(gradient, state.theta, alpha=coupled)
        place = into or state.map(torch.empty_like)
        m = torch.lerp(state.memory["m"], gradient, 1.0 - b1, out=place.memory["m"])
        v = torch.mul(state.memory["v"], b2, out=place.memory["v"]).addcmul_(gradient, gradient, value=1.0 - b2)
        memory = {"m": m, "v": v}
        if self.amsgrad:
            memory["largest"] = torch.maximum(state.memory["largest"], v, out=place.memory["largest"])
        second, root = memory["largest" if self.amsgrad else "v"], (1.0 - clock["p2"]) ** 0.5
        denominator = torch.sqrt(second).div_(root).add_(self.eps) if self.eps else self._root(memory, clock)[1]
        theta = torch.mul(state.theta, 1.0 - rate * decoupled, out=place.theta)
        return State(theta.addcdiv_(m, denominator, value=-(rate / (1.0 - clock["p1"]))), memory, clock), ()

    def update_tangent(
        self, state: State, gradient: Tensor, rate: float, dstate: State, dgradient: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dD = -D^2 dv'/(2 c2 r), taken as 0 where r = 0, with D = 1/(r + eps)."""
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        b1, b2 = self.betas
        dm = b1 * dstate.memory["m"] + (1.0 - b1) * dgradient
        dv = b2 * dstate.memory["v"] + (2.0 * (1.0 - b2)) * (gradient * dgradient)
        along = {"m": dm, "v": dv}
        if self.amsgrad:
            along["largest"] = torch.where(self._grows(state, memory), dv, dstate.memory["largest"])
        r, denominator = self._root(memory, clock)
        slope = (along["largest"] if self.amsgrad else dv) / (2.0 * (1.0 - clock["p2"]) * r)
        dr = torch.where(r > 0, slope, torch.zeros_like(slope))
        ddelta = (-rate / (1.0 - clock["p1"])) * (dm / denominator - memory["m"] / denominator * (dr / denominator))
        return ddelta, along

    def update_pullback(
        self, state: State, gradient: Tensor, rate: float, costate: State
    ) -> tuple[dict[str, Tensor], Tensor]:
        """With D = 1/(r + eps): A = Lm - (rate/c1) D Ltheta, B = Lv + (rate/c1) m' D^2/(2 c2 r) Ltheta.

        Memory (b1 A, b2 B); gradient (1-b1) A + 2 (1-b2) g B. B's second term is taken as 0 where r = 0.
        """
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        b1, b2 = self.betas
        r, denominator = self._root(memory, clock)
        scaled = (rate / (1.0 - clock["p1"])) * (costate.theta / denominator)
        bend = scaled * (memory["m"] / denominator) / (2.0 * (1.0 - clock["p2"]) * r)
        a = costate.memory["m"] - scaled
        bend = torch.where(r > 0, bend, torch.zeros_like(bend))
        before, b = {}, costate.memory["v"]
        if self.amsgrad:
            largest, grows = costate.memory["largest"] + bend, self._grows(state, memory)
            before["largest"] = torch.where(grows, torch.zeros_like(largest), largest)
            bend = torch.where(grows, largest, torch.zeros_like(largest))
        b = b + bend
        sensitivity = (1.0 - b1) * a + (2.0 * (1.0 - b2)) * (gradient * b)
        return {"m": b1 * a, "v": b2 * b} | before, sensitivity

    def linear_momentum(self, state: State, rate: float) -> tuple[float, float]:
        """b1 and rate/(1 - p1'), for a momentum difference in units of the preconditioned gradient."""
        return self.betas[0], rate / (1.0 - self._tick(state.clock)["p1"])

    def _moments(self, state: State, gradient: Tensor) -> dict[str, Tensor]:
        memory = super()._moments(state, gradient)
        return memory | {"largest": torch.maximum(state.memory["largest"], memory["v"])} if self.amsgrad else memory

    def _grows(self, state: State, memory: dict[str, Tensor]) -> Tensor:
        """Where the largest v so far is the newest."""
        return memory["v"] > state.memory["largest"]

    def _root(self, memory: dict[str, Tensor], clock: dict[str, float]) -> tuple[Tensor, Tensor]:
        """The root of the second moment, and what is divided by."""
        r = torch.sqrt(memory["largest" if self.amsgrad else "v"]) / (1.0 - clock["p2"]) ** 0.5
        if self.eps == 0:
            return r, torch.where(r > 0, r, torch.ones_like(r))
        return r, r + self.eps


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled decay, as `torch.optim.AdamW` (whose weight_decay defaults to 0.01; here to 0)."""

    decay: Decay = "decoupled"

    name: ClassVar[str] = "adamw"
