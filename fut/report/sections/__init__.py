"""The page's sections, in their order. To add one: a file here with its `SECTION`, and a line in `SECTIONS`."""

from __future__ import annotations

from fut.report.section import Section
from fut.report.sections import (
    about,
    accuracy,
    board_view,
    checklist,
    curriculum,
    domains,
    memorization,
    order_effect,
    positions,
    summary,
    whatif,
)

SECTIONS: tuple[Section, ...] = (
    summary.SECTION,
    board_view.SECTION,
    curriculum.SECTION,
    order_effect.SECTION,
    accuracy.SECTION,
    positions.SECTION,
    memorization.SECTION,
    domains.SECTION,
    whatif.SECTION,
    checklist.SECTION,
    about.SECTION,
)
