"""The report as a file: what it says of a run, what it says is missing, what it keeps in, and that it is the same twice."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept_answers import kept
from small import ASKED, Cli, MakeRun, small_config
from torch import nn

import fut
from estimators.orders.order import Order
from fut.config.schema import DataConfig
from fut.data.dataset import Dataset
from fut.display.scale import Scale, minus
from fut.report.board.tables import cards_of, make_board
from fut.report.board.texts import is_text
from fut.report.charts.svg import Axis
from fut.report.entries import Missing

HOSTILE = (
    '</script><script>window.hacked = 1</script><!-- <img src=x onerror="window.hacked=1"> &amp; \' {{ 7*7 }} ]]> é€ '
)


def embedded(path: Path, name: str = "board-data") -> dict[str, Any]:
    """What a script of the page reads."""
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found)


def words(path: Path) -> str:
    """The page's text, without its elements, its style and its scripts, white space as one space."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def shown(table: dict[str, Any], order: list[int]) -> float:
    """The sum that the page makes for an order of cards."""
    worth = np.frombuffer(base64.b64decode(table["worth"]), dtype="<f8").reshape(len(order), -1)
    return float(worth[np.arange(len(order)), order].sum())


def expanded(make_run: MakeRun, **sections: dict[str, Any]) -> fut.Run:
    """A shared run with the board's terms alone; its rate is no other test's, so that no other finds them there."""
    run = make_run(cached=False, schedule={"rate": 1.25e-3}, **sections)
    run.cache(["adjoint"])
    return run


