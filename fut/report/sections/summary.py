"""The page's first words: one answer per question, in a sentence."""

from __future__ import annotations

from fut.report.entries import Tile
from fut.report.section import RunRecord, Section


def gather(record: RunRecord) -> list[tuple[str, Tile]]:
    """What the sections of the page say in short, in their order, each with the name of the section that has more."""
    return [(section.name, tile) for section in record.sections for tile in section.tiles(record)]


SECTION = Section("short", "In short", "summary.html.j2", gather)
