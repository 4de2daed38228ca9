"""Results as text and pictures for people; the numbers come from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fut.display.numbers import perplexity
from fut.display.scale import NATS, shown_unit

COARSE = 0.03
"""Relative error of a Hessian-vector product from which exact ones are advised."""


def dumps(value: Any) -> str:
    """JSON as the command line prints it."""
    return json.dumps(value, indent=1, allow_nan=False)


def nbytes(count: float) -> str:
    """Bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def loss(value: float, unit: str = NATS) -> str:
    """A loss with its unit, and in nats/token with its perplexity."""
    return amount(value, unit) + (f" (perplexity {perplexity(value):.4f})" if unit == NATS else "")


def amount(value: float, unit: str, form: str = ".5f") -> str:
    """A read-out's value with its unit; a user's function has none, and any magnitude."""
    return f"{value:{form}} {shown_unit(unit)}".rstrip() if unit else format(value, form.replace(".5f", ".6g"))


def brief(seconds: float) -> str:
    """A time of any length, to two digits."""
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def duration(seconds: float) -> str:
    """A time in whole seconds, or in minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns: the first flush left, the others flush right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def number(value: float | None, form: str = ".3f") -> str:
    """A number; a dash for one that is not known or not finite."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def interval(ends: Sequence[float] | None) -> str:
    """Both ends of an interval; a dash where there is none."""
    return "–" if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"
