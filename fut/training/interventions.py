"""Interventions on one source of training memory, for branch-and-hold attribution (arXiv 2601.21624).

A source is what training carries from step to step: the optimizer's memory, the order of the data, the parameters themselves
(the path), the schedule. A treatment changes one of them at the branch and leaves the others as they are. To add a treatment: a
function and a line of the table of its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.rules.rates import GroupRates
from estimators.state import State
from fut.errors import UsageError

COUNTERS = {"m": ("p1",), "v": ("p2",)}
"""Which running products belong to which moment of Adam and its kin: they are reset with it, or bias correction is wrong."""


class Point(NamedTuple):
    """What a treatment of a state may read.

    state: before the step of the branch, of one run [D]. empty: the optimizer's memory and counters as they are before any step.
    donor: the state of another seed's run before the same step; None where the treatment needs none. origin: theta before the
    window [D]. draw: normal numbers [D], keyed by the seed.
    """

    state: State
    empty: State
    donor: State | None
    origin: Tensor
    draw: Callable[[], Tensor]


StateChange = Callable[[Point, Sequence[str]], State]
OrderChange = Callable[[Order, int, int, np.random.Generator, Sequence[str]], Order]
RateChange = Callable[[Callable[[int], float], int, int, Sequence[str]], Callable[[int], float]]


@dataclass(frozen=True)
class Treatment:
    """A change of one source.

    Args:
        change: what it does.
        form: how its arguments are written, after a colon; empty for none.
        help: what it does, in a line.
        least: arguments that it needs.
        most: arguments that it takes.
        donor: whether it reads another seed's run.
        clamps: whether it may be repeated before every step of the window.
        same_items: whether the items that are trained on stay the same.
    """

    change: Any
    form: str
    help: str
    least: int = 0
    most: int = 0
    donor: bool = False
    clamps: bool = False
    same_items: bool = True


# --- the optimizer's memory


def _buffers(state: State, wanted: Sequence[str]) -> list[str]:
    """Names of the buffers that are meant: all, or those of a name, of every group."""
    if not state.memory:
        raise UsageError("branch: expected a rule that keeps memory, got one without; choose another source")
    if not wanted:
        return list(state.memory)
    found = [name for name in state.memory if name.rpartition("/")[2] == wanted[0] or name == wanted[0]]
    if not found:
        raise UsageError(f"branch: expected a buffer of {', '.join(state.memory)}, got `{wanted[0]}`; name one of them")
    return found


def _counters(clock: Mapping[str, float], buffers: Sequence[str]) -> list[str]:
    """Counters that belong to the buffers: of every group, or of the one that a buffer is of."""
    found = []
    for name in buffers:
        group, slash, own = name.rpartition("/")
        found += [c for c in clock if c.startswith(group + slash) and c.rpartition("/")[2] in COUNTERS.get(own, ())]
    return found


def reset(point: Point, arguments: Sequence[str]) -> State:
    """Memory and counters as before the first step; of one buffer with the counters that belong to it."""
    if not arguments:
        _buffers(point.state, ())
        return point.state._replace(memory=_copies(point.empty.memory), clock=dict(point.empty.clock))
    state, buffers = reset_memory(point, arguments), _buffers(point.state, arguments)
    return state._replace(clock=state.clock | {c: point.empty.clock[c] for c in _counters(state.clock, buffers)})


def reset_memory(point: Point, arguments: Sequence[str]) -> State:
    """Memory as before the first step, counters as they are: the bias correction then expects memory that is not there."""
    buffers = _buffers(point.state, arguments)
    return _with(point.state, {name: point.empty.memory[name].clone() for name in buffers})


def scale(point: Point, arguments: Sequence[str]) -> State:
    """Memory times a number."""
    factor = number("scale", arguments[0])
    buffers = _buffers(point.state, arguments[1:])
    if factor < 0 and any(name.rpartition("/")[2] == "v" for name in buffers):
        raise UsageError(f"branch: expected a factor >= 0 for a second moment, got {factor:g}; name the buffer `m`")
    return _with(point.state, {name: point.state.memory[name] * factor for name in buffers})


def scale_preconditioner(point: Point, arguments: Sequence[str]) -> State:
    """Second moments times exp(2 a), so that the root of each is multiplied by exp(a)."""
    a = number("log-scale", arguments[0])
    return _with(
        point.state, {name: point.state.memory[name] * math.exp(2 * a) for name in _buffers(point.state, ["v"])}
    )


def swap_memory(point: Point, arguments: Sequence[str]) -> State:
    """The memory of another seed's run before the same step; the counters are equal."""
    if point.donor is None:
        raise UsageError("branch: expected at least 2 seeds for `swap`, which takes another seed's memory, got 1")
    buffers = _buffers(point.state, arguments)
    return _with(point.state, {name: point.donor.memory[name].clone() for name in buffers})


