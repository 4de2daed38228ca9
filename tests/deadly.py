"""Work that ends the process that does it, in the middle, and engines that stand in for others: imported by workers too."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fut
from estimators.errors import DivergenceError
from fut.errors import FutWarning, UsageError
from fut.execution.engine import R, Site, U
from fut.execution.inline import Inline


def once(marker: Path) -> bool:
    """Whether this is the process that takes a marker away; never where there is none."""
    try:
        marker.unlink()
    except FileNotFoundError:
        return False
    return True


def end() -> None:
    """End this process as a lack of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class DeadlyLoss:
    """A squared error that ends the process that takes it for the `after`-th time, once, where there is a marker.

    marker: a file. owner: the process that is spared.
    """

    marker: Path
    owner: int
    after: int
    calls: int = 0

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        if os.getpid() != self.owner:
            self.calls += 1
            if self.calls > self.after and once(self.marker):
                end()
        return squared_error(module, x)


def squared_error(module: nn.Module, x: Tensor) -> Tensor:
    """The loss by itself."""
    found: Tensor = (module(x) - x).square().mean()
    return found


def small_data() -> fut.Dataset:
    """Five items, and four held out."""
    x = torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(1))
    return fut.Dataset([(row,) for row in x[:5]], [(row,) for row in x[5:]])


def small_net() -> nn.Module:
    """A network of 93 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5))


@dataclass(frozen=True)
class Room:
    """What units of work are given."""

    number: int


def squared(room: Room, unit: int) -> tuple[int, int, int]:
    """A number, and the process and the threads that it was computed by."""
    return room.number * unit * unit, os.getpid(), torch.get_num_threads()


def deadly(room: Room, unit: tuple[int, Path]) -> int:
    """A number; the first process that comes to it with a marker ends."""
    if once(unit[1]):
        end()
    return unit[0]


def always_deadly(room: Room, unit: int) -> int:
    """Nobody lives to say what it is."""
    end()
    return unit


def failing(room: Room, unit: str) -> str:
    """What kinds of ends a unit can have."""
    if unit == "diverges":
        raise DivergenceError("order 3: expected a finite loss, got nan")
    if unit == "unmeant":
        raise UsageError("expected more, got less; correct --orders")
    if unit == "odd":
        raise OddError("a", "b")
    warnings.warn("something is as it should not be", FutWarning, stacklevel=1)
    return unit


class OddError(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


class Beside(Inline):
    """Does units as another process would: on a site that was sent, units as they are sent, the last one first.

    twice: whether every unit is done twice, as where a worker ended once it had done it.
    """

    elsewhere = True

    def __init__(self, twice: bool = False) -> None:
        self.twice, self.done = twice, list[Any]()

    def workers(self, site: Site) -> int:
        return 2

    def each(self, site: Site, work: Callable[[Any, U], R], units: Sequence[U]) -> Iterator[tuple[int, R]]:
        opened = pickle.loads(pickle.dumps(site)).open()
        for place in reversed(range(len(units))):
            for _ in range(1 + self.twice):
                found = pickle.loads(pickle.dumps(work))(opened, pickle.loads(pickle.dumps(units[place])))
            self.done.append(units[place])
            yield place, found
