"""What a section of the page is. To add one: a file in `fut/report/sections/` with its `Section`, and a line in `SECTIONS`.

    @dataclass(frozen=True)
    class Longest:
        steps: int

    SECTION = Section(
        "length", "How long?", "length.html.j2", lambda record: Longest(record.run.steps), (has_terms,)
    )

Its template stands in `fut/report/templates/`, extends `section.html.j2` and has what `gather` gave as `data`. Where `gather`
gives a `Missing`, the page says so with the command that computes it, and the template is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fut.report.entries import ChecklistRow, Tile
from fut.report.missing import Missing, command
from fut.report.record import RunRecord

Need = Callable[[RunRecord], ChecklistRow]
"""What a section needs: looks at a run, and says whether it has that."""


def _no_tiles(record: RunRecord) -> Sequence[Tile]:
    """A section that has nothing to say in short."""
    return ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: of its element, to which links go.
        title: in the navigation.
        template: file that writes its data.
        gather: record of the run -> data for the template, or what is missing.
        needs: rows of the checklist, one for each thing that it needs.
        tiles: record of the run -> what it says among the page's first words.
        heading: above the section; by default its title. `{a_row}` stands for "a batch" or "an item".
    """

    name: str
    title: str
    template: str
    gather: Callable[[RunRecord], Any | Missing]
    needs: tuple[Need, ...] = ()
    tiles: Callable[[RunRecord], Sequence[Tile]] = _no_tiles
    heading: str = ""

    def headed(self, record: RunRecord) -> str:
        """The heading, with the run's own word for what an order moves."""
        return (self.heading or self.title).format(a_row=record.a_row)


def answered(question: str, kind: str, name: str, options: str) -> Need:
    """The need of a section that shows kept answers.

    Args:
        question: in words; `{a_row}` as in a heading.
        kind: of the answers.
        name: of the command that asks.
        options: of that command.
    """

    def need(record: RunRecord) -> ChecklistRow:
        count = record.count(kind)
        state = f"{count} answer{'s' if count > 1 else ''} kept" if count else "not computed yet"
        again = command(record.run.path, name, options)
        return ChecklistRow(question.format(a_row=record.a_row), bool(count), state, again)

    return need
