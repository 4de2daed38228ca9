"""Answers of other questions on the page, from files in the form in which those questions keep them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_answers import CLOSE, HOSTILE, domains, entry, memorization, page_with, whatif
from small import MakeRun

import fut
from fut.questions.domains.result import Domains
from fut.questions.memorization.result import Memorization
from fut.questions.whatif.result import WhatIf
from fut.report.charts.curves import whole
from fut.report.charts.svg import Axis
from fut.report.entries import ChecklistRow, Missing, Tile
from fut.report.page import make_page
from fut.report.section import RunRecord, Section
from fut.report.sections import SECTIONS
from fut.report.sections.domains import DomainOrders, domain_orders
from fut.report.sections.memorization import Remembered, remembered
from fut.report.sections.whatif import listed


def maps(row: str = "batch", **other: Any) -> Remembered:
    """The same as the page shows it."""
    return remembered(Memorization.from_dict(memorization() | other), 0, row)


def arranged(**other: Any) -> DomainOrders:
    """Domain orders as the page shows them."""
    return domain_orders(Domains.from_dict(domains() | other))


def words(text: str) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_all_kinds_stand_on_the_page(own_run: Path, tmp_path: Path) -> None:
    run = fut.open(own_run, device="cpu")
    text = page_with(run, tmp_path, memorization(), domains(), whatif(["swap:1,2", HOSTILE]))
    said = words(text)
    assert "Left out:" not in said
    assert "0.04000 nats/token on the batch itself" in said
    assert "A batch is remembered best when it stands at step 4; at the first step, 61 % of that." in said
    assert "0.970 [0.90, 0.99]" in said
    assert "the batch itself, batch left out" in said
    assert (
        "Least is estimated for code → web → books (−0.00400 nats/token against the reference order, retrained" in said
    )
    assert "web (2 items), books (1 item)" in said
    assert "late minus early −0.00300 nats/token (90 % interval −0.00440 … −0.00160)" in said
    assert "item 3 : late minus early +0.01000 nats/token, retrained +0.01100 nats/token" in said
    assert f"reverse, swap:1,2, {HOSTILE}" in said
    assert "−0.10000 nats/token −0.20000 … −0.05000 −0.7771 −0.09000 nats/token adjoint" in said
    assert "mine +0.40000 none – the truth is known" in said
    assert HOSTILE not in text
    assert "<img" not in text


def test_axes_say_what_is_drawn(own_run: Path, tmp_path: Path) -> None:
    """Titles of axes against what the module that computes a value says of it."""
    found = maps()
    (forgot, kept, general) = (chart for _, chart in found.curves)
    assert general.x_label == "cosine similarity of the data"
    assert general.y_label.startswith("decrease [")
    assert forgot.x_label == "steps before the last", "0 is the last step"
    assert (kept.x_label, kept.y_label) == ("step", "retained [%]")
    said = words(page_with(fut.open(own_run, device="cpu"), tmp_path, memorization()))
    assert "of tf-idf vectors of the tokens' n-grams" in said
    assert "gradients" not in said.partition("What is remembered of a batch?")[2].partition("Which domain")[0].replace(
        "It says nothing of gradients", ""
    )
    assert "The same on the command line:" in said


def test_items_of_steps_of_several_are_not_called_batches() -> None:
    found = maps("item")
    said = [
        found.one,
        found.several,
        found.kept,
        *(whose for whose, _ in found.helped),
        *(name for name, _ in found.maps),
    ]
    said += [row[0] for row in found.checked] + [title for title, _ in found.curves] + [m.about for _, m in found.maps]
    assert not [text for text in said if "batch" in text or "{" in text]
    assert {m.row for _, m in found.maps} == {"item"}
    assert found.kept.startswith("An item is remembered best when it stands at step 4")


def test_ticks_of_an_axis_differ() -> None:
    """Also where the values that an axis spans, or bars stand for, are close together."""
    labels = [tick.label for tick in maps(similarity=CLOSE).curves[-1][1].x]
    assert len(labels) == 5
    assert len(set(labels)) == 5
    near = Axis(2.0, 2.0 + 1e-11, 0.0, 300.0).ticks()
    assert len(near) > 1
    assert len({tick.label for tick in near}) == len(near)


@pytest.mark.parametrize("count", [3, 40])
def test_rows_of_a_map_are_named_by_their_items(count: int) -> None:
    items = tuple(3 * i + 1 for i in range(count))
    drawn = memorization(items=items) | {"effects": {k: [[0.0] * 5] * count for k in ("own", "near", "far", "probe")}}
    drawn["absence"] = {k: [0.01] * count for k in drawn["absence"]}
    drawn["places"] = [i % 5 for i in range(count)]
    (_, first), *_ = remembered(Memorization.from_dict(drawn), 0).maps
    shown = [int(tick.label) for tick in first.row_ticks]
    assert shown == [items[int(tick.at * count)] for tick in first.row_ticks]
    assert len(shown) == min(count, len(set(shown)))


@pytest.mark.parametrize("steps", [2, 5, 16, 32, 100])
def test_steps_have_ticks_at_whole_numbers(steps: int) -> None:
    labels = [tick.label for tick in whole(Axis(0.0, steps - 1.0, 50.0, 330.0))]
    assert 2 <= len(labels) <= 9
    assert all(label.isdecimal() for label in labels)


def test_heatmaps_hold_their_values(own_run: Path, tmp_path: Path) -> None:
    import base64

    answer = memorization()
    answer["effects"]["own"][1][2] = None
    text = page_with(fut.open(own_run, device="cpu"), tmp_path, answer)
    (held,) = re.findall(r'<script type="application/json" id="map-0-own">(.*?)</script>', text, re.DOTALL)
    held = json.loads(held)
    values = np.frombuffer(base64.b64decode(held["values"]), dtype="<f4").reshape(held["shape"])
    expected = np.array(answer["effects"]["own"], dtype=float)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert np.isnan(values[1, 2])
    assert held["names"] == [0, 2, 3]


def test_several_answers_of_a_kind(own_run: Path, tmp_path: Path) -> None:
    run = fut.open(own_run, device="cpu")
    said = words(page_with(run, tmp_path, memorization(), memorization(), domains(), domains()))
    assert "1 more set of maps" in said
    assert "1 more answer about domains" in said
    text = (tmp_path / "page.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)


def test_answers_of_few_words() -> None:
    """Where a question left something open, the page says so and does not fail."""
    found = maps(checked={}, absence={k: [-0.01] * 3 for k in ("own", "near", "far", "probe")})
    assert found.checked == []
    assert len(found.curves) == 2
    assert found.kept == "On average nothing of a batch is remembered at the end."
    none = arranged(orders=[], placements=[], checked=None)
    assert none.orders is None
    assert none.headline == "No order of the domains was asked for."
    one = arranged(orders=[entry("a>b", 0.1)])
    assert one.headline == "Estimated for a → b (+0.10000 nats/token against the reference order)."
    many = arranged(orders=[entry(f"{i}>x", 0.001 * i) for i in range(30)])
    assert (many.shown, len(many.answer.orders)) == (12, 30)
    assert [row[0] for row in listed(WhatIf.from_dict(whatif([])))] == ["reverse", "reverse"]


def test_searches_are_shown_best_first(own_run: Path, tmp_path: Path) -> None:
    run = fut.open(own_run, device="cpu")
    first = run.search(evaluations=12, verify=0)
    said = words(run.report(tmp_path / "page.html", samples=0).path.read_text())
    assert "estimated, not retrained yet" in said
    second = run.search(evaluations=20, verify=2, finalists=1, heuristics=["reverse"], seed=3)
    assert first.truths.retrained_loss is None
    assert second.truths.retrained_loss is not None
    text = run.report(tmp_path / "page.html", samples=0).path.read_text()
    said = words(text)
    assert said.index("retrained") < said.index("1 more search")
    assert f"{second.truths.retrained_loss:.5f} nats/token" in said.partition("1 more search")[0]
    assert "reverse" in said
    data = json.loads(re.findall(r'id="board-data">(.*?)</script>', text, re.DOTALL)[0])
    assert second.order in [a["order"] for a in data["arrangements"]]


def test_a_run_whose_items_are_split_by_a_found_order(make_run: MakeRun, tmp_path: Path) -> None:
    import shutil

    made = make_run(cached=False, data={"items": 12, "per_step": 3, "batch": 1})
    run = fut.open(shutil.copytree(made.path, tmp_path / "run"), device="cpu")
    run.cache(["adjoint"])
    found = run.search(evaluations=20, verify=0)
    text = run.report(tmp_path / "page.html", samples=0).path.read_text()
    assert all(len(step) == 3 for step in found.order)
    assert str(found.order) in words(text)
    assert 'class="to-board"' not in text


@pytest.fixture
def _a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template beside the page's own, as a file of another section would be."""
    import jinja2

    from fut.report import page

    own = jinja2.DictLoader(
        {"length.html.j2": '{% extends "section.html.j2" %}{% block body %}<p>{{ data }} steps</p>{% endblock %}'}
    )
    usual = page._environment().loader
    assert usual is not None
    environment = page._environment().overlay(loader=jinja2.ChoiceLoader([own, usual]))
    monkeypatch.setattr(page, "_environment", lambda: environment)


