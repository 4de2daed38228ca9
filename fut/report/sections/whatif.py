"""What-if questions that were asked of the run, as the page lists them."""

from __future__ import annotations

from typing import Any

from fut.display.format import amount
from fut.display.scale import minus
from fut.questions.whatif.result import Change, WhatIf
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered

MOST = 40
"""Changes listed at most."""
EDIT = "--swap 3,7"


HEADER = ("order", "read-out", "difference", "90 % interval", "in perplexity", "retrained", "estimator")


def gather(record: RunRecord) -> dict[str, Any] | Missing:
    """The questions in the order of their files, as a table, and how many further ones are kept."""
    answers = record.read("whatif", lambda content: listed(WhatIf.from_dict(content)))
    rows = [row for answer in answers for row in answer]
    if not rows:
        return Missing("no single order has been asked about", command(record.run.path, "whatif", EDIT))
    return {"header": HEADER, "rows": rows[:MOST], "more": len(rows[MOST:])}


def listed(answer: WhatIf) -> list[list[str]]:
    """A row per read-out: what was changed, and what that does; a dash where something is not known."""
    return [_row(answer.title().removeprefix("What if: "), change) for change in answer.changes]


def _row(question: str, change: Change) -> list[str]:
    ends, truth, unit = change.delta_interval, change.truth, change.unit
    known = "–" if truth is None else _number(truth - change.reference, unit)
    exponent = change.perplexity_delta
    return [
        question,
        change.readout,
        _number(change.delta, unit),
        "none" if ends is None else f"{_number(ends[0])} … {_number(ends[1])}",
        "–" if exponent is None else minus(f"{exponent:+.4f}"),
        known if change.source != "retrained" else "the truth is known",
        change.estimator,
    ]


def _number(value: float, unit: str = "") -> str:
    """A signed difference; five decimals, as everywhere on the page."""
    return minus(amount(value, unit, "+.5f") if unit else f"{value:+.5f}")


SECTION = Section(
    "whatif",
    "What-if questions",
    "whatif.html.j2",
    gather,
    (answered("What if …?", "whatif", "whatif", EDIT),),
    heading="What-if questions asked",
)