@pytest.fixture(scope="module")
def asked_once(small_run: fut.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which everything has been asked that the page shows."""
    path = Path(shutil.copytree(small_run.path, tmp_path_factory.mktemp("asked") / "own", ignore=ASKED))
    run = fut.open(path, device="cpu")
    run.calibrate(6)
    run.calibrate(6, estimator="positions")
    run.calibrate(3, estimator="positions", edit="swap")
    run.verify(4, estimators=["taylor1", "adjoint", "positions"])
    run.search(evaluations=40, verify=3, finalists=2, heuristics=["reverse", "sort:loss"])
    run.cache(["reweighting"])
    run.lds(4, 0.2)
    return path


@pytest.fixture
def asked(asked_once: Path, tmp_path: Path) -> fut.Run:
    """A copy of it."""
    return fut.open(shutil.copytree(asked_once, tmp_path / "own"), device="cpu")


def test_everything_that_was_asked_is_on_the_page(asked: fut.Run) -> None:
    found = asked.report()
    assert found.path == asked.path / "report.html"
    assert found.nbytes == found.path.stat().st_size < 1_000_000
    said, text = words(found.path), found.path.read_text()
    assert f"{asked.context.parameters:,} parameters" in said
    assert f"{asked.reference_loss:.5f} nats/token" in said
    assert asked.context.manifest.identity["order"] in said
    assert torch.__version__ in said
    verified = json.loads((asked.path / "verification/orders-4-seed-0.json").read_text())
    for name, row in verified["estimators"].items():
        assert f"{row['mae']:.5f}" in said, name
    assert f"{100 * verified['estimators']['adjoint']['coverage']:.0f}" in said
    searched = json.loads(next((asked.path / "answers").glob("search-*.json")).read_text())
    change = minus(f"{searched['retrained_loss'] - searched['reference_loss']:+.5f}")
    assert change in said
    assert ",".join(map(str, searched["order"])) in said
    assert "subsets of 1 item (20 % of all)" in said
    assert " at 0x" not in text
    assert "None" not in said
    assert text.count("<svg") >= 8
    assert text.count("<circle") > 30
    assert "not calibrated here" not in said.split("90 % interval")[0]
    assert not any(command.split()[1] in ("verify", "calibrate") for command in found.missing.values())


def test_what_is_missing_is_said_with_its_command(make_run: MakeRun, tmp_path: Path) -> None:
    bare = make_run(cached=False, data={"seed": 5})
    found = bare.report(tmp_path / "bare.html")
    said = words(found.path)
    for command in ("cache {} --terms adjoint", "verify {} --orders 32", "search {} --budget 60", "calibrate {}"):
        assert f"fut {command.format(bare.path)}" in said
    assert "nan" not in said.lower().split()
    cached = make_run().report(tmp_path / "cached.html")
    assert "positions is not calibrated here" in words(cached.path)
    assert embedded(cached.path)["tables"][0]["fit"] is None
    assert "Estimates of any order" in found.missing
    assert "Estimates of any order" not in cached.missing


def test_the_same_state_gives_the_same_bytes(asked: fut.Run, tmp_path: Path) -> None:
    first = asked.report(tmp_path / "a.html")
    again = fut.open(asked.path, device="cpu").report(tmp_path / "b.html")
    assert first.path.read_bytes() == again.path.read_bytes()
    asked.retrain("swap:0,4")
    assert asked.report(tmp_path / "c.html").path.read_bytes() != first.path.read_bytes()


def test_it_needs_nothing_from_outside(asked: fut.Run) -> None:
    text = asked.report().path.read_text()
    assert re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"', text) == []
    assert not re.search(r"@import|url\((?!data:)|https?://", text)
    assert "default-src 'none'" in text


def hostile_run(path: Path) -> fut.Run:
    """A run whose text, and whose directory's name, try to break out of the page."""
    source = path / "text.txt"
    source.write_text(HOSTILE * 80)
    config = small_config(data={"text": str(source), "context": 60, "probe": 2})
    run = fut.train(path / "run<b>&\"'", config, device="cpu")
    run.cache(["adjoint"])
    return run


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = hostile_run(tmp_path)
    path = run.report(tmp_path / "page.html").path
    text, data = path.read_text(), embedded(path)
    own = {"window.hacked": 0, "<b>": 0, "onerror=": 0, "{{": 0}
    for piece in own:
        assert text.count(piece) == text.count(piece.replace("<", "&lt;")) * (piece != "<b>"), piece
    assert text.count("<script") == text.count("</script>") == len(re.findall(r"<script(?: type=| id=|>)", text))
    held = "".join("".join(t) for t in data["texts"].values())
    assert "<script>window.hacked = 1" in held
    assert "</script>" in held
    assert "é€" in held
    assert data["run"] == f"'{run.path}'".replace("\"'", "\"'\"'\"'")


def test_the_table_in_the_page_is_the_estimator(make_run: MakeRun, tmp_path: Path) -> None:
    for data in ({"items": 6}, {"items": 12, "per_step": 3, "batch": 1}, {"items": 4, "epochs": 2}):
        run = expanded(make_run, data=data)
        found = embedded(run.report(tmp_path / "page.html", samples=0).path)
        cards = [card["items"] for card in found["cards"]]
        assert [tuple(c) for c in cards] == list(run.reference.steps)
        draw = np.random.default_rng(3)
        orders = [draw.permutation(run.steps).tolist() for _ in range(6)]
        estimates = run.estimate([Order.of(cards[c] for c in o) for o in orders], "positions", known=False)
        for order, estimate in zip(orders, estimates, strict=True):
            assert shown(found["tables"][0], order) == pytest.approx(estimate.delta, rel=1e-9, abs=1e-15)


def test_a_step_of_several_items_is_one_card(make_run: MakeRun, tmp_path: Path) -> None:
    run = expanded(make_run, data={"items": 12, "per_step": 3, "batch": 1})
    path = run.report(tmp_path / "page.html").path
    assert "whose items stay together" in words(path)
    assert embedded(path)["cards"][1]["about"].startswith("items 3 to 5")
    assert not embedded(path)["single"]


def test_cards_of_an_order() -> None:
    reference = Order.of([[0, 1], [2, 3], [0, 1]])
    assert cards_of(Order.of([[3, 2], [1, 0], [0, 1]]), reference) == [1, 0, 2]
    for other in ([[0, 2], [1, 3], [0, 1]], [[0, 1], [0, 1], [0, 1]], [[0, 1], [2, 3]]):
        assert cards_of(Order.of(other), reference) is None
    weighed = Order.of([{"items": [0, 1], "weights": [1, 0.5]}, [2, 3], [0, 1]])
    assert cards_of(weighed, reference) is None


def test_a_board_has_room_for_so_many_cards(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = expanded(make_run, adjoint={"readouts": ["probe", "items"]})
    board = make_board(run.context)
    assert not isinstance(board, Missing)
    assert [t.readout for t in board.tables] == ["probe", *(f"item:{i}" for i in range(5))]
    monkeypatch.setattr("fut.report.board.tables.ROOM", 3 * 8 * 25)
    path = run.report(tmp_path / "page.html").path
    assert "no room for 3 more" in words(path)
    assert len(embedded(path)["tables"]) == 3
    monkeypatch.setattr("fut.report.board.tables.CARDS", 4)
    said = words(run.report(path).path)
    assert "the board has room for 4 cards, and this run has 5 steps" in said


def test_a_users_own_model_and_data(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(9, 4, 3, generator=draw)
    items = tuple((x[i], (x[i].sum(-1) > 0).long()) for i in range(9))
    module = nn.Sequential(nn.Linear(3, 2))
    run = fut.train(
        tmp_path / "mine",
        fut.load_config(data={"items": 6}, warmup={"steps": 0}),
        module=module,
        loss=lambda m, a, b: nn.functional.cross_entropy(m(a), b),
        data=Dataset(items[:6], items[6:]),
    )
    run.cache(["adjoint"])
    path = run.report().path
    assert "A model of 8 parameters (torch.nn.modules.container.Sequential)" in words(path)
    assert "tokens" not in words(path).split("What if")[0].replace("nats/token", "")
    data = embedded(path)
    assert data["texts"] == {}
    assert data["cards"][2]["excerpt"] == run.context.manifest.identity["data"]["items"][2][:12]


def test_what_counts_as_text() -> None:
    def item(text: bytes) -> tuple[torch.Tensor, ...]:
        return (torch.tensor(list(text)).reshape(1, -1),)

    config, draw = DataConfig(), np.random.default_rng(0)
    assert is_text([item("Ein Satz, “dit” é.\n\tEnd".encode())], config)
    assert not is_text([item(draw.integers(0, 256, 99, dtype=np.uint8).tobytes())], config)
    assert not is_text([item(b"text")], DataConfig(tokenizer="some:hook"))
    assert not is_text([item(b"text")], DataConfig(vocabulary=300))
    assert not is_text([(torch.rand(2, 3),)], config)
    assert not is_text([(torch.tensor([[1, 300]]),)], config)


def test_a_file_that_cannot_be_read_is_named_and_the_rest_shown(asked: fut.Run) -> None:
    answers = asked.path / "answers"
    (answers / "broken.json").write_text("{")
    (answers / "list.json").write_text("[1]")
    (answers / "earlier.json").write_text(json.dumps({"question": "search", "order": [1]}))
    (answers / "unknown.json").write_text(kept(asked, {"order": [1]}))
    (answers / "later.json").write_text(kept(asked, {"question": "of a later version"}))
    (answers / "partial.json").write_text(kept(asked, {"question": "search", "order": [1]}))
    (asked.path / "verification/other.json").write_text(kept(asked, {"x": 1}))
    said = words(asked.report().path)
    names = [f"answers/{name}" for name in ("broken", "list", "earlier", "unknown", "partial")]
    for name in (*names, "verification/other"):
        assert f"Left out: {name}.json" in said
    assert "answers/earlier.json : kept by another version; ask again" in said
    assert "answers/unknown.json : expected the kind of its question" in said
    assert "answers/partial.json : no answer that this version reads" in said
    assert "answers/later.json" not in said
    assert "The best order found" in said


def test_an_older_result_lacks_columns_and_is_shown(asked: fut.Run) -> None:
    file = asked.path / "verification/orders-4-seed-0.json"
    content = json.loads(file.read_text())
    for row in content["estimators"].values():
        del row["store_bytes"], row["coverage"]
    content["estimators"]["of-tomorrow"] = dict(content["estimators"]["adjoint"])
    content["estimated_losses"]["of-tomorrow"] = [None, *content["estimated_losses"]["adjoint"][1:]]
    file.write_text(json.dumps(content))
    said = words(asked.report().path)
    assert "of-tomorrow" in said
    assert "coverage of 90 % intervals" not in said.partition("What if items")[0]


def test_a_board_that_misleads_says_so(asked: fut.Run) -> None:
    assert "Do not trust" not in words(asked.report().path)
    file = asked.path / "verification/orders-4-seed-0.json"
    content = json.loads(file.read_text())
    content["estimators"]["positions"]["skill"] = -1234.5
    file.write_text(json.dumps(content))
    said = words(asked.report().path)
    assert "Do not trust the board on this run: on 4 retrained orders" in said
    assert "(skill −1,234.50)" in said
    assert "No estimates of further random orders are drawn" in said
    assert "No estimates of further" not in words(asked.report(estimator="adjoint", samples=3).path)


def test_the_command(own_run: Path, cli: Cli, tmp_path: Path) -> None:
    said = cli("report", own_run, "--out", tmp_path / "page.html", "--device", "cpu", "--json").json
    assert said["path"] == str(tmp_path / "page.html")
    assert said["bytes"] == (tmp_path / "page.html").stat().st_size
    assert said["missing"]["How good are the estimates?"] == f"fut verify {own_run} --orders 32"
    text = cli("report", own_run, "--device", "cpu")
    assert (own_run / "report.html").exists()
    assert "it needs no network" in text.out
    cli("report", own_run, "--out", tmp_path / "new" / "page.html", "--device", "cpu")
    assert (tmp_path / "new" / "page.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    refusals: list[tuple[list[Any], str]] = [
        (["--out", tmp_path], "expected a file to write, got the directory"),
        (["--out", tmp_path / "page.html" / "page.html"], "expected a place that can be written to"),
        (["--samples", -1], "expected --samples of 0 or more"),
        (["--estimator", "guess"], "estimator: expected one of"),
        (["--estimator", "retrain"], "expected an estimator that does not train"),
        (["--estimator", "reweighting"], "expected estimators of orders that move items"),
    ]
    for arguments, message in refusals:
        refused = cli("report", own_run, *arguments)
        assert (refused.status, message in refused.err) == (2, True), refused.err
    assert cli("report", tmp_path / "none").status == 1


def test_what_the_directory_alone_names_is_left_out_and_said(
    own_run: Path, make_run: MakeRun, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is of the other read-outs; where there are none, the board says what would show it."""
    hook = "report_hook:norm"
    (tmp_path / "report_hook.py").write_text(
        "def norm(module):\n    return sum((p**2).sum() for p in module.parameters())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    alone = Path(shutil.copytree(make_run(cached=False).path, tmp_path / "alone", ignore=ASKED))
    for run, names, shown in [(own_run, f"probe,{hook}", ["probe"]), (alone, hook, [])]:
        assert cli("cache", run, "--terms", "adjoint", "--readouts", names, "--device", "cpu").status == 0
        page = run / "report.html"
        assert cli("report", run, "--samples", 0, "--device", "cpu").status == 0
        assert f"fut report {run} --trust" in words(page)
        if shown:
            assert [table["readout"] for table in embedded(page)["tables"]] == shown
            assert f"Not shown: {hook} , code that the run directory alone names" in words(page)
        assert cli("report", run, "--samples", 0, "--device", "cpu", "--trust").status == 0
        assert [table["readout"] for table in embedded(page)["tables"]] == [*shown, hook]
        assert "--trust" not in words(page)


def test_random_orders_are_told_from_chosen_ones(asked: fut.Run) -> None:
    from fut.report.effects import gather_effects
    from fut.report.section import Sampling, read_record

    asked.retrain("random:99")
    asked.retrain("without:2")
    found = gather_effects(read_record(asked.context, Sampling(5, "positions")), "probe", 5)
    random = [t.value for t in found.trained if t.random]
    chosen = [t.value for t in found.trained if not t.random]
    drawn = {*asked.verify(4).true_losses, *asked.calibrate(6).truths}
    searched = json.loads(next((asked.path / "answers").glob("search-*.json")).read_text())
    assert set(random) == drawn | set(searched["random_losses"])
    assert asked.retrain("random:99").loss in chosen
    assert asked.retrain("without:2").loss not in chosen
    assert asked.reference_loss not in chosen
    assert found.retrained is not None
    assert found.retrained.sd == pytest.approx(np.std(random, ddof=1))
    assert found.estimated == [e.value for e in asked.estimate(_sampled(asked), "positions", known=False)]


def _sampled(run: fut.Run) -> list[Order]:
    from estimators.orders.order import random_orders
    from fut.report.effects import SEED

    return random_orders(run.reference, 5, SEED)


def test_scales_and_ticks() -> None:
    assert Scale.of([0.0031, -0.002], "nats/token").label == "10⁻³ nats/token"
    assert Scale.of([0.31], "probability").label == "probability"
    assert Scale.of([0.031], "probability").label == "10⁻³ probability"
    assert Scale.of([3.1], "nats/token").label == "nats/token"
    assert Scale.of([0.0], "").label == ""
    assert Scale.of([2e-7], "")(2e-7) == pytest.approx(0.2)
    axis = Axis.around([-2.0, 6.0], 10, 110)
    labels = [t.label for t in axis.ticks()]
    assert labels == ["−2", "0", "2", "4", "6"]
    assert [t.at for t in axis.ticks()][1] == pytest.approx(axis(0.0))
    assert Axis.around([1.0], 0, 10)(1.0) == 5.0
    assert minus("-0.00") == "0.00"
    assert minus("-0.01") == "−0.01"
