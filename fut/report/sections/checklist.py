"""What has been asked of the run and what is missing, with the command that would compute it."""

from __future__ import annotations

from dataclasses import dataclass

from fut.methods.lowrank.terms import has_low_rank
from fut.report.entries import ChecklistRow
from fut.report.missing import command
from fut.report.record import RunRecord
from fut.report.section import Section


@dataclass(frozen=True)
class Checklist:
    """The section's data.

    Args:
        rows: what the page's sections need, section by section.
        unreadable: files that hold no answer, and why.
    """

    rows: list[ChecklistRow]
    unreadable: dict[str, str]

    @property
    def missing(self) -> dict[str, str]:
        """What is not there, and the command that would compute it, by question."""
        return {row.question: row.command for row in self.rows if not row.done}


def gather(record: RunRecord) -> Checklist:
    """All that the sections of the page need."""
    return Checklist([need(record) for section in record.sections for need in section.needs], record.unreadable)


def has_endpoints(record: RunRecord) -> ChecklistRow:
    """Whether parameters after another order can be rebuilt."""
    path = record.run.path
    question, done = "Parameters after another order", has_low_rank(path)
    if done:
        again = command(path, "endpoint", "--order reverse --out reverse.safetensors")
        return ChecklistRow(question, True, "terms cached", again)
    return ChecklistRow(
        question, False, "only by `retrain` or `replay-exact`", command(path, "cache", "--terms lowrank")
    )


SECTION = Section(
    "checklist",
    "Done and missing",
    "checklist.html.j2",
    gather,
    (has_endpoints,),
    heading="What has been computed, and what is missing",
)
