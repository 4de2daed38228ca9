"""Which numbers of two frozen files differ, and by how much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf by its path; empty lists and objects are leaves."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    pairs = list(inner)
    if not pairs:
        yield path, value
    for key, part in pairs:
        yield from flat(part, f"{path}/{key}" if path else str(key))


@dataclass(frozen=True)
class Difference:
    """What two frozen files differ in, by path."""

    added: dict[str, Any]
    removed: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> Iterator[str]:
        """A line per difference, removed and added keys before changed values."""
        for title, part in (("removed", self.removed), ("added", self.added)):
            yield f"{title}: {len(part)}"
            yield from (f"  {path} = {value!r}" for path, value in part.items())
        yield f"changed: {len(self.changed)}"
        for path, (old, new) in self.changed.items():
            relative = f" (relative {apart(old, new):.3g})" if number(old) and number(new) else ""
            yield f"  {path}: {old!r} -> {new!r}{relative}"


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def apart(old: float, new: float) -> float:
    """Relative difference, of the greater one."""
    greater = max(abs(old), abs(new))
    return abs(old - new) / greater if greater else 0.0


def same(old: Any, new: Any, rtol: float, atol: float) -> bool:
    if number(old) and number(new):
        return old == new or abs(old - new) <= max(rtol * max(abs(old), abs(new)), atol)
    return type(old) is type(new) and old == new


def new_path(path: str, rename: dict[str, str]) -> str:
    """An old path as it is named now."""
    for pattern, replacement in rename.items():
        path = re.sub(pattern, replacement, path)
    return path


def compare(
    old: Any, new: Any, rtol: float = 0.0, atol: float = 0.0, rename: dict[str, str] | None = None
) -> Difference:
    """Differences of two frozen values. rename: regular expressions in old paths, and what stands there in the new ones."""
    before: dict[str, Any] = {}
    now = dict(flat(new))
    for old_path, value in flat(old):
        path = new_path(old_path, rename or {})
        if path in before:
            raise ValueError(f"rename: two old paths become `{path}`; make the pattern narrower")
        before[path] = value
    changed = {p: (v, now[p]) for p, v in before.items() if p in now and not same(v, now[p], rtol, atol)}
    added = {path: value for path, value in now.items() if path not in before}
    return Difference(added, {path: value for path, value in before.items() if path not in now}, changed)
