"""Numbers as they are shown and written: perplexity, and values that JSON can hold."""

from __future__ import annotations

import math
from typing import Any


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


def jsonable_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """`jsonable` of named values."""
    return {name: jsonable(value) for name, value in fields.items()}
