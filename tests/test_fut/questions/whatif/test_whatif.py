"""What-if questions on a run: against estimates and retraining, composed, streamed in bounded memory, and refused."""

from __future__ import annotations

import io
import json
import math
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lines import MIXED, queries
from scipy.stats import t as student
from small import Cli, MakeRun, Said, whatifs

import fut
from estimators.errors import OrderError
from estimators.intervals import conformal_quantile
from estimators.orders.order import Order
from fut.errors import NotCachedError, UsageError
from fut.estimation.results import Estimate
from fut.questions.whatif.result import Change, WhatIf

CPU = ("--device", "cpu")
READOUTS = {"adjoint": {"readouts": ["probe", "item:3"]}}
EDITS = ["swap:3,1", "move:0,2", "sort:loss"]


def several(make_run: MakeRun) -> fut.Run:
    """A run swept for two read-outs, and nothing else."""
    run = make_run(cached=False, **READOUTS)
    run.cache(["adjoint"])
    return run


def test_changes_are_differences_from_the_reference() -> None:
    answers = [Estimate(value, 0.0, (1.5, 3.5), "table", "", note="known") for value in (2.0, 3.0)]
    found = [Change.of(answers[0], 1.0, truth=2.25), Change.of(answers[1], 1.0, "twice", 2.25)]
    assert [c.delta for c in found] == [1.0, 2.0]
    assert found[0].delta_interval == (0.5, 2.5)
    assert found[0].perplexity_delta == pytest.approx(math.exp(2.0) - math.e)
    assert [c.error for c in found] == [-0.25, 0.75]
    assert [c.note for c in found] == ["known", "known; twice"]
    assert Change.from_dict("probe", found[0].as_dict()) == found[0]
    lost = Change.of(Estimate(math.nan, math.nan, None, "table", ""), 1.0).as_dict()
    assert (lost["value"], lost["delta"], lost["perplexity"]) == (None, None, None)
    assert math.isnan(Change.from_dict("probe", lost).value)


def test_a_change_is_the_estimate_of_the_edited_order(make_run: MakeRun) -> None:
    run = several(make_run)
    order = run.orders.arranged(run.orders.difficulty("loss").scores)
    found = run.whatif("reverse", EDITS, ["probe", "item:3"], known=False)
    assert found.order == order.tolist()
    assert found.digest == order.digest
    for readout in ("probe", "item:3"):
        estimate = run.estimate([order], known=False, readout=readout)[0]
        assert found[readout].value == estimate.value
        assert found[readout].delta == pytest.approx(estimate.delta, abs=1e-15)
        assert found[readout].interval is None
        assert "fut calibrate" in found[readout].note
    assert found["item:3"].reference == run.context.readouts.at_reference(run.context.readouts.get("item:3"))
    with pytest.raises(KeyError, match="expected one of probe, item:3"):
        assert found["item:2"]
    kept = json.loads((run.path / "answers" / f"whatif-{order.digest[:16]}.json").read_text())
    assert kept["question"] == "whatif"
    assert WhatIf.from_dict(kept) == found


def test_nothing_changed_is_exactly_nothing(small_run: fut.Run) -> None:
    assert small_run.whatif()["probe"].delta == 0.0
    assert small_run.whatif(edits=["swap:1,3", ("swap", 1, 3)], known=False)["probe"].delta == 0.0


