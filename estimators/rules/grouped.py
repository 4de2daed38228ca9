"""A rule for every group of tensors, as the parameter groups of `torch.optim` (or several optimizers at once)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self, get_args

import torch
from torch import Tensor

from ..errors import RuleError
from ..parameters import Coupling, ParameterLayout
from ..state import State
from .base import Rule, check_number, in_range
from .blockwise import Form, in_blocks
from .clipping import clip_gradient, clip_tangent
from .rates import GroupRates
from .sgd import SGD
from .signals import NONE, SignalName, Signals, prepared

PROBE = ParameterLayout(("weight",), ((5, 7),))
"""A matrix that tells memory by coordinate from other memory: no usual statistic of it has as many numbers."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some tensors of the parameters and the rule that updates them.

    Args:
        name: of the group.
        rule: with the constants of this group. Its `clip` bounds the norm of the group's own gradient.
        tensors: patterns of tensor names, as the shell has them ("*.bias"); none for all tensors that no other group names.
        scale: factor of the step's learning rate, >= 0; 0 leaves the tensors as they are.

    Raises:
        RuleError: for a group that is none.
    """

    name: str
    rule: Rule
    tensors: tuple[str, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise RuleError(f"group: expected a name that is not empty, got {self.name!r}; name every group")
        if isinstance(self.tensors, str) or not all(isinstance(pattern, str) for pattern in self.tensors):
            raise RuleError(
                f'group `{self.name}`: expected a list of patterns as tensors, got {self.tensors!r}; write ["*.bias"]'
            )
        object.__setattr__(self, "tensors", tuple(self.tensors))
        check_number(f"groups.{self.name}.scale", self.scale, in_range(self.scale, 0.0), "a number >= 0")

    @classmethod
    def parsed(cls, given: Mapping[str, Any], make: Callable[..., Rule]) -> Group:
        """A group as a configuration writes it.

        Args:
            given: `name`, `rule` (a name), `options` (of the rule), `tensors`, `scale`; or `frozen` instead of a rule.
            make: makes a rule of its name and options.
        """
        known = {"name", "rule", "options", "tensors", "scale", "frozen"}
        if not isinstance(given, Mapping) or (strange := sorted(set(given) - known)):
            got = f"`{strange[0]}`" if isinstance(given, Mapping) else f"{given!r}"
            raise RuleError(f"group: expected {', '.join(sorted(known))}; got {got}; correct it")
        tensors, name = given.get("tensors", ()), given.get("name", "")
        if given.get("frozen"):
            if odd := sorted(set(given) & {"rule", "options", "scale"}):
                raise RuleError(
                    f"group `{name}`: expected nothing but tensors where it is frozen, got `{odd[0]}`; remove it"
                )
            return cls(name=name, rule=SGD(), tensors=tensors, scale=0.0)
        rule = make(given.get("rule", "adamw"), **given.get("options", {}))
        return cls(name=name, rule=rule, tensors=tensors, scale=given.get("scale", 1.0))

    @cached_property
    def buffers(self) -> tuple[tuple[str, str], ...]:
        """The rule's buffers: (name in the state of all groups, the rule's own), with "group/" before those that are not a
        number for every coordinate."""
        numbers = self.rule.buffers(PROBE)
        return tuple((own if n == PROBE.size else f"{self.name}/{own}", own) for own, n in numbers.items())

    def clock(self, clock: Mapping[str, float]) -> dict[str, float]:
        """The rule's own counters of those of a whole state."""
        prefix = f"{self.name}/"
        return {k.removeprefix(prefix): count for k, count in clock.items() if k.startswith(prefix)}

    def rate(self, rate: float) -> float:
        """The group's learning rate in a step of the rate given."""
        own = rate.groups.get(self.name, float(rate)) if isinstance(rate, GroupRates) else rate
        return own * self.scale


