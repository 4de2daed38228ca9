"""The tables of pages/chosen-orders.md are those of its records."""

from __future__ import annotations

from pathlib import Path

import chosen_orders

PAGE = (Path(chosen_orders.__file__).parent / "pages" / "chosen-orders.md").read_text(encoding="utf-8")


def test_its_tables_stand_on_the_page() -> None:
    rows = chosen_orders.recorded()
    assert chosen_orders.pooled(rows) in PAGE
    assert chosen_orders.biases(rows) in PAGE


def test_its_answer_is_that_of_the_tables() -> None:
    found = [row["classes"]["found by a search"]["under"] for row in chosen_orders.recorded()]
    held = {fit: sum(one[fit]["held"] for one in found) for fit in chosen_orders.FITS}
    assert f"it held {held['8 random']} of 24 orders" in PAGE
    assert held["16 chosen"] == 24
    for name in ("random", "named", "blocks", "found by a search", "found, worst", "swap", "move", "repeat", "replace"):
        judged = [row["classes"][name]["under"]["24 chosen"] for row in chosen_orders.recorded()]
        assert sum(one["held"] for one in judged) >= 0.905 * sum(one["of"] for one in judged), name
