"""The page's first words: one answer per question, in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from fut.report.entries import Tile
from fut.report.record import RunRecord
from fut.report.section import Section


@dataclass(frozen=True)
class Summary:
    """The section's data.

    Args:
        tiles: each with the name of the section that has more.
    """

    tiles: list[tuple[str, Tile]]


def gather(record: RunRecord) -> Summary:
    """What the sections of the page say in short, in their order."""
    return Summary([(section.name, tile) for section in record.sections for tile in section.tiles(record)])


SECTION = Section("short", "In short", "summary.html.j2", gather)
