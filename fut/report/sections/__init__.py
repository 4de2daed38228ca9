"""The page's sections, in their order. To add one: a file here with its `SECTION`, and a line in `SECTIONS`."""

from __future__ import annotations

from fut.report.section import Section
from fut.report.sections import (
    about,
    accuracy,
    board_view,
    branch,
    checklist,
    compare,
    curriculum,
    domains,
    memorization,
    noise,
    order_effect,
    positions,
    snr,
    summary,
    trust,
    whatif,
)

SECTIONS: tuple[Section, ...] = (
    summary.SECTION,
    board_view.SECTION,
    curriculum.SECTION,
    order_effect.SECTION,
    noise.SECTION,
    trust.SECTION,
    accuracy.SECTION,
    positions.SECTION,
    memorization.SECTION,
    domains.SECTION,
    branch.SECTION,
    snr.SECTION,
    compare.SECTION,
    whatif.SECTION,
    checklist.SECTION,
    about.SECTION,
)
