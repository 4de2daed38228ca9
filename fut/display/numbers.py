"""Numbers as they are shown and written: perplexity, and values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def perplexity(loss: float) -> float:
    """exp(loss); infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def jsonable(value: Any) -> Any:
    """The same value with numbers that JSON lacks (NaN, infinities) as None."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def jsonable_fields(values: dict[str, Any]) -> dict[str, Any]:
    """`jsonable` of named values."""
    return {name: jsonable(value) for name, value in values.items()}


def from_fields(kind: type[T], content: Mapping[str, Any]) -> T:
    """A dataclass from what `flat_fields` made of it, and perhaps more; a field with a default may be missing.

    Args:
        kind: of the value.
        content: its fields by name, those of its parts beside them.
    """
    hints, values = get_type_hints(kind), dict[str, Any]()
    for name in (f.name for f in fields(kind)):  # type: ignore[arg-type]
        if is_dataclass(hints[name]):
            values[name] = from_fields(hints[name], content)
        elif name in content:
            values[name] = content[name]
    return kind(**values)


def flat_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name; those of a field that is a dataclass itself stand beside them, in its place."""
    flat: dict[str, Any] = {}
    for name, content in asdict(value).items():
        flat |= content if is_dataclass(getattr(value, name)) else {name: content}
    return flat
