"""What-if questions that were asked of the run, as the page lists them."""

from __future__ import annotations

from dataclasses import dataclass

from fut.display.format import amount
from fut.display.scale import minus
from fut.questions.whatif.result import Change, WhatIf
from fut.report.missing import Missing, command
from fut.report.record import RunRecord
from fut.report.section import Section, answered

MOST = 40
"""Changes listed at most."""
EDIT = "--swap 3,7"


@dataclass(frozen=True)
class ListedChange:
    """One order and one read-out: what was changed, and what that does; a dash where something is not known.

    Args:
        question: the order, in words.
        readout: by name.
        delta: difference from the reference order, with its unit.
        interval: of the difference.
        perplexity: difference in perplexity.
        truth: difference retrained.
        estimator: who answered.
    """

    question: str
    readout: str
    delta: str
    interval: str
    perplexity: str
    truth: str
    estimator: str


@dataclass(frozen=True)
class WhatIfs:
    """The section's data.

    Args:
        changes: those that are listed.
        more: how many further ones are kept.
    """

    changes: list[ListedChange]
    more: int


def gather(record: RunRecord) -> WhatIfs | Missing:
    """The questions in the order of their files."""
    shown = record.read("whatif", lambda content: listed(WhatIf.from_dict(content)))
    changes = [change for answer in shown for change in answer]
    if not changes:
        return Missing("no single order has been asked about", command(record.run.path, "whatif", EDIT))
    return WhatIfs(changes[:MOST], len(changes[MOST:]))


def listed(answer: WhatIf) -> list[ListedChange]:
    """A row per read-out."""
    return [_listed(answer.title().removeprefix("What if: "), change) for change in answer.changes]


def _listed(question: str, change: Change) -> ListedChange:
    ends, truth, unit = change.delta_interval, change.truth, change.unit
    known = "–" if truth is None else _number(truth - change.reference, unit)
    exponent = change.perplexity_delta
    return ListedChange(
        question,
        change.readout,
        _number(change.delta, unit),
        "none" if ends is None else f"{_number(ends[0])} … {_number(ends[1])}",
        "–" if exponent is None else minus(f"{exponent:+.4f}"),
        known if change.source != "retrained" else "the truth is known",
        change.estimator,
    )


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
