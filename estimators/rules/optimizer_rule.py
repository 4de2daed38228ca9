"""Any optimizer of torch as a rule that can be stepped: trained, retrained and replayed, not differentiated or cut."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import RuleError
from ..parameters import Coupling, ParameterLayout
from ..state import State
from .base import Rule
from .blockwise import Form
from .clipping import clip_gradient
from .rates import GroupRates
from .signals import Signals


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimizerRule(Rule):
    """One step of an optimizer object, whatever its class.

    The object is copied and serves as a function. Parameters, memory, gradient and rates are put in, its own `step` is called,
    and what came of it is taken out, run by run. Its decay is its own. Memory is what the object keeps as its state: for every
    key one vector, parameter after parameter.

    Such a rule has no derivative, and nothing is known of what its updates read. So it counts as not smooth and of coupling
    `global`: `retrain` and `replay-exact` take it, and `replay` with all coordinates.

    Args:
        optimizer: an object over the parameters, which stand in the order of the layout, or are named in `tensors`.
        tensors: names of its parameters in the order of its groups; empty for those of the layout.
        scales: factor of the step's learning rate for every parameter group; empty for 1.

    Raises:
        RuleError: for an optimizer that keeps other things than tensors and numbers, holds other tensors than the layout, or
            cannot be stepped without a closure.
    """

    optimizer: Optimizer = field(repr=False)
    tensors: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()

    name: ClassVar[str] = "optimizer"
    smooth: ClassVar[bool] = False
    coupling: ClassVar[Coupling] = "global"
    reads_theta: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay:
            raise RuleError(
                "the rule `optimizer`: expected the decay in the optimizer itself, got one beside it; remove it"
            )
        if self.scales and len(self.scales) != len(self.optimizer.param_groups):
            raise RuleError(
                f"the rule `optimizer`: expected a scale for each of {len(self.optimizer.param_groups)} parameter groups, got "
                f"{len(self.scales)}; give one for each"
            )

    def on(self, layout: ParameterLayout) -> Self:
        bound = super().on(layout)
        held = [tuple(p.shape) for p in bound._parameters(self.optimizer)]
        wanted = [layout.shapes[i] for i in bound._places()]
        if held != wanted:
            raise RuleError(
                f"the rule `optimizer`: expected tensors of shapes {wanted}, got {held}; pass the module's optimizer"
            )
        return bound

    def _places(self) -> list[int]:
        """Where the optimizer's parameters stand in the layout, in its own order."""
        names = self.tensors or self.parameters.names
        if strange := [name for name in names if name not in self.parameters.names]:
            raise RuleError(
                f"the rule `optimizer`: expected tensors of the layout, got `{strange[0]}`; correct `tensors`"
            )
        return [self.parameters.names.index(name) for name in names]

    @staticmethod
    def _parameters(optimizer: Optimizer) -> list[Tensor]:
        return [p for group in optimizer.param_groups for p in group["params"]]

    def _copied(self, theta: Tensor) -> Optimizer:
        """The optimizer on parameters of its own, without memory."""
        own = copy.deepcopy(self.optimizer)
        own.state.clear()
        parts = self.parameters.split(theta)
        for p, place in zip(self._parameters(own), self._places(), strict=True):
            p.data = parts[place].detach().clone()
            p.grad = None
        return own

    def init(self, theta: Tensor) -> State:
        """The state before the first step, with zeros in the memory that the optimizer will make in it."""
        self._fitting(theta.shape[-1])
        rows = theta.shape[:-1]
        memory = {
            key: torch.zeros(*rows, sum(count for count, _ in forms), dtype=theta.dtype, device=theta.device)
            for key, forms in self._forms.items()
        }
        return State(theta, memory, {"step": 0.0})

    @cached_property
    def _forms(self) -> dict[str, list[tuple[int, Any]]]:
        """What the optimizer keeps, by key: for each parameter how many numbers, and the value after a step from zero."""
        own = self._copied(torch.zeros(self.parameters.size, dtype=torch.float64))
        parameters = self._parameters(own)
        for p in parameters:
            p.grad = torch.zeros_like(p)
        try:
            own.step()
        except Exception as error:  # whatever the user's class raises
            raise RuleError(
                f"the rule `optimizer`: expected an optimizer whose step() needs nothing but gradients, got "
                f"{type(error).__name__} from {type(own).__name__}.step(): {error}; use another optimizer"
            ) from error
        states = [own.state[p] for p in parameters]
        keys = dict.fromkeys(key for state in states for key in state)
        return {key: [(_numbers(key, state.get(key)), state.get(key)) for state in states] for key in keys}

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        after, moved = self.step(state, gradient, rate)
        return moved, after.memory, after.clock

    def _in_pieces(
        self, form: Form, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals
    ) -> tuple[State, tuple[Tensor, ...]]:
        self._fitting(state.theta.shape[-1])
        gradient = clip_gradient(self.clip, gradient, norm)
        width = state.theta.shape[-1]
        fresh = not state.clock["step"]
        shape = state.theta.shape[:-1]
        kept = {} if fresh else {k: b.expand(*shape, b.shape[-1]) for k, b in state.memory.items()}
        stacks = {name: buffer.reshape(-1, buffer.shape[-1]) for name, buffer in kept.items()}
        given = gradient.expand(state.theta.shape).reshape(-1, width)
        rows = [
            self._row(theta, {name: stack[i] for name, stack in stacks.items()}, given[i], rate)
            for i, theta in enumerate(state.theta.reshape(-1, width))
        ]
        theta = torch.stack([row.theta for row in rows]).reshape(state.theta.shape)
        memory = {name: torch.stack([row.memory[name] for row in rows]).reshape(*shape, -1) for name in state.memory}
        return State(theta, memory, {"step": state.clock["step"] + 1.0}), (theta - state.theta,)

    def _row(self, theta: Tensor, memory: dict[str, Tensor], gradient: Tensor, rate: float) -> State:
        """One run's step. memory: empty before the first."""
        own = self._copied(theta)
        parts, parameters = self.parameters.split(gradient), self._parameters(own)
        for number, (p, place) in enumerate(zip(parameters, self._places(), strict=True)):
            p.grad = parts[place].clone()
            if memory:
                own.state[p] = {key: self._value(key, number, memory[key], p) for key in memory}
        rates = rate.groups if isinstance(rate, GroupRates) else {}
        for label, group in enumerate(own.param_groups):
            scale = self.scales[label] if self.scales else 1.0
            group["lr"] = scale * rates.get(str(group.get("name", label)), float(rate))
        with torch.enable_grad():
            own.step()
        moved = list(self.parameters.split(theta))
        for p, place in zip(parameters, self._places(), strict=True):
            moved[place] = p.detach()
        states = [own.state[p] for p in parameters]
        after = {key: torch.cat([_flat(state.get(key), theta) for state in states]) for key in self._forms}
        return State(self.parameters.join(moved), after, {})

    def _value(self, key: str, number: int, buffer: Tensor, parameter: Tensor) -> Any:
        """What the state of one parameter holds under a key."""
        forms = self._forms[key]
        first = sum(count for count, _ in forms[:number])
        count, like = forms[number]
        numbers = buffer[first : first + count]
        if isinstance(like, Tensor):
            return numbers.reshape(like.shape).to(like.dtype if like.shape != parameter.shape else parameter.dtype)
        return type(like)(numbers.item()) if count else like


def _numbers(key: str, value: object) -> int:
    """How many numbers a value of an optimizer's state holds; RuleError for what is no number."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, bool) or value is None:
        return 0
    if isinstance(value, int | float):
        return 1
    raise RuleError(
        f"the rule `optimizer`: expected tensors and numbers as memory, got {type(value).__name__} in `{key}`"
    )


def _flat(value: object, like: Tensor) -> Tensor:
    """A value of an optimizer's state as numbers [n] of the dtype of the parameters."""
    kept = isinstance(value, Tensor | int | float) and not isinstance(value, bool)
    return torch.as_tensor(value if kept else ()).reshape(-1).to(like)