def length_section(missing: bool) -> Section:
    """One that nobody needs."""

    def gather(record: RunRecord) -> int | Missing:
        return Missing("no `ruler` is here", "fut measure RUN") if missing else record.run.steps

    def need(record: RunRecord) -> ChecklistRow:
        return ChecklistRow("How long is it?", not missing, "measured", "fut measure RUN")

    def tiles(record: RunRecord) -> list[Tile]:
        return [Tile("How long?", "steps long", str(record.run.steps))]

    return Section("length", "Length", "length.html.j2", gather, (need,), tiles, "How long is {a_row}?")


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.usefixtures("_a_template")
def test_a_section_is_one_object_in_one_list(own_run: Path, missing: bool) -> None:
    run = fut.open(own_run, device="cpu")
    page = make_page(run.context, 0, "positions", [*SECTIONS, length_section(missing)])
    text = page.html.decode()
    said = words(text)
    assert '<a href="#length">Length</a>' in text, "the navigation"
    assert 'id="length-title">How long is a batch?</h2>' in text, "its heading"
    assert f"How long? {run.steps} steps long more" in said, "the first words"
    assert ("✓ measured" in said) is not missing, "the checklist"
    assert (f"{run.steps} steps</p>" in text) is not missing, "its data"
    assert ("Not here: no ruler is here. Run fut measure RUN" in said) is missing
    assert ("<code>ruler</code>" in text) is missing
    assert page.missing.get("How long is it?") == ("fut measure RUN" if missing else None)
    assert "Length" not in words(make_page(run.context, 0, "positions").html.decode())


