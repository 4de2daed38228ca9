"""The tables of pages/recorder.md, step-noise.md and steep-items.md are those of their records."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import recorder_overhead
import steep_items
import step_noise
from record import resumed


@pytest.mark.parametrize(
    ("module", "name", "page"),
    [
        (recorder_overhead, "recorder-overhead", "recorder.md"),
        (step_noise, "step-noise", "step-noise.md"),
        (steep_items, "steep-items", "steep-items.md"),
    ],
    ids=["recorder", "step noise", "steep items"],
)
def test_its_table_stands_on_the_page(module: ModuleType, name: str, page: str) -> None:
    text = (Path(module.__file__ or "").parent / "pages" / page).read_text(encoding="utf-8")
    assert module.table(resumed(name, ())[0]) in text
