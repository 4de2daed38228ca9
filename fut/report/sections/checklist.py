"""What has been asked of the run and what is missing, with the command that would compute it."""

from __future__ import annotations

from fut.methods.lowrank.terms import has_low_rank
from fut.report.entries import ChecklistRow, command
from fut.report.section import RunRecord, Section


def gather(record: RunRecord) -> list[ChecklistRow]:
    """All that the sections of the page need, section by section."""
    return [need(record) for section in record.sections for need in section.needs]


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