def _copies(memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in memory.items()}


def _with(state: State, changed: Mapping[str, Tensor]) -> State:
    return state._replace(memory={**state.memory, **changed})


# --- the path


def add_noise(point: Point, arguments: Sequence[str]) -> State:
    """Theta plus a random direction, of a length relative to how far it has moved since the start of the window."""
    size, moved = number("noise", arguments[0]), (point.state.theta - point.origin).norm()
    direction = point.draw()
    return point.state._replace(theta=point.state.theta + size * moved * direction / direction.norm())


def swap_theta(point: Point, arguments: Sequence[str]) -> State:
    """The parameters of another seed's run before the same step, with this run's optimizer memory."""
    if point.donor is None:
        raise UsageError("branch: expected at least 2 seeds for `swap`, which takes another seed's parameters, got 1")
    return point.state._replace(theta=point.donor.theta.clone())


# --- the order of the data


def exchange(order: Order, at: int, window: int, draw: np.random.Generator, arguments: Sequence[str]) -> Order:
    """Exchange two steps of the window, counted from the branch."""
    return order.swap(*(at + offset for offset in offsets("swap", arguments, window)))


def move(order: Order, at: int, window: int, draw: np.random.Generator, arguments: Sequence[str]) -> Order:
    """Move a step of the window to another place in it, both counted from the branch."""
    return order.move(*(at + offset for offset in offsets("move", arguments, window)))


def reverse(order: Order, at: int, window: int, draw: np.random.Generator, arguments: Sequence[str]) -> Order:
    """The steps of the window backwards."""
    return _rearranged(order, at, window, list(reversed(range(window))))


def permute(order: Order, at: int, window: int, draw: np.random.Generator, arguments: Sequence[str]) -> Order:
    """The steps of the window in a random order."""
    return _rearranged(order, at, window, draw.permutation(window).tolist())


def reshuffle(order: Order, at: int, window: int, draw: np.random.Generator, arguments: Sequence[str]) -> Order:
    """All steps after the branch in a random order, without replacement."""
    return _rearranged(order, at, len(order) - at, draw.permutation(len(order) - at).tolist())


def with_replacement(order: Order, at: int, window: int, draw: np.random.Generator, arguments: Sequence[str]) -> Order:
    """The steps of the window drawn from themselves with replacement: some come twice, about 37 % never."""
    return _rearranged(order, at, window, draw.integers(0, window, window).tolist())


def _rearranged(order: Order, at: int, window: int, places: Sequence[int]) -> Order:
    entries = list(order.entries)
    return Order.of_entries(entries[:at] + [entries[at + p] for p in places] + entries[at + window :])


# --- the schedule


def scale_rate(rate: Callable[[int], float], at: int, window: int, arguments: Sequence[str]) -> Callable[[int], float]:
    """The learning rate of the window's steps times a number."""
    factor = number("scale", arguments[0])
    if factor < 0:
        raise UsageError(f"branch: expected a factor >= 0 of the learning rate, got {factor:g}")
    return lambda step: _times(rate(step), factor) if at <= step < at + window else rate(step)


def _times(rate: float, factor: float) -> float:
    """A rate, and with it those of its groups, times a number."""
    if isinstance(rate, GroupRates):
        return GroupRates(rate * factor, {name: own * factor for name, own in rate.groups.items()})
    return rate * factor


def rewind(rate: Callable[[int], float], at: int, window: int, arguments: Sequence[str]) -> Callable[[int], float]:
    """In the window, the learning rates of as many steps earlier."""
    back = whole("rewind", arguments[0], at)
    return lambda step: rate(step - back if at <= step < at + window else step)


