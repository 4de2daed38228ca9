"""The table of pages/surrogates.md is that of its record, and so are the figures of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import surrogates

ROOT = Path(surrogates.__file__).parent
PAGE = (ROOT / "pages" / "surrogates.md").read_text(encoding="utf-8")
ROWS = json.loads((ROOT / "records" / "surrogates.json").read_text(encoding="utf-8"))["results"]


def test_its_table_stands_on_the_page() -> None:
    assert surrogates.table(ROWS) in PAGE


def test_nothing_gains_more_than_it_says_and_the_learner_alone_is_in_its_range() -> None:
    cosine = [row for row in ROWS if row["schedule"] == "cosine"]
    readings = [row["readings"][str(count)] for row in ROWS for count in surrogates.COUNTS]
    gains = [of[name]["spearman"] - of["line"]["spearman"] for of in readings for name in ("parts", "residual")]
    assert max(gains) == pytest.approx(0.006, abs=0.0006)
    alone = [row["readings"][str(count)]["surrogate"]["spearman"] for row in cosine for count in surrogates.COUNTS]
    assert (round(min(alone), 2), round(max(alone), 2)) == (0.35, 0.77)
    assert len(cosine) == 4
