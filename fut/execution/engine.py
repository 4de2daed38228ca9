"""What does independent units of work: this process, one after the other, or others, side by side.

A *site* is what the work needs and how it is opened: a run directory, say. Whoever does the work opens it once, and keeps it. A
unit is done wholly or not at all, and leaves the same bytes wherever it is done; what it returns travels, and is small.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

U = TypeVar("U")
R = TypeVar("R")


@dataclass(frozen=True)
class Site:
    """What units of work need.

    Args:
        key: tells it from others.
        open: makes it; called once by each process that does units of it, to which it travels with all that it holds.
        device: `cpu` or `cuda`, where the work computes.
        threads: of torch, that every process computes with: sums depend on their number.
    """

    key: str
    open: Callable[[], Any]
    device: str
    threads: int


class Engine(ABC):
    """Does independent units of work. As a context manager it is closed at the end; else its processes end with this one."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    elsewhere: ClassVar[bool]
    """Whether other processes do the work."""

    @abstractmethod
    def workers(self, site: Site) -> int:
        """How many units of a site are done side by side, at most."""

    def sharing(self, site: Site) -> int:
        """How many workers there are that share this machine's memory with this process; 0 where that is not known."""
        return 0

    @abstractmethod
    def each(self, site: Site, work: Callable[[Any, U], R], units: Sequence[U]) -> Iterator[tuple[int, R]]:
        """Do every unit, in any order; a place among the units and what the work gave, as each is done.

        Args:
            site: what is opened.
            work: (what was opened, unit) -> what it gives; a function of a module, or a partial of one.
            units: what is done. A unit whose process ends is done again: it must not matter that it was begun before.

        Raises:
            EngineError: where a unit ends its process again and again, or there are no processes.
            Exception: that a unit raised, as it raised it; units that are under way then are given up.
        """

    @abstractmethod
    def close(self) -> None:
        """End what was started, if anything was; the next call starts it again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