def test_headings_say_what_an_order_moves(own_run: Path, make_run: MakeRun, tmp_path: Path) -> None:
    several = make_run(cached=False, data={"items": 12, "per_step": 3, "batch": 1})
    for run, right, wrong in [
        (fut.open(own_run, device="cpu"), "a batch", "an item"),
        (several, "an item", "a batch"),
    ]:
        said = words(run.report(tmp_path / "page.html", samples=0).path.read_text())
        assert f"What is remembered of {right}?" in said
        assert f"What is remembered of {wrong}?" not in said


def test_notes_show_code_and_no_backticks(own_run: Path, tmp_path: Path) -> None:
    text = page_with(fut.open(own_run, device="cpu"), tmp_path, memorization(), domains(), whatif([]))
    assert "<code>fut memorize RUN --calibrate 16</code>" in text
    assert "`" not in words(text)


def test_differences_have_unit_and_sign(own_run: Path, tmp_path: Path) -> None:
    text = page_with(fut.open(own_run, device="cpu"), tmp_path, memorization(), domains(), whatif([]))
    labels = re.findall(r'<text class="label"[^>]*>([^<]*)</text>', text)
    changes = [label for label in labels if label.startswith("value − reference")]
    assert changes
    assert all("nats/token]" in label and label.endswith("negative is better") for label in changes), changes
    drawn = {"step", "items of others before it", "steps before the last", "batch", "cosine similarity of the data"}
    assert all("[" in label for label in labels if label not in drawn), labels


def test_an_answer_of_another_version_is_named(own_run: Path, tmp_path: Path) -> None:
    said = words(page_with(fut.open(own_run, device="cpu"), tmp_path, memorization() | {"schema": 99}))
    assert "Left out: answers/memorization-0.json : kept by another version; ask again" in said