def unchanged(*given: Any) -> Any:
    """Nothing is changed: the difference must be exactly 0."""
    first = given[0]
    return first.state if isinstance(first, Point) else first


BUFFER = "[:BUFFER]"
OPTIMIZER = {
    "reset": Treatment(reset, BUFFER, "memory and its counters as before the first step", most=1, clamps=True),
    "reset-memory": Treatment(reset_memory, BUFFER, "memory alone, counters as they are", most=1, clamps=True),
    "scale": Treatment(scale, ":FACTOR[:BUFFER]", "memory times a number", 1, 2, clamps=True),
    "log-scale": Treatment(scale_preconditioner, ":A", "second moments times exp(2 A)", 1, 1, clamps=True),
    "swap": Treatment(swap_memory, BUFFER, "another seed's memory", most=1, donor=True),
}
ORDER = {
    "swap": Treatment(exchange, ":I:J", "exchange two steps of the window", 2, 2),
    "move": Treatment(move, ":I:J", "move a step within the window", 2, 2),
    "reverse": Treatment(reverse, "", "the window backwards"),
    "permute": Treatment(permute, "", "the window in a random order"),
    "reshuffle": Treatment(reshuffle, "", "all later steps in a random order"),
    "with-replacement": Treatment(with_replacement, "", "the window drawn with replacement", same_items=False),
}
PATH = {
    "noise": Treatment(add_noise, ":SIZE", "theta plus noise of a size relative to its movement", 1, 1),
    "swap": Treatment(swap_theta, "", "another seed's parameters, own memory", donor=True),
}
SCHEDULE = {
    "scale": Treatment(scale_rate, ":FACTOR", "learning rates of the window times a number", 1, 1),
    "rewind": Treatment(rewind, ":STEPS", "learning rates of as many steps earlier", 1, 1),
}
AVERAGES = {
    "reset": Treatment(None, "", "the average begins anew at the branch"),
    "decay": Treatment(None, ":BETA", "the average's decay from the branch on", 1, 1),
}
NOTHING = {"nothing": Treatment(unchanged, "", "nothing: a check, whose difference is exactly 0")}
SOURCES: Mapping[str, Mapping[str, Treatment]] = {
    source: table | NOTHING
    for source, table in {
        "optimizer": OPTIMIZER,
        "order": ORDER,
        "path": PATH,
        "schedule": SCHEDULE,
        "averages": AVERAGES,
    }.items()
}
"""Every source of memory with its treatments."""


def parse(source: str, written: str) -> tuple[Treatment, list[str]]:
    """A treatment and its arguments, as `scale:0.5`.

    Raises:
        UsageError: for no source, no treatment of it, or another number of arguments.
    """
    if source not in SOURCES:
        raise UsageError(f"branch: expected a source of {', '.join(SOURCES)}, got `{source}`; choose one")
    name, *arguments = written.split(":")
    table = SOURCES[source]
    if name not in table:
        raise UsageError(
            f"branch: expected a treatment of the source `{source}`: {', '.join(n + t.form for n, t in table.items())}; got "
            f"`{name}`; choose one"
        )
    found = table[name]
    if not found.least <= len(arguments) <= found.most:
        raise UsageError(f"branch: expected `{name}{found.form}`, got `{written}`; correct it")
    return found, arguments


def number(name: str, text: str) -> float:
    """A finite number of a treatment."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"branch: expected a finite number behind `{name}:`, got `{text}`; correct it")
    return value


def whole(name: str, text: str, largest: int) -> int:
    """A whole number from 0 to a bound."""
    if not text.isdecimal() or int(text) > largest:
        raise UsageError(
            f"branch: expected a whole number from 0 to {largest} behind `{name}:`, got `{text}`; correct it"
        )
    return int(text)


def offsets(name: str, arguments: Sequence[str], window: int) -> list[int]:
    """Steps of the window, counted from the branch."""
    return [whole(name, text, window - 1) for text in arguments]


def key_of(root: int, stream: str, seed: int) -> np.random.Generator:
    """Random numbers of a named stream: of the root seed, the stream's name and the seed's number alone."""
    return np.random.default_rng([root, *stream.encode(), seed])


def normal(generator: np.random.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers in the shape, type and place of a tensor."""
    return torch.from_numpy(generator.standard_normal(like.shape)).to(like)
