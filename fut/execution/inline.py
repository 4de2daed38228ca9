"""The engine that is this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from fut.execution.engine import Engine, R, Site, U


class Inline(Engine):
    """One unit after the other, in this process."""

    name: ClassVar[str] = "inline"
    elsewhere: ClassVar[bool] = False

    def workers(self, site: Site) -> int:
        return 1

    def each(self, site: Site, work: Callable[[Any, U], R], units: Sequence[U]) -> Iterator[tuple[int, R]]:
        opened = site.open()
        for place, unit in enumerate(units):
            yield place, work(opened, unit)

    def close(self) -> None:
        """Nothing was started."""


INLINE = Inline()
