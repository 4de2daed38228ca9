"""Rules with memory whose decays follow the learning rate, so that memory lasts as long in units of rate times steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..state import State
from .adam import AdamW
from .base import Decay, Rule, check_number, in_range
from .lion import Lion
from .moments import Moments, checked_pair
from .momentum import Momentum


@dataclass(frozen=True, kw_only=True)
class ClockMatched(Rule):
    """A rule with each decay beta replaced by beta^(rate/reference_rate) = exp(-kappa rate), kappa = -ln(beta)/reference_rate.

    Then 1 - beta is of the order of the rate, and the lifted state follows a differential equation as the rate goes to 0, so
    that what depends on the order of the data is of second order. At the reference rate the rule is the one that it is named
    after. A step with rate 0 changes nothing but the count of steps. Tested by that rule with the decays of each step written
    in by hand.

    reference_rate: at which the decays are as given, > 0.
    """

    reference_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = in_range(self.reference_rate, 0.0) and self.reference_rate != 0
        check_number("reference_rate", self.reference_rate, positive, "a number > 0")

    @abstractmethod
    def at(self, rate: float) -> Rule:
        """The rule with the decays of a step of that rate, > 0; without decay of parameters and clipping."""

    def matched(self, beta: float, rate: float) -> float:
        """The decay of a step."""
        return float(beta ** (rate / self.reference_rate))

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        if rate == 0:
            memory = {name: buffer.expand(gradient.shape) for name, buffer in state.memory.items()}
            return torch.zeros_like(gradient), memory, state.clock | {"step": state.clock["step"] + 1.0}
        return self.at(rate).update(state, gradient, rate)

    def update_tangent(
        self, state: State, gradient: Tensor, rate: float, dstate: State, dgradient: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if rate == 0:
            return torch.zeros_like(dgradient), dict(dstate.memory)
        return self.at(rate).update_tangent(state, gradient, rate, dstate, dgradient)

    def update_pullback(
        self, state: State, gradient: Tensor, rate: float, costate: State
    ) -> tuple[dict[str, Tensor], Tensor]:
        if rate == 0:
            return dict(costate.memory), torch.zeros_like(costate.theta)
        return self.at(rate).update_pullback(state, gradient, rate, costate)


@dataclass(frozen=True, kw_only=True)
class ClockMatchedMomentum(ClockMatched):
    """Momentum m' = beta m + (1-beta) g, theta' = theta - rate m', whose beta follows the rate, and tested as
    `ClockMatched` says.

    Only the averaging form can be matched: undamped heavy ball keeps a first-order dependence on the order.

    beta: decay of m per step at the reference rate, 0 < beta < 1.
    """

    beta: float = 0.9
    decay: Decay = "coupled"

    name: ClassVar[str] = "momentum_clock_matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, in_range(self.beta, 0.0, 1.0) and self.beta != 0, "a number with 0 < beta < 1")

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta)}, {"step": 0.0})

    def at(self, rate: float) -> Rule:
        return Momentum(kind="ema", beta=self.matched(self.beta, rate))


@dataclass(frozen=True, kw_only=True)
class ClockMatchedAdamW(ClockMatched, Moments):
    """AdamW whose betas, and with them the products of its bias correction, follow the rate, and tested as `ClockMatched` says.

    betas: decays of m and v per step at the reference rate, 0 < beta < 1.
    """

    decay: Decay = "decoupled"

    name: ClassVar[str] = "adamw_clock_matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self.betas)

    def at(self, rate: float) -> Rule:
        b1, b2 = self.betas
        return AdamW(betas=(self.matched(b1, rate), self.matched(b2, rate)), eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class ClockMatchedLion(ClockMatched):
    """Lion whose betas follow the rate, and tested as `ClockMatched` says.

    betas: of the step's direction and of the memory at the reference rate, 0 < beta < 1.
    """

    betas: tuple[float, float] = (0.9, 0.99)

    name: ClassVar[str] = "lion_clock_matched"
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", checked_pair("betas", self.betas))
        _require_positive(self.betas)

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta)}, {"step": 0.0})

    def at(self, rate: float) -> Rule:
        b1, b2 = self.betas
        return Lion(betas=(self.matched(b1, rate), self.matched(b2, rate)))


def _require_positive(betas: tuple[float, float]) -> None:
    for i, beta in enumerate(betas):
        check_number(f"betas[{i}]", beta, beta != 0, "a number with 0 < beta < 1")
