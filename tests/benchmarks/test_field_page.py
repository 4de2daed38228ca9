"""Every table of pages/field.md is what its records have, and so are the figures of its text."""

from __future__ import annotations

import re
from pathlib import Path

import field_table
import pytest

PAGE = (Path(field_table.__file__).parent / "pages" / "field.md").read_text(encoding="utf-8")
ROWS = [row for name in field_table.NAMES for row in field_table.loaded(name)]
TABLES = field_table.tables(ROWS)


@pytest.mark.parametrize("title", list(TABLES))
def test_a_table_stands_on_the_page(title: str) -> None:
    assert "\n".join(TABLES[title]) in PAGE


def test_no_line_of_a_table_is_of_no_record() -> None:
    known = {line for lines in TABLES.values() for line in lines}
    assert [line for line in PAGE.splitlines() if line.startswith("|") and line not in known] == []


def test_ranges_in_the_text_are_those_of_the_records() -> None:
    text = " ".join(line for line in PAGE.splitlines() if not line.startswith("|"))
    stated = re.findall(r"[−+]?\d\.\d\d to [−+]?\d\.\d\d", text)
    texts = [[row for row in ROWS if row["text"] == text] for text in field_table.TEXTS.values()]
    known = {
        field_table.span(rows, part, name, key, shown)
        for rows in (ROWS, *texts)
        for part in ("reference", "reference_told_nothing", "other")
        for name in [*ROWS[0][part], *(field_table.GRIDS.values() if part != "other" else ())]
        for key, shown in (("spearman", ".2f"), ("skill", "+.2f"))
        if key in field_table.found(ROWS[0], part, name)
    }
    assert len(stated) > 5
    assert not {*stated} - known


def test_the_best_of_a_grid_is_of_that_method_alone() -> None:
    part = {
        "TRAK": {"spearman": 0.9},
        "TRAK, one model, 128 numbers, ridge 1": {"spearman": 0.8},
        "TRAK, 128 numbers, ridge 1": {"spearman": 0.2},
        "TRAK, 512 numbers, ridge 0.1": {"spearman": 0.3},
        "EK-FAC, damping 1": {"spearman": 0.7},
    }
    assert field_table.best(part, "TRAK")["spearman"] == 0.3
    assert field_table.best(part, "EK-FAC")["spearman"] == 0.7
    row = {"reference": part}
    assert field_table.found(row, "reference", field_table.GRIDS["TRAK"])["spearman"] == 0.3
    assert field_table.found(row, "reference", "TRAK")["spearman"] == 0.9


def test_every_setting_has_every_method() -> None:
    for row in ROWS:
        for part in ("reference", "reference_told_nothing"):
            assert set(row[part]) == set(ROWS[0]["reference"])
            assert len(row["effects"]["reference"]) == len(row["effects"]["other"]) >= 48
        assert set(row["other"]) == set(field_table.TOLD)
