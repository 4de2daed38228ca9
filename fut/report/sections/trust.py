"""How far orders' effects are from sums over steps, and what that says of estimates."""

from __future__ import annotations

from dataclasses import dataclass

from fut.display.scale import minus
from fut.questions.trust import render
from fut.questions.trust.result import Trust
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered

QUESTION = "Is the window smooth enough?"


@dataclass(frozen=True)
class TrustShown:
    """One answer.

    Args:
        answer: as it was kept.
        words: the verdict and what it rests on, a sentence each.
        header: of the table over the steps.
        rows: its rows.
    """

    answer: Trust
    words: list[str]
    header: list[str]
    rows: list[list[str]]


def gather(record: RunRecord) -> list[TrustShown] | Missing:
    """The answers, those of most trials first."""
    found = record.read("trust", lambda content: shown(Trust.from_dict(content)))
    missing = Missing("nobody has asked how smooth the window is", command(record.run.path, "trust"))
    return sorted(found, key=lambda one: -len(one.answer.trials)) or missing


def shown(answer: Trust) -> TrustShown:
    """What the page shows of an answer."""
    rows = [[minus(cell) for cell in row] for row in render.rows(answer)]
    return TrustShown(answer, [minus(line) for line in render.sentences(answer)], list(render.HEAD), rows)


SECTION = Section(
    "trust",
    "Trust",
    "trust.html.j2",
    gather,
    (answered(QUESTION, "trust", "trust", ""),),
    heading=QUESTION,
)
