"""Things by name: what there is of a kind, in order, other packages' included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """A thing with a name, and other names that it goes by."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what one of them is, in messages.
        group: the entry-point group by which other packages add their own; each entry point is one thing.
        own: this package's.
        error: raised for a name that nothing goes by.
    """

    def __init__(self, kind: str, group: str, own: Iterable[T], error: type[Exception]) -> None:
        self._kind, self._group, self._own, self._error = kind, group, list(own), error

    @cached_property
    def _all(self) -> dict[str, T]:
        return {t.name: t for t in [*self._own, *(point.load() for point in entry_points(group=self._group))]}

    def __iter__(self) -> Iterator[T]:
        return iter(self._all.values())

    def __contains__(self, name: object) -> bool:
        return any(name in (thing.name, *thing.aliases) for thing in self)

    def __getitem__(self, name: str) -> T:
        """The thing that goes by a name; the registry's error, listing the names, where none does."""
        for thing in self:
            if name in (thing.name, *thing.aliases):
                return thing
        raise self._error(f"{self._kind}: expected one of {', '.join(self.names)}, got `{name}`; correct the name")

    @property
    def names(self) -> list[str]:
        """The names, aliases left out, in order."""
        return list(self._all)

    def add(self, thing: T) -> None:
        """Add a thing, in place of one of the same name."""
        self._all[thing.name] = thing
