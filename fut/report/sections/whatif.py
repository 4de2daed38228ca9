"""What-if questions that were asked of the run, as the page lists them; read from what `fut whatif` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fut.display.format import amount
from fut.report.charts.svg import minus

MOST = 40
"""Questions listed at most."""


@dataclass(frozen=True)
class Query:
    """One order and one read-out: what was changed, and what that does; a dash where something is not known."""

    asked: str
    readout: str
    delta: str
    interval: str
    perplexity: str
    truth: str
    estimator: str


def queries(found: Mapping[str, Any]) -> list[Query]:
    """A row per read-out, from an answer's JSON; KeyError where it lacks a field."""
    start = str(found["start"])
    asked = ", ".join([start if len(start) <= 40 else f"{start[:40]}…", *map(str, found["edits"])])
    return [_query(asked, name, found["readouts"][name]) for name in found["asked"]]


def _query(asked: str, readout: str, change: Mapping[str, Any]) -> Query:
    unit, ends = change["unit"], change["delta_interval"]
    truth = change.get("true_delta")
    exponent = change["perplexity_delta"]
    return Query(
        asked,
        readout,
        _number(change["delta"], unit),
        "–" if ends is None else f"{_number(ends[0], '')} … {_number(ends[1], '')}",
        "–" if exponent is None else minus(f"{exponent:+.4f}"),
        _number(truth, unit) if change["source"] != "retrained" else "the truth is known",
        change["estimator"],
    )


def _number(value: float | None, unit: str) -> str:
    """A signed difference; five decimals, as everywhere on the page."""
    return "–" if value is None else minus(amount(value, unit, "+.5f") if unit else f"{value:+.5f}")