def test_verifying_puts_the_truth_beside(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    found = run.whatif(edits=["swap:0,4"], verify=True)["probe"]
    truth = run.retrain("swap:0,4").loss
    assert found.truth == truth
    assert found.source == "estimate", "the estimate stands beside the truth, though that is known now"
    assert found.error == pytest.approx(run.estimate(["swap:0,4"], known=False)[0].value - truth)
    known = run.whatif(edits=["swap:0,4"])["probe"]
    assert (known.source, known.value, known.truth) == ("retrained", truth, None)


def test_what_is_known_needs_no_estimator(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(cached=False, data={"seed": 11})
    run = fut.open(shutil.copytree(made.path, tmp_path / "run"), device="cpu")
    truth = run.retrain("swap:0,1").loss
    assert run.whatif(edits=["swap:0,1"])["probe"].value == truth
    with pytest.raises(NotCachedError, match="fut cache"):
        run.whatif(edits=["swap:0,2"])


def test_a_shorter_order_is_answered_by_an_estimator_that_can(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    found = run.whatif(edits=["drop:2"])["probe"]
    assert found.estimator == "replay-exact"
    assert "adjoint answers orders of exactly 5 steps, so replay-exact answered this one of 4" in found.note
    assert found.value == run.estimate(["drop:2"], "replay-exact", known=False)[0].value
    with pytest.raises(OrderError, match=r"expected orders of 5 steps.*without:ITEM"):
        run.whatif(edits=["drop:2"], estimator="adjoint")
    run.cache(["lowrank"])
    assert run.whatif(edits=["drop:2"])["probe"].estimator == "lowrank"
    both = list(whatifs(run, ["drop:2", "reverse", "drop:2"]))
    assert [a["readouts"]["probe"]["estimator"] for a in both] == ["lowrank", "adjoint", "lowrank"]


def test_an_interval_says_for_which_orders_it_holds(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(4)
    same, other = (run.whatif(edits=[edit], known=False)["probe"] for edit in ("swap:0,4", "without:2"))
    assert same.delta_interval is not None
    assert same.interval is not None
    low, high = same.delta_interval
    assert (low, high) == tuple(v - run.reference_loss for v in same.interval)
    assert low < same.delta < high
    assert "other items" not in same.note
    assert "other items than the reference" in other.note


def test_one_edit_has_the_interval_fitted_on_such_edits(own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(4)
    before = run.whatif(edits=["swap:0,4"], known=False)["probe"]
    assert "`fut calibrate RUN --edit swap` fits it to single edits" in before.note
    said = cli("calibrate", own_run, "--edit", "swap", "--orders", 6, "--json", *CPU).json
    assert said["edit"] == "swap"
    truths, guesses = (np.array(said[key]) - run.reference_loss for key in ("true_losses", "estimated_losses"))
    assert said["slope"] == 1.0, "a slope through few edits is worse than none"
    found = run.whatif(edits=["swap:0,4"], known=False)["probe"]
    raw = run.estimate(["swap:0,4"], known=False, calibrated=False)[0]
    assert found.delta == pytest.approx(raw.delta)
    mean = (guesses**2).mean()
    scaled = (truths - guesses) / np.sqrt((guesses**2 + mean) / (2 * mean))
    reach = max(student.ppf(0.95, 6) * np.sqrt((scaled**2).mean()), conformal_quantile(scaled))
    half = reach * math.sqrt((raw.delta**2 + mean) / (2 * mean))
    assert found.delta_interval == pytest.approx((found.delta - half, found.delta + half))
    assert "each one `swap` away" in found.note
    assert "random" not in found.note
    for other in ("move:0,4", ["swap:0,4", "swap:1,2"]):
        edits = [other] if isinstance(other, str) else other
        assert "calibrated on 4 retrained orders;" in run.whatif(edits=edits, known=False)["probe"].note
    answers = list(whatifs(run, ["swap:0,4", "random:3", {"edits": ["swap:0,4"]}, "reverse"], known=False))
    notes = [a["readouts"]["probe"]["note"] for a in answers]
    assert ["each one `swap`" in note for note in notes] == [True, False, True, False]
    asked = run.estimate(["reverse", "swap:0,4", [4, 1, 2, 3, 0], [1, 2, 0, 3, 4]], known=False)
    assert ["each one `swap`" in answer.note for answer in asked] == [False, True, True, False], "however it is written"
    assert (asked[2].value, asked[2].interval) == (asked[1].value, asked[1].interval)
    assert asked[1].value == pytest.approx(found.value)
    assert run.whatif([4, 1, 2, 3, 0], known=False)["probe"].interval == asked[1].interval
    repeated = run.estimate([[1, 1, 2, 3, 4]], known=False)[0]
    assert "trains on other items than the reference" in repeated.note
    assert cli("calibrate", own_run, "--edit", "drop", *CPU).status == 2


def test_leaving_one_item_out_in_place_can_be_calibrated(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(cached=False, data={"items": 8, "per_step": 4, "batch": 1})
    run = fut.open(shutil.copytree(made.path, tmp_path / "run"), device="cpu")
    run.cache(["reweighting"])
    with pytest.raises(UsageError, match="fut lds"):
        run.calibrate(4, estimator="reweighting", edit="swap")
    run.calibrate(6, estimator="reweighting", edit="without")
    found = run.whatif(edits=["without:3"], estimator="reweighting", known=False)["probe"]
    assert found.interval is not None
    assert run.whatif(edits=["without:3,5"], estimator="reweighting", known=False)["probe"].interval is None


@pytest.fixture
def fed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """A command with bytes on its standard input."""

    def call(content: bytes, *arguments: object) -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return cli(*arguments)

    return call


def test_edits_apply_as_they_are_written(small_run: fut.Run, cli: Cli) -> None:
    path = small_run.path
    words = ("--swap", "3,1", "--move=0,2", "--swap", "1,4", "--sort", "loss", "--swap", "0,1")
    found = cli("whatif", path, *words, "--order", "reverse", "--json", *CPU).json
    assert found["edits"] == ["swap:3,1", "move:0,2", "swap:1,4", "sort:loss", "swap:0,1"]
    assert found["start"] == "reverse"
    other = cli("whatif", path, "--swap", "0,1", "--sort", "loss", "--json", *CPU).json
    assert other["order"] == small_run.order("sort:loss").tolist()
    assert found["order"] == Order.of(other["order"]).swap(0, 1).tolist()
    said = cli("whatif", path, "--swap", "0,1", "--verify", *CPU)
    for word in ("nats/token", "change of perplexity", "negative is better", "no interval", "retrained change"):
        assert word in said.out
    assert "retraining" in said.err
    assert "exact" in cli("whatif", path, "--swap", "0,1", *CPU).out
    shorter = cli("whatif", path, "--drop", 2, *CPU)
    assert "replay-exact" in shorter.out
    assert "shorter than the window" in shorter.err


def test_several_readouts_are_several_rows(make_run: MakeRun, cli: Cli) -> None:
    said = cli(
        "whatif", make_run(**READOUTS).path, "--without", "1,2", "--readout", "probe", "--readout", "item:3", *CPU
    )
    rows = [line.split()[0] for line in said.out.splitlines() if " nats/token" in line and "no interval" not in line]
    assert rows == ["probe", "item:3"]


def test_the_command_streams(own_run: Path, fed: Callable[..., Said], cli: Cli, tmp_path: Path) -> None:
    said = fed(MIXED, "whatif", own_run, "--queries", "-", *CPU)
    assert said.status == 1
    assert said.err == ""
    found = [json.loads(line) for line in said.out.splitlines()]
    assert sum("error" in a for a in found) == 7
    assert len(found) == 12
    file = tmp_path / "queries.jsonl"
    file.write_bytes(queries("reverse", '{"id": 1}'))
    said = cli("whatif", own_run, "--queries", file, "--order", "swap:0,1", "--verify", *CPU)
    assert said.status == 0
    found = [json.loads(line) for line in said.out.splitlines()]
    assert found[1]["digest"] == fut.open(own_run, device="cpu").order("swap:0,1").digest
    for answer in found:
        probe = answer["readouts"]["probe"]
        assert probe["error"] == probe["value"] - probe["truth"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--swap", "3"], 2, "expected `swap:N,N`"),
        (["--swap", "0,9"], 2, "expected a step 0..4, got 9"),
        (["--replace", "9,0"], 2, "an item that the order holds, got 9"),
        (["--replace", "0,9"], 2, "expected items 0..4, got 9"),
        (["--sort", "beauty"], 2, "expected one of length, loss"),
        (["--sort", "length"], 2, "differ in length"),
        (["--readout", "item:77"], 2, "item:0 … item:4"),
        (["--readout", "item:1"], 1, "fut cache RUN"),
        (["--queries", "-", "--swap", "0,1"], 2, "edits or --queries"),
        (["--queries", "/no/such/file"], 1, "/no/such/file"),
        (["--estimator", "oracle"], 2, "expected one of reference"),
    ],
)
def test_bad_questions_say_what_was_expected(own_run: Path, cli: Cli, words: list[str], status: int, said: str) -> None:
    found = cli("whatif", own_run, *words, *CPU)
    assert (found.status, found.out) == (status, "")
    assert said in found.err


def test_the_script_answers_and_reports_bad_lines(
    small_run: fut.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(Path(fut.__file__).parents[1] / "scripts" / "what_if_queries.py"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"reverse\n[1,\n\nsort:loss\n")))
    assert script["main"]([str(small_run.path)]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(a["line"], "error" in a) for a in found] == [(1, False), (2, True), (4, False)]
