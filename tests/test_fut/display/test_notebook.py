"""Results in a notebook: tables that pandas and a browser read, pictures with units, and a class that joins."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

import fut
from fut.display.notebook import SHOWN, Displayable, cell
from fut.errors import ExtraError
from fut.estimation.accuracy import accuracy
from fut.estimation.calibration import Calibrated
from fut.estimation.results import Estimate, Estimates
from fut.questions.accuracy.leave_out import Datamodel
from fut.questions.accuracy.result import Verification
from fut.questions.whatif.result import Change, WhatIf

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _no_open_figures() -> Iterator[None]:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def verification() -> Verification:
    true = [2.0, 2.5, 2.2, 2.1]
    estimated = {"reference": [2.3] * 4, "adjoint": [2.1, 2.4, 2.2, math.nan]}
    rows = {n: accuracy(true, v, 2.3).as_dict() | {"seconds_per_order": 0.5} for n, v in estimated.items()}
    return Verification([[0, 1]] * 4, 2.3, true, estimated, 1.0, rows)


def results(run: fut.Run) -> dict[str, Displayable]:
    change = Change("probe", "nats/token", 2.0, 2.3, (1.9, 2.1), "adjoint", "estimate", "calibrated", 2.05)
    accurate = replace(
        change, readout="accuracy", unit="probability", interval=None, truth=None, note="no interval: so"
    )
    return {
        "estimates": run.estimate(["reverse", "random:1"], "adjoint"),
        "estimate": run.estimate(["reverse"], "adjoint")[0],
        "calibration": run.calibrate(4),
        "verification": verification(),
        "memorization": run.memorize(groups=2),
        "domains": run.domains("loss:2", places=3),
        "datamodel": Datamodel(**vars(verification()), subsets=[[0], [1], [2], [3]], share=0.25, seed=0),
        "whatif": WhatIf("identity", ["swap:0,1"], [1, 0], "00ff", [change, accurate]),
        "whatif, one unit": WhatIf("identity", [], [0, 1], "00ff", [change]),
    }


class Outline(HTMLParser):
    """Tags that were opened and never closed, cells of the body by row, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_every_result_is_a_table_and_a_picture(own_run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for name, result in results(fut.open(own_run, device="cpu")).items():
        frame, html, axes = result.to_pandas(), result._repr_html_(), result.plot()
        assert isinstance(frame, pandas.DataFrame), name
        assert len(frame) == len(result.rows()) > 0, name
        assert set(frame.columns) == {key for row in result.rows() for key in row}, name
        assert set(frame.attrs["units"]) <= set(frame.columns), name
        outline = Outline(html)
        assert outline.open == [], name
        assert len(outline.rows) == 1 + len(frame), name
        assert {len(row) for row in outline.rows} == {len(frame.columns)}, name
        assert result.title() in outline.texts, name
        assert axes.get_xlabel(), name
        assert axes.get_ylabel() or axes.get_yticklabels(), name
        assert axes.get_title() == result.title(), name
        axes.figure.canvas.draw()


def test_tables_hold_the_numbers(own_run: Path) -> None:
    pytest.importorskip("pandas")
    run = fut.open(own_run, device="cpu")
    before = run.estimate(["reverse", "random:1"])
    assert isinstance(before, list)
    assert before.to_pandas()["low"].isna().all()
    assert any("no interval" in text for text in Outline(before._repr_html_()).texts), (
        "an estimate says that it has none"
    )
    fit = run.calibrate(4)
    found = run.estimate(["reverse", "random:1"])
    frame = found.to_pandas()
    assert frame["delta"].tolist() == [e.delta for e in found]
    assert frame["low"].tolist() == [e.interval[0] for e in found if e.interval]
    assert frame.attrs["units"]["delta"] == "nats/token"
    assert "delta [nats/token]" in "".join(Outline(found._repr_html_()).texts)
    table = fit.to_pandas()
    assert ((table["low"] <= table["calibrated"]) & (table["calibrated"] <= table["high"])).all()
    assert np.allclose(table["calibrated"], fit.fit.offset + fit.fit.slope * table["estimate"])
    assert isinstance(fit, Calibrated)
    assert verification().to_pandas().set_index("estimator")["skill"]["reference"] == 0.0
    assert "lds" in Datamodel(**vars(verification()), subsets=[[0]], share=0.5, seed=0).to_pandas()


def test_pictures_show_what_they_are_given(small_run: fut.Run) -> None:
    from matplotlib import pyplot

    axes = pyplot.subplots()[1]
    assert verification().plot(axes) is axes
    marks: Any = axes.collections[0].get_offsets()
    assert marks[:3].tolist() == [pytest.approx(p) for p in [(-0.3, -0.2), (0.2, 0.1), (-0.1, -0.1)]]
    assert "retrained − reference [nats/token]" in axes.get_xlabel()
    found = small_run.estimate(["reverse", "random:1"], known=False)
    drawn = found.plot()
    line = next(c for c in drawn.containers if c.get_label() == "estimate")
    assert list(line[0].get_ydata()) == [e.delta for e in found]
    titled = pyplot.subplots()[1]
    titled.set_title("mine")
    assert found.plot(titled).get_title() == "mine"


def test_text_is_escaped_and_long_tables_are_cut() -> None:
    bad = "<script>alert(1)</script>"
    found = Estimates(
        Estimate(1.0, 0.1, None, bad, "0" * 64, note=f"no interval: {bad}", readout=bad, unit="<b>")
        for _ in range(SHOWN + 5)
    )
    outline = Outline(found._repr_html_())
    assert outline.tags == {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert len(outline.rows) == 1 + SHOWN
    assert "5 more rows; to_pandas() has them all" in outline.texts
    assert bad in "".join(outline.texts)


def test_cells_have_the_digits_that_matter() -> None:
    assert [cell(v) for v in (None, math.nan, math.inf, 0.0, 2.512345678, -0.000353687, 123456.0, 7, "a")] == [
        *("–", "–", "–", "0.00000", "2.51235", "-0.000354", "1.23e+05", "7", "a")
    ]


def test_without_pandas_the_message_names_the_extra(small_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = small_run.estimate(["reverse"])
    with pytest.raises(ExtraError, match=r"expected the package pandas, got none installed; run `pip install pandas`"):
        found.to_pandas()
    assert found._repr_html_()
    assert issubclass(ExtraError, ImportError)


def test_another_result_joins_with_three_methods() -> None:
    pytest.importorskip("pandas")

    @dataclass(frozen=True)
    class Found(Displayable):
        losses: list[float]

        def title(self) -> str:
            return f"{len(self.losses)} orders"

        def rows(self) -> list[dict[str, Any]]:
            return [{"place": i, "loss": loss} for i, loss in enumerate(self.losses)]

        def draw(self, axes: Any) -> None:
            axes.plot(self.losses)

    found = Found([1.0, 2.0])
    assert found.to_pandas()["loss"].tolist() == [1.0, 2.0]
    assert Outline(found._repr_html_()).rows == [["place", "loss"], ["0", "1.00000"], ["1", "2.00000"]]
    assert found.plot().get_title() == "2 orders"
    with pytest.raises(NotImplementedError):
        Displayable().rows()


def test_results_print_in_ten_lines(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    for name, result in results(run).items():
        lines = repr(result).splitlines()
        assert 1 <= len(lines) <= 10, name
        assert result.title() == lines[0], name
        assert max(map(len, lines)) < 240, name
    many = Estimates(list(run.estimate(["reverse"])) * 30)
    assert len(repr(many).splitlines()) == 10
    assert "… 24 more rows" in repr(many)
    for other in (run, run.plan(), run.reference, run.retrain("reverse")):
        assert len(repr(other).splitlines()) <= 10


def test_a_table_names_orders_as_they_were_asked_for(small_run: fut.Run, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text("[1, 0, 2, 3, 4]")
    asked: list[Any] = ["random:3", [4, 3, 2, 1, 0], small_run.order("swap:0,1"), file, np.arange(5)]
    found = small_run.estimate(asked)
    assert [row["order"] for row in found.rows()] == [
        "random:3",
        "4,3,2,1,0",
        "1,0,2,3,4",
        str(file)[:39] + "…",
        "0,1,2,3,4",
    ]
    assert "random:3" in repr(found)
    assert "random:3" in found._repr_html_()
    assert found[0].as_dict()["order"] == small_run.order("random:3").digest
    assert found[0].as_dict()["asked"] == "random:3"
    axes = found.plot()
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["random:3", "4,3,2,1,0"]
