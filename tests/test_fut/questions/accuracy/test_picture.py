"""The picture of a verification can be read where it is shown: on a page of 830 pixels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

from fut.estimation.accuracy import accuracy
from fut.questions.accuracy.render import picture
from fut.questions.accuracy.result import Verification

PAGE, LEAST = 830, 11
"""Pixels of the page's width, and of the smallest text."""


def verified(names: list[str]) -> Verification:
    true = [2.0, 2.5, 2.2, 2.1]
    estimated = {name: [2.1, 2.4, 2.2, 2.3] for name in ["reference", *names]}
    rows = {n: accuracy(true, v, 2.3).as_dict() | {"seconds_per_order": 0.5} for n, v in estimated.items()}
    return Verification([[0, 1]] * 4, 2.3, true, estimated, 1.0, rows)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_all_text_of_the_picture_is_legible_on_a_page(count: int) -> None:
    from matplotlib.text import Text

    names = ["taylor1", "taylor2", "replay", "replay-exact", "adjoint", "positions"][:count]
    figure: Any = picture(verified(names))
    figure.canvas.draw()
    width = figure.get_figwidth()
    assert width <= PAGE / 72, "shown no larger than it is"
    shown = min(1.0, PAGE / 72 / width) * 96 / 72 if count < 3 else PAGE / width / 72
    texts = [t for t in figure.findobj(Text) if t.get_text().strip()]
    assert [(t.get_text(), t.get_fontsize()) for t in texts if t.get_fontsize() * shown < LEAST] == []
    assert [a.get_title().split("\n")[0] for a in figure.axes] == names


def test_the_demos_picture_is_sharp_and_no_wider_than_three_panels() -> None:
    head = (ROOT / "docs" / "demo.png").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert width >= 2 * PAGE, "two pixels for each of a page on a fine screen"
    assert width / height < 2, "panels in rows: one row of six would make their text small"


def test_the_picture_is_written(tmp_path: Path) -> None:
    from fut.questions.accuracy.render import scatter

    assert scatter(verified(["adjoint"]), tmp_path / "deep" / "p.png").read_bytes()[:4] == b"\x89PNG"