@dataclass(frozen=True)
class _Part:
    """Tensors that one group's rule updates in one call.

    rule: bound to them. places: where they stand in theta.
    """

    group: Group
    rule: Rule
    places: tuple[slice, ...]

    def take(self, vector: Tensor) -> Tensor:
        """Their coordinates [..., k] of a vector [..., D]; a view where they are adjacent."""
        if len(self.places) == 1:
            return vector[..., self.places[0]]
        return torch.cat([vector[..., place] for place in self.places], dim=-1)

    def share(self, state: State) -> State:
        """What the rule knows of a whole state."""
        memory = {
            own: state.memory[name] if "/" in name else self.take(state.memory[name])
            for name, own in self.group.buffers
        }
        return State(self.take(state.theta), memory, self.group.clock(state.clock))


class Share(NamedTuple):
    """Coordinates that one rule updates by itself: where they stand in theta, that rule, its state, and its rate of a step's."""

    places: tuple[slice, ...]
    rule: Rule
    state: State
    rate: Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Grouped(Rule):
    """A rule per group of tensors, with constants, decay, clipping and learning rate of its own.

    Every tensor is in exactly one group. `clip` bounds the norm over all groups, as `clip_grad_norm_` of all parameters does;
    the clip of a group's rule bounds the group's own. A buffer of memory that has a number for every coordinate is one vector
    [D] for all groups together, zero where a group's rule keeps none; others are kept by group, as "group/buffer". So are the
    counters; `step` is the largest of the groups'.

    Tested against `torch.optim` with parameter groups, and against two optimizers at once.

    Args:
        groups: at least one, with names that differ.

    Raises:
        RuleError: for groups that are none; on binding a layout, for a tensor in no group or in two.
    """

    groups: tuple[Group, ...] = ()

    name: ClassVar[str] = "grouped"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "groups", tuple(self.groups))
        if not self.groups or not all(isinstance(group, Group) for group in self.groups):
            raise RuleError(f"`groups`: expected at least one group, got {list(self.groups)!r}; give `groups`")
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise RuleError(f"`groups`: expected names that differ, got {', '.join(names)}; rename one")
        if sum(not group.tensors for group in self.groups) > 1:
            raise RuleError(
                "`groups`: expected one group without `tensors` at most, which takes the rest, got two; name tensors"
            )
        if self.weight_decay:
            raise RuleError(
                f"`weight_decay`: expected it in the options of the groups, got {self.weight_decay} for all; move it there"
            )

    # A group's properties are those of its rule, the whole's those of the widest.

    @property
    def coupling(self) -> Coupling:  # type: ignore[override]
        """The widest of the groups'; `global` where a group's own norm is clipped."""
        known: tuple[Coupling, ...] = get_args(Coupling)
        if any(group.rule.clip is not None for group in self.groups):
            return known[-1]
        return max((group.rule.coupling for group in self.groups), key=known.index)

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        return all(group.rule.smooth for group in self.groups)

    @property
    def reads_theta(self) -> bool:  # type: ignore[override]
        return any(group.rule.reads_theta or group.rule.weight_decay for group in self.groups)

    @property
    def signals(self) -> frozenset[SignalName]:  # type: ignore[override]
        """Those of any group."""
        return frozenset().union(*(group.rule.signals for group in self.groups))

    def needs(self, clock: dict[str, float]) -> frozenset[SignalName]:
        return frozenset().union(*(part.rule.needs(part.group.clock(clock)) for part in self._parts))

    def on(self, layout: ParameterLayout) -> Self:
        """The rule for the parameters of a layout, each tensor labelled by its group."""
        labels = layout.groups if layout.groups else tuple(self._group_of(name) for name in layout.names)
        if strange := [label for label in labels if label not in self._by_name]:
            raise RuleError(
                f"the rule `grouped`: expected groups among {', '.join(self._by_name)}, got `{strange[0]}`; add it"
            )
        labelled = ParameterLayout(layout.names, layout.shapes, labels)
        return super().on(labelled)

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def _group_of(self, tensor: str) -> str:
        """The name of a tensor's group; RuleError for none or two."""
        matching = [g.name for g in self.groups if any(fnmatchcase(tensor, pattern) for pattern in g.tensors)]
        matching = matching or [group.name for group in self.groups if not group.tensors]
        if len(matching) != 1:
            got = f"two: {', '.join(matching[:2])}" if matching else "none"
            raise RuleError(
                f"`groups`: expected every tensor in exactly one group, got `{tensor}` in {got}; correct the patterns `tensors`"
            )
        return matching[0]

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        """What is updated in one call: adjacent tensors of a group where its rule allows, else the whole group."""
        parts: list[_Part] = []
        for group in self.groups:
            tensors = [i for i, label in enumerate(self.parameters.groups) if label == group.name]
            if not tensors:
                continue
            whole = self._part(group, tensors)
            by_coordinate = all("/" not in name for name, _ in group.buffers)
            if group.rule.coupling == "coordinate" and group.rule.clip is None and by_coordinate:
                parts += [self._part(group, run) for run in _runs(tensors)]
            else:
                parts.append(whole)
        return tuple(parts)

    def _part(self, group: Group, tensors: Sequence[int]) -> _Part:
        """Some tensors of a group."""
        layout = self.parameters
        rule = group.rule.on(
            ParameterLayout(tuple(layout.names[i] for i in tensors), tuple(layout.shapes[i] for i in tensors))
        )
        places = tuple(slice(layout.ends[run[0]], layout.ends[run[-1] + 1]) for run in _runs(tensors))
        return _Part(group, rule, places)

    def _whole(self, shares: Sequence[State]) -> State:
        """One state of the parts' own."""
        parts = self._parts
        theta = _joined([(part, share.theta) for part, share in zip(parts, shares, strict=True)])
        memory: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for group in self.groups for name, _ in group.buffers):
            held = [s.memory.get(dict(p.group.buffers).get(name, "")) for p, s in zip(parts, shares, strict=True)]
            own = [buffer for buffer in held if buffer is not None]
            if "/" in name and own:
                memory[name] = own[0]
            elif "/" not in name:
                filled = [torch.zeros_like(s.theta) if b is None else b for s, b in zip(shares, held, strict=True)]
                memory[name] = _joined(zip(parts, filled, strict=True))
        clock = {"step": max((share.clock["step"] for share in shares), default=0.0)}
        for part, share in zip(parts, shares, strict=True):
            clock |= {f"{part.group.name}/{counter}": count for counter, count in share.clock.items()}
        return State(theta, memory, clock)

    def shares(self, state: State) -> list[Share]:
        """The groups' own rules and states of a state of all; clipping over all groups is not in them."""
        return [Share(part.places, part.rule, part.share(state), part.group.rate) for part in self._parts]

    def _in_pieces(
        self, form: Form, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals
    ) -> tuple[State, tuple[Tensor, ...]]:
        """Blocks of the groups' own rules, where these are by coordinate."""
        if self.signals or not (pieces := self._apart(state)):
            return super()._in_pieces(form, state, gradient, rate, norm, signals)
        if self.clip is not None:
            gradient = clip_gradient(self.clip, gradient, self._norm(gradient) if norm is None else norm)
        clocks = {group.name: group.clock(state.clock) for group in self.groups}

        def one(group: Group, block: slice, into: State | None) -> tuple[State, tuple[Tensor, ...]]:
            own = {buffer: state.memory[name][..., block] for name, buffer in group.buffers}
            share = State(state.theta[..., block], own, clocks[group.name])
            place = into and into._replace(memory={buffer: into.memory[name] for name, buffer in group.buffers})
            after, more = group.rule._form(form)(share, gradient[..., block], group.rate(rate), None, NONE, place)
            kept = {name: after.memory[buffer] for name, buffer in group.buffers}
            memory = {name: kept[name] if name in kept else torch.zeros_like(after.theta) for name in state.memory}
            clock = {f"{group.name}/{counter}": count for counter, count in after.clock.items()}
            return State(after.theta, memory, clock | {"step": after.clock["step"]}), more

        return in_blocks(pieces, state.theta.shape[-1], one)

    def _apart(self, state: State) -> list[tuple[slice, Group]]:
        """Blocks of single groups, ascending; none for a step in one piece."""
        self._fitting(state.theta.shape[-1])
        width = self._width(state)
        if width and width not in self._known_apart:
            runs = sorted((place.start, place.stop, part.group) for part in self._parts for place in part.places)
            ends = [
                (first, min(first + width, stop), g) for start, stop, g in runs for first in range(start, stop, width)
            ]
            self._known_apart[width] = [(slice(first, last), group) for first, last, group in ends]
        return self._known_apart[width] if width else []

    @cached_property
    def _known_apart(self) -> dict[int, list[tuple[slice, Group]]]:
        return {}

    def init(self, theta: Tensor) -> State:
        self._fitting(theta.shape[-1])
        return self._whole([part.rule.init(part.take(theta)) for part in self._parts])

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        return self.update_with(state, gradient, rate, NONE)

    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        after, moved = self._steps(state, gradient, rate, signals)
        return moved, after.memory, after.clock

    def _steps(self, state: State, gradient: Tensor, rate: float, signals: Signals) -> tuple[State, Tensor]:
        """The groups' steps, for a clipped gradient: the state after them, and the displacement."""
        steps = [
            part.rule.step(
                part.share(state), part.take(gradient), part.group.rate(rate), signals=signals.each(part.take)
            )
            for part in self._parts
        ]
        after = self._whole([share for share, _ in steps])
        return after, _joined(zip(self._parts, (delta for _, delta in steps), strict=True))

    def _whole_step(
        self, state: State, gradient: Tensor, rate: float, norm: Tensor | None, signals: Signals
    ) -> tuple[State, Tensor]:
        clipped = clip_gradient(self.clip, gradient, norm)
        return self._steps(state, clipped, rate, prepared(signals, self.clip, gradient, norm, 0.0))

    def tangent(self, state: State, gradient: Tensor, rate: float, dstate: State, dgradient: Tensor) -> State:
        self._require_whole(state.theta.shape[-1])
        along, clipped = clip_tangent(self.clip, gradient, dgradient), clip_gradient(self.clip, gradient)
        shares = [
            part.rule.tangent(
                part.share(state), part.take(clipped), part.group.rate(rate), part.share(dstate), part.take(along)
            )
            for part in self._parts
        ]
        return self._whole(shares)._replace(clock=state.clock)

    def pullback(self, state: State, gradient: Tensor, rate: float, costate: State) -> tuple[State, Tensor]:
        self._require_smooth()
        self._require_whole(state.theta.shape[-1])
        clipped = clip_gradient(self.clip, gradient)
        pulled = [
            part.rule.pullback(part.share(state), part.take(clipped), part.group.rate(rate), part.share(costate))
            for part in self._parts
        ]
        before = self._whole([share for share, _ in pulled])._replace(clock=state.clock)
        along = _joined(zip(self._parts, (sensitivity for _, sensitivity in pulled), strict=True))
        return before, clip_tangent(self.clip, gradient, along)

    def linear_momentum(self, state: State, rate: float) -> tuple[float, float]:
        """The groups' one decay and rate, apart from their `scale`, which a difference in parameter units carries along;
        RuleError where they differ."""
        moving = [part for part in self._parts if part.group.scale]
        found = [
            (decay, rho / part.group.scale)
            for part in moving
            for decay, rho in [part.rule.linear_momentum(part.share(state), part.group.rate(rate))]
        ]
        alike = all(
            math.isclose(own, first, rel_tol=1e-12) for pair in found for own, first in zip(pair, found[0], strict=True)
        )
        if not found or not alike:
            raise RuleError(
                "the rule `grouped`: expected groups whose momentum decays and moves the parameters alike, got different rates "
                "or betas; use moments='reference', or the `replay` estimator, which needs no such property"
            )
        return found[0]


def _runs(tensors: Sequence[int]) -> list[list[int]]:
    """Numbers, ascending, in runs of adjacent ones."""
    runs: list[list[int]] = []
    for tensor in tensors:
        if runs and runs[-1][-1] == tensor - 1:
            runs[-1].append(tensor)
        else:
            runs.append([tensor])
    return runs


def _joined(pieces: Iterable[tuple[_Part, Tensor]]) -> Tensor:
    """The vector [..., D] of the parts' coordinates, each part's [..., k]."""
    placed: dict[int, Tensor] = {}
    for part, vector in pieces:
        sizes = [place.stop - place.start for place in part.places]
        placed |= dict(zip((p.start for p in part.places), vector.split(sizes, dim=-1), strict=True))
    if len(placed) == 1:  # as in most blocks of a step
        return next(iter(placed.values()))
    return torch.cat([placed[start] for start in sorted(placed)], dim=-1)
