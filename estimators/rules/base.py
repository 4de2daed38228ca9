"""The update-rule interface: pure functions over a lifted state.

A rule maps (state, gradient, rate) to the next state; nothing is hidden on `self`, which holds only constants: those of its
formula, and the layout of the parameters that it updates. The trainer trains with the very function that the estimators replay.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from ..errors import LayoutError, RuleError
from ..parameters import Coordinates, Coupling, ParameterLayout
from ..shapes import Float
from ..state import State
from .blockwise import Form, in_blocks, width_of
from .clipping import clip_gradient, clip_tangent, global_norm
from .signals import NONE, SignalName, Signals, prepared, require_signals

Decay = Literal["decoupled", "coupled"]


def check_number(field: str, value: object, accepted: bool, expected: str) -> None:
    """Raise RuleError unless `value` is a finite number and `accepted`; `expected` says which numbers are."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and accepted):
        raise RuleError(f"`{field}`: expected {expected}, got {value!r}; correct it in the configuration")


def in_range(value: object, low: float, high: float = math.inf) -> bool:
    """Whether `value` is a number with low <= value < high; False for anything else, NaN included."""
    return isinstance(value, int | float) and low <= value < high


def check_choice(field: str, value: object, known: tuple[str, ...]) -> None:
    """Raise RuleError unless `value` is one of `known`."""
    if value not in known:
        raise RuleError(f"`{field}`: expected one of {', '.join(known)}, got {value!r}; choose a name from this list")


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """Constants shared by every rule.

    weight_decay: coefficient (1/step per unit rate for decoupled decay, added to the gradient for coupled decay).
    decay: `decoupled` shrinks theta by rate*weight_decay; `coupled` adds weight_decay*theta to the gradient (L2).
    clip: bound on the global norm of the gradient, before decay, as `torch.nn.utils.clip_grad_norm_`; None for none.
    layout: of the parameters that the rule updates, bound by `on` and `restrict`; no option of a configuration. A rule whose
        coupling is wider than `coordinate` needs one and reads it as `parameters`. With one, states of another length are
        refused, so that whoever cuts a state must cut the rule too.

    A rule is one file: `coupling`, `init` and `update`. `update` gives every row of a stack [n, D] what it gives that row alone,
    bit for bit. Clipping counts as no coupling: where coordinates are cut, the global norm is passed in.

    Raises RuleError for weight_decay < 0, clip <= 0 or an unknown decay.
    """

    weight_decay: float = 0.0
    decay: Decay = "decoupled"
    clip: float | None = None
    layout: ParameterLayout | None = field(default=None, repr=False)
    _partial: bool = field(default=False, repr=False, compare=False)

    name: ClassVar[str]
    smooth: ClassVar[bool] = True
    coupling: ClassVar[Coupling] = "coordinate"  # what of the gradient and the state `update` reads for one coordinate
    reads_theta: ClassVar[bool] = (
        False  # whether `update` looks at theta (a trust ratio does, decoupled decay does not)
    )
    signals: ClassVar[frozenset[SignalName]] = frozenset()  # what it needs of a step beside the mean gradient
    _in_place: ClassVar[bool] = False  # whether `_plain_step` may write the next state into the one that it reads

    def __post_init__(self) -> None:
        check_number("weight_decay", self.weight_decay, in_range(self.weight_decay, 0.0), "a number >= 0")
        check_choice("decay", self.decay, get_args(Decay))
        if self.clip is not None:
            positive = in_range(self.clip, 0.0) and self.clip != 0
            check_number("clip", self.clip, positive, "a number > 0, or None for no clipping")

    def on(self, layout: ParameterLayout) -> Self:
        """The same rule for the parameters of a layout."""
        return replace(self, layout=layout, _partial=False)

    def restrict(self, coordinates: Coordinates) -> Self:
        """The rule for some of the coordinates: of `state.restrict(coordinates)` it makes what it makes of the whole there.

        Args:
            coordinates: a slice, or numbers, ascending [k].

        Raises:
            RuleError: where coordinates that are updated together would be separated.
        """
        if self.layout is None:
            return replace(self, _partial=True) if self.coupling == "coordinate" else self.on(self.parameters)
        try:
            layout = self.layout.restrict(coordinates, self.coupling)
        except LayoutError as error:
            raise RuleError(f"the rule `{self.name}`: {error}") from error
        return replace(self.on(layout), _partial=self._partial or layout.size < self.layout.size)

    def blocks(self, size: int, width: int, multiple: int = 1) -> list[slice]:
        """Blocks of the rule's `size` coordinates that may be updated apart, as `ParameterLayout.blocks` has them."""
        return (self._fitting(size) or ParameterLayout.flat(size)).blocks(self.coupling, width, multiple)

    @property
    def parameters(self) -> ParameterLayout:
        """The layout of the parameters; RuleError for a rule without one."""
        if self.layout is None:
            raise RuleError(
                f"the rule `{self.name}` (coupling `{self.coupling}`): expected a layout of the parameters, which says what is "
                "updated together, got none; bind one: rule.on(objective.layout)"
            )
        return self.layout

    def buffers(self, layout: ParameterLayout) -> dict[str, int]:
        """The numbers in each memory buffer of one run, by name, read off `init` without computing anything."""
        empty = torch.empty(layout.size, device="meta")
        return {name: buffer.shape[-1] for name, buffer in self.on(layout).init(empty).memory.items()}

    def _fitting(self, size: int) -> ParameterLayout | None:
        """The layout of `size` coordinates; None where the rule may act on any. RuleError if it is bound to another number."""
        if self.layout is None and self.coupling == "coordinate":
            return None
        if size != self.parameters.size:
            raise RuleError(
                f"the rule `{self.name}`: expected all {self.parameters.size} coordinates of its layout, got {size}; take "
                "rule.restrict(coordinates) for a part of them"
            )
        return self.parameters

    @abstractmethod
    def init(self, theta: Tensor) -> State:
        """The lifted state before the first step: theta [..., D] and empty memory."""

    @abstractmethod
    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """Displacement of theta (without decoupled decay), new memory and new clock, for a clipped gradient."""

    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """`update` of a rule with `signals`, for those of a clipped gradient."""
        return self.update(state, gradient, rate)

    def needs(self, clock: dict[str, float]) -> frozenset[SignalName]:
        """Which of its `signals` the rule reads at a step; clock: of the state before the step."""
        return self.signals

    def step(
        self,
        state: State,
        gradient: Float[Tensor, "*n D"],
        rate: float,
        norm: Float[Tensor, "*n"] | None = None,
        signals: Signals = NONE,
    ) -> tuple[State, Float[Tensor, "*n D"]]:
        """One step: the next state and the displacement theta' - theta [..., D], before theta' is rounded.

        gradient: [..., D], the mean gradient of the step's items. rate: learning rate of the step.
        norm: [...], global norm of the gradient where `gradient` holds only some coordinates of it; computed if None.
        signals: what the rule `needs` beside it; RuleError where that is missing.
        """
        after, moved = self._in_pieces(Form(displaced=True), state, gradient, rate, norm, signals)
        return after, moved[0]

    def _in_pieces(
        self, form: Form, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals
    ) -> tuple[State, tuple[Tensor, ...]]:
        """A step in blocks, where that is quicker: the next state, and the displacement if it is asked for."""
        self._fitting(state.theta.shape[-1])
        require_signals(self.name, self.needs(state.clock), signals)
        if self.clip is not None and norm is None:
            norm = self._norm(gradient)
        if not (pieces := self._pieces(state)):
            into = state if form.owned and self._in_place else None
            return self._form(form)(state, gradient, rate, norm, signals, into)

        def one(rule: Rule, block: slice, into: State | None) -> tuple[State, tuple[Tensor, ...]]:
            own, part = state.restrict(block), signals.restrict(block)
            return rule._form(form)(own, gradient[..., block], rate, norm, part, into)

        return in_blocks(pieces, state.theta.shape[-1], one)

    def _form(self, form: Form) -> Callable[..., tuple[State, tuple[Tensor, ...]]]:
        return self._displaced_step if form.displaced else self._plain_step

    def _displaced_step(
        self, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals, into: State | None
    ) -> tuple[State, tuple[Tensor, ...]]:
        """`step` in one piece."""
        after, delta = self._whole_step(state, gradient, rate, norm, signals)
        decoupled = self._decays[1]
        return after, (delta - (rate * decoupled) * state.theta if decoupled else delta,)

    def _plain_step(
        self, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals, into: State | None
    ) -> tuple[State, tuple[Tensor, ...]]:
        """`next_state` in one piece; into: where it may be written."""
        return self._whole_step(state, gradient, rate, norm, signals)[0], ()

    def _whole_step(
        self, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals
    ) -> tuple[State, Tensor]:
        """The next state and what moves theta beside its decay, in torch's order: theta shrinks before it moves."""
        coupled, decoupled = self._decays
        signals = prepared(signals, self.clip, gradient, norm, coupled * state.theta if coupled else 0.0)
        gradient = clip_gradient(self.clip, gradient, norm)
        if coupled:
            gradient = torch.add(gradient, state.theta, alpha=coupled)
        delta, memory, clock = self.update_with(state, gradient, rate, signals)
        theta = state.theta * (1.0 - rate * decoupled) if decoupled else state.theta
        return State(theta + delta, memory, clock), delta

    def _norm(self, gradient: Tensor) -> Tensor:
        """The global norm [...] of a gradient [..., D] by which `clip` scales it."""
        known = self.layout is not None and self.layout.size == gradient.shape[-1] and not self._partial
        return global_norm(gradient, self.parameters.slices if known else ())

    def _pieces(self, state: State) -> list[tuple[slice, Rule]]:
        """Blocks in which a step is taken, each with the rule restricted to it; none for a step in one piece."""
        size, width = state.theta.shape[-1], self._width(state)
        if not width:
            return []
        if (size, width) not in self._known_pieces:
            self._known_pieces[size, width] = [(block, self.restrict(block)) for block in self.blocks(size, width)]
        return self._known_pieces[size, width]

    def _width(self, state: State) -> int:
        """The width of blocks in which a step is taken; 0 for a step in one piece."""
        cut = any(buffer.shape[-1] != state.theta.shape[-1] for buffer in state.memory.values())
        return 0 if cut or self.coupling != "coordinate" else width_of(state.theta)

    @cached_property
    def _known_pieces(self) -> dict[tuple[int, int], list[tuple[slice, Rule]]]:
        return {}

    @property
    def _decays(self) -> tuple[float, float]:
        """The decay that is added to the gradient, and that by which theta shrinks beside `update`."""
        coupled = self.decay == "coupled"
        return (self.weight_decay, 0.0) if coupled else (0.0, self.weight_decay)

    def tangent(self, state: State, gradient: Tensor, rate: float, dstate: State, dgradient: Tensor) -> State:
        """Directional derivative of `step`'s state along (dstate, dgradient); the clock does not vary.

        With clipping, of all coordinates. Clipping and decay are differentiated here, the rule proper in `update_tangent`.
        """
        self._require_whole(state.theta.shape[-1])
        dgradient = clip_tangent(self.clip, gradient, dgradient)
        gradient = clip_gradient(self.clip, gradient)
        coupled, decoupled = self._decays
        if coupled:
            gradient = gradient + coupled * state.theta
            dgradient = dgradient + coupled * dstate.theta
        ddelta, dmemory = self.update_tangent(state, gradient, rate, dstate, dgradient)
        if decoupled:
            ddelta = ddelta - (rate * decoupled) * dstate.theta
        return State(dstate.theta + ddelta, dmemory, state.clock)

    def update_tangent(
        self, state: State, gradient: Tensor, rate: float, dstate: State, dgradient: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Directional derivative of `update`'s displacement and memory along (dstate, dgradient).

        Here by `torch.func.jvp`; rules with square roots override it with a form that is finite where they vanish.
        """
        primals = (state.theta, gradient, *state.memory.values())
        tangents = (dstate.theta, dgradient, *(dstate.memory[k] for k in state.memory))
        rows = torch.broadcast_shapes(*(t.shape[:-1] for t in (*primals, *tangents)))
        at, along = (tuple(t.expand(*rows, t.shape[-1]) for t in part) for part in (primals, tangents))
        ddelta, *dbuffers = torch.func.jvp(lambda *given: self._flat(state, rate, *given), at, along)[1]
        return ddelta, dict(zip(state.memory, dbuffers, strict=True))

    def pullback(self, state: State, gradient: Tensor, rate: float, costate: State) -> tuple[State, Tensor]:
        """Adjoint of `tangent`: sensitivities to the state before the step and to its gradient, from those after it.

        costate: sensitivities of a read-out to theta and memory after the step, each [..., D]. Returns the same before
        the step, *without* what flows through the gradient's own dependence on theta (add H lambda for that), and
        lambda [..., D], the sensitivity to the step's raw gradient. With clipping, of all coordinates. RuleError for a rule
        that is not smooth.
        """
        self._require_smooth()
        self._require_whole(state.theta.shape[-1])
        clipped = clip_gradient(self.clip, gradient)
        coupled, decoupled = self._decays
        if coupled:
            clipped = clipped + coupled * state.theta
        memory, dgradient = self.update_pullback(state, clipped, rate, costate)
        theta = costate.theta
        if coupled or decoupled:
            theta = theta + (coupled * dgradient if coupled else -(rate * decoupled) * theta)
        if self.reads_theta:
            theta = theta + self._theta_pullback(state, clipped, rate, costate)
        return State(theta, memory, state.clock), clip_tangent(self.clip, gradient, dgradient)

    def _require_whole(self, size: int) -> None:
        """RuleError for a state of another size, and for the derivative of clipping where coordinates are missing."""
        self._fitting(size)
        if self.clip is not None and self._partial:
            raise RuleError(
                f"the rule `{self.name}`: expected all coordinates for the derivative of a clipped step, which varies with the "
                "norm of all, got a part of them; differentiate the rule that is not restricted, or set clip = None"
            )

    def _require_smooth(self) -> None:
        """RuleError for a rule without a derivative."""
        if not self.smooth:
            raise RuleError(
                f"the rule `{self.name}` has no derivative that says how it answers its gradient: expected a smooth rule for an "
                "adjoint pass; use the `replay` or `replay-exact` estimator, which never differentiates the rule, or retrain"
            )

    def update_pullback(
        self, state: State, gradient: Tensor, rate: float, costate: State
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Adjoint of `update_tangent`: sensitivities to the memory before the step and to the clipped gradient.

        Here by `torch.func.vjp`; rules with square roots override it. What `update` does with theta itself is for
        `_theta_pullback`.
        """
        theta, *primals = _in_rows(costate.theta, state, gradient)
        after = (costate.theta, *(costate.memory[k] for k in state.memory))
        pulled = torch.func.vjp(lambda *given: self._flat(state, rate, theta, *given), *primals)[1](after)
        return dict(zip(state.memory, pulled[1:], strict=True)), pulled[0]

    def _theta_pullback(self, state: State, gradient: Tensor, rate: float, costate: State) -> Tensor:
        """Sensitivity [..., D] to the theta that `update` looks at, for the clipped gradient; asked where `reads_theta`."""
        theta, *rest = _in_rows(costate.theta, state, gradient)
        after = (costate.theta, *(costate.memory[k] for k in state.memory))
        pulled: tuple[Tensor] = torch.func.vjp(lambda t: self._flat(state, rate, t, *rest), theta)[1](after)
        return pulled[0]

    def _flat(self, like: State, rate: float, theta: Tensor, gradient: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        """`update` from tensors to tensors: displacement and memory, in the order of the memory of `like`."""
        state = State(theta, dict(zip(like.memory, buffers, strict=True)), like.clock)
        delta, memory, _ = self.update(state, gradient, rate)
        return (delta, *(memory[k] for k in like.memory))

    def linear_momentum(self, state: State, rate: float) -> tuple[float, float]:
        """Decay per step of the rule's linear memory of the gradient, 0 without memory, and the factor rho by which a
        difference e in the new momentum moves theta: by -rho*e, preconditioner aside.

        state: the state before the step. Raises RuleError if the rule has no such memory, or no such factor.
        """
        raise RuleError(
            f"the rule `{self.name}` states no linear momentum: expected a rule with `linear_momentum()` for replayed "
            "moments; use moments='reference', or the `replay` estimator, which needs no such property"
        )

    def carry(self, state: State, rate: float, carried: Tensor, swapped: Tensor) -> tuple[Tensor, Tensor]:
        """Carry a momentum difference through one step, in parameter or (being linear) in sketch space.

        state: the state before the step. carried: [..., k], e, left by the earlier swaps; zero at the start.
        swapped: [..., k], difference of this step's displacement caused by its own gradient alone.
        Returns e' and the difference of the step's whole displacement, to be added to that of the parameters.

        e' = decay*e + swapped/rho, displacement rho*e' (e is minus the difference of momenta). Exact for gradients
        and a preconditioner that do not move.
        """
        if not rate > 0:
            raise RuleError(
                f"momentum cannot be carried through a step with rate {rate!r}: expected a rate > 0, from which the "
                "gradient's share of the memory is read; use a schedule that stays positive"
            )
        decay, rho = self.linear_momentum(state, rate)
        carried = decay * carried + swapped / rho
        return carried, rho * carried


def next_state(
    rule: Rule,
    state: State,
    gradient: Float[Tensor, "*n D"],
    rate: float,
    norm: Float[Tensor, "*n"] | None = None,
    signals: Signals = NONE,
    owned: bool = False,
) -> State:
    """The state of `rule.step`, bit for bit, in less time: without the displacement, and not to be differentiated by torch.

    owned: whether `state` is the caller's alone, so that it may be overwritten: no page of new memory is cleared then.
    """
    return rule._in_pieces(Form(owned=owned), state, gradient, rate, norm, signals)[0]


def _in_rows(like: Tensor, state: State, gradient: Tensor) -> list[Tensor]:
    """theta, a gradient and the memory, each stacked as `like` is."""
    return [t.expand(*like.shape[:-1], t.shape[-1]) for t in (state.theta, gradient, *state.memory.values())]
