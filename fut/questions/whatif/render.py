"""What another order changes, as text for people."""

from __future__ import annotations

from fut.display import format as present
from fut.display.scale import shown_unit
from fut.questions.whatif.result import Change, WhatIf

PERPLEXITY = ("perplexity", "change of perplexity")
"""Titles of columns."""


def text(answer: WhatIf) -> str:
    """What was changed, and a row per read-out."""
    edits = ", ".join(answer.edits)
    named = answer.start if len(answer.start) <= 60 else f"{answer.start[:60]}…"
    rows = _without_perplexity([_row(change) for change in answer.changes])
    header = ["read-out", *rows[0]]
    table = present.columns(
        [header, *([c.readout, *row.values()] for c, row in zip(answer.changes, rows, strict=True))]
    )
    notes = dict.fromkeys(f"{_by(c)}: {c.note}" for c in answer.changes)
    title = f"{named}, {edits}" if edits else named
    return "\n".join([title, "change: minus the reference order; negative is better for a loss", "", table, "", *notes])


def _without_perplexity(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows, without the columns of perplexity where none has any."""
    if any(row[PERPLEXITY[0]] != "–" for row in rows):
        return rows
    return [{title: cell for title, cell in row.items() if title not in PERPLEXITY} for row in rows]


def _row(change: Change) -> dict[str, str]:
    """A read-out's cells by their titles."""
    interval = "–" if change.delta_interval is None else "{:+.5f} … {:+.5f}".format(*change.delta_interval)
    interval = "exact" if change.source == "retrained" else interval
    row = {
        "unit": shown_unit(change.unit) or "–",
        "change": f"{change.delta:+.5f}",
        "90 % interval of change": interval,
        "value": f"{change.value:.5f}",
        "perplexity": present.number(change.perplexity, ".4f"),
        "change of perplexity": present.number(change.perplexity_delta, "+.4f"),
        "estimator": _by(change),
    }
    if change.truth is not None:
        row |= {
            "retrained change": f"{change.truth - change.reference:+.5f}",
            "estimate − retrained": f"{change.error:+.5f}",
        }
    return row


def _by(change: Change) -> str:
    return "retrained" if change.source == "retrained" else change.estimator
