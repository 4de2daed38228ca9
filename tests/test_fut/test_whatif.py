"""What-if questions on a run: against estimates and retraining, composed, streamed in bounded memory, and refused."""

from __future__ import annotations

import io
import json
import math
import os
import runpy
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from small import Cli, MakeRun, Said

import fut
from estimators.errors import DivergenceError, OrderError
from estimators.order import Order
from fut import querying
from fut.adjoint import Adjoint
from fut.answers import Estimate
from fut.errors import NotCachedError, UsageError
from fut.questions.whatif import Change, WhatIf, compare
from fut.whatif import WhatIfs

CPU = ("--device", "cpu")
READOUTS = {"adjoint": {"readouts": ["probe", "item:3"]}}
EDITS = ["swap:3,1", "move:0,2", "sort:loss"]


def several(make_run: MakeRun) -> fut.Run:
    """A run swept for two read-outs, and nothing else."""
    run = make_run(cached=False, **READOUTS)
    run.cache(["adjoint"])
    return run


def test_changes_are_differences_from_the_reference() -> None:
    def estimate(orders: Sequence[Order]) -> list[Estimate]:
        return [Estimate(2.0 + o.steps[0][0], 0.0, (1.5, 3.5), "table", o.digest, note="known") for o in orders]

    orders = [Order.of([i, 1 - i]) for i in range(2)]
    found = compare(orders, estimate, 1.0, lambda o, e: "twice" if o.steps[0] == (1,) else "", lambda o: 2.25)
    assert [c.delta for c in found] == [1.0, 2.0]
    assert found[0].delta_interval == (0.5, 2.5)
    assert found[0].perplexity_delta == pytest.approx(math.exp(2.0) - math.e)
    assert [c.error for c in found] == [-0.25, 0.75]
    assert [c.note for c in found] == ["known", "known; twice"]
    assert Change.from_dict("probe", found[0].as_dict()) == found[0]
    lost = compare(orders[:1], lambda orders: [Estimate(math.nan, math.nan, None, "table", "")], 1.0)[0].as_dict()
    assert (lost["loss"], lost["delta"], lost["perplexity"]) == (None, None, None)
    assert math.isnan(Change.from_dict("probe", lost).loss)


def test_a_change_is_the_estimate_of_the_edited_order(make_run: MakeRun) -> None:
    run = several(make_run)
    order = run.arranged(run.difficulty("loss").scores)
    found = run.whatif("reverse", EDITS, ["probe", "item:3"], known=False)
    assert found.order == order.tolist()
    assert found.digest == order.digest
    for readout in ("probe", "item:3"):
        estimate = run.estimate([order], known=False, readout=readout)[0]
        assert found[readout].loss == estimate.loss
        assert found[readout].delta == pytest.approx(estimate.delta, abs=1e-15)
        assert found[readout].interval is None
        assert "fut calibrate" in found[readout].note
    assert found["item:3"].reference == run.readouts.at_reference(run.readouts.get("item:3"))
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
    assert found.error == pytest.approx(run.estimate(["swap:0,4"], known=False)[0].loss - truth)
    known = run.whatif(edits=["swap:0,4"])["probe"]
    assert (known.source, known.loss, known.truth) == ("retrained", truth, None)


def test_what_is_known_needs_no_estimator(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(cached=False, data={"seed": 11})
    run = fut.open(shutil.copytree(made.path, tmp_path / "run"), device="cpu")
    truth = run.retrain("swap:0,1").loss
    assert run.whatif(edits=["swap:0,1"])["probe"].loss == truth
    with pytest.raises(NotCachedError, match="fut cache"):
        run.whatif(edits=["swap:0,2"])


def test_a_shorter_order_is_answered_by_an_estimator_that_can(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    found = run.whatif(edits=["drop:2"])["probe"]
    assert found.estimator == "replay-exact"
    assert "adjoint answers orders of exactly 5 steps, so replay-exact answered this one of 4" in found.note
    assert found.loss == run.estimate(["drop:2"], "replay-exact", known=False)[0].loss
    with pytest.raises(OrderError, match=r"expected orders of 5 steps.*without:ITEM"):
        run.whatif(edits=["drop:2"], estimator="adjoint")
    run.cache(["curved"])
    assert run.whatif(edits=["drop:2"])["probe"].estimator == "curved"
    both = list(run.whatifs(["drop:2", "reverse", "drop:2"]))
    assert [a["readouts"]["probe"]["estimator"] for a in both] == ["curved", "adjoint", "curved"]


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
    slope = (truths @ guesses) / (guesses @ guesses)
    assert said["slope"] == pytest.approx(slope)
    found = run.whatif(edits=["swap:0,4"], known=False)["probe"]
    raw = run.estimate(["swap:0,4"], known=False, calibrated=False)[0]
    assert found.delta == pytest.approx(slope * raw.delta)
    sd = math.sqrt(((truths - slope * guesses) ** 2).sum() / 5)
    half = student.ppf(0.95, 5) * sd * math.sqrt(1 + raw.delta**2 / (guesses @ guesses))
    assert found.delta_interval == pytest.approx((found.delta - half, found.delta + half))
    assert "each one `swap` away" in found.note
    assert "random" not in found.note
    for other in ("move:0,4", ["swap:0,4", "swap:1,2"]):
        edits = [other] if isinstance(other, str) else other
        assert "calibrated on 4 retrained orders;" in run.whatif(edits=edits, known=False)["probe"].note
    answers = list(run.whatifs(["swap:0,4", "random:3", {"edits": ["swap:0,4"]}, "reverse"], known=False))
    notes = [a["readouts"]["probe"]["note"] for a in answers]
    assert ["each one `swap`" in note for note in notes] == [True, False, True, False]
    assert run.estimate(["swap:0,4"], known=False)[0].note == "calibrated on 4 retrained orders; interval of level 0.9"
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


def queries(*lines: Any) -> bytes:
    return b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines)


MIXED = queries(
    "reverse",
    "",
    "[4, 3, 2, 1, 0]",
    '{"id": "x", "edits": [["swap", 1, 3]]}',
    "[4, 3",
    '{"id": 5, "edits": [["swap", 1, 9]]}',
    b"\xff\xfe\n",
    "sort:loss",
    '{"id": 8, "readouts": ["item:3"]}',
    '{"id": 9, "readouts": ["os:getcwd"]}',
    "[4, 3, 2]",
    b"\0.json\n",
    "random:7",
)[:-1]


def test_a_bad_line_is_named_and_the_rest_go_on(small_run: fut.Run) -> None:
    found = list(small_run.whatifs(io.BytesIO(MIXED), known=False))
    assert [a["line"] for a in found] == [1, *range(3, 14)]
    bad = {a["line"]: a["error"] for a in found if "error" in a}
    assert {a.get("id") for a in found} == {None, "x", 5, 8, 9}
    expected = {
        5: "JSON list",
        6: "got 9",
        7: "UTF-8",
        9: "fut cache",
        10: "needs no import",
        11: "expected 5 steps",
        12: "JSON list",
    }
    assert bad.keys() == expected.keys()
    for line, said in expected.items():
        assert said in bad[line]
    orders = {1: "reverse", 3: "reverse", 4: "swap:1,3", 8: "sort:loss", 13: "random:7"}
    for answer in found:
        if answer["line"] in orders:
            estimate = small_run.estimate([orders[answer["line"]]], known=False)[0]
            assert answer["readouts"]["probe"]["loss"] == estimate.loss, "bit for bit, whatever stands beside it"
            assert answer["digest"] == estimate.order


def test_python_asks_with_values_and_lines(small_run: fut.Run) -> None:
    asked = ["reverse", [4, 3, 2, 1, 0], small_run.order("reverse"), {"order": "identity", "edits": [("swap", 0, 4)]}]
    found = list(small_run.whatifs(asked, start="reverse"))
    assert len({a["digest"] for a in found[:3]}) == 1
    assert found[3]["digest"] == small_run.order("swap:0,4").digest
    assert next(small_run.whatifs(io.StringIO('{"edits": [["swap", 0, 4]]}\n'), start="reverse"))["digest"] == (
        small_run.order("reverse").swap(0, 4).digest
    )


def test_what_no_line_could_be_answered_with_is_refused_at_once(make_run: MakeRun, small_run: fut.Run) -> None:
    with pytest.raises(NotCachedError, match="fut cache"):
        make_run(cached=False).whatifs(["reverse"])
    with pytest.raises(NotCachedError, match=r"swept for the read-out `item:1`"):
        small_run.whatifs(["reverse"], readouts=["item:1"])
    with pytest.raises(UsageError, match="expected one of reference"):
        small_run.whatifs(["reverse"], estimator="oracle")
    assert list(small_run.whatifs([])) == []


def test_one_order_that_diverges_leaves_the_others_their_answers(
    small_run: fut.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, bad = WhatIfs(small_run, known=False), small_run.order("reverse").digest
    asker = asked.asker("probe", "adjoint")
    real = type(asker).__call__

    def call(self: Any, orders: Sequence[Order]) -> list[Estimate]:
        if any(o.digest == bad for o in orders):
            raise DivergenceError("step 2: expected finite gradients")
        return real(self, orders)

    monkeypatch.setattr(type(asker), "__call__", call)
    found = list(querying.answer_queries(asked, ["identity", "random:3", "reverse", "random:4"]))
    assert ["error" in a for a in found] == [False, False, True, False]
    assert found[2]["error"] == "step 2: expected finite gradients"


def test_lines_come_as_they_arrive_and_long_ones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with open(read, "rb") as source, open(write, "wb", buffering=0) as sink:
        lines = querying.read_lines(source)
        sink.write(b"one\ntwo\nthr")
        assert next(lines) == [b"one", b"two"], "what has arrived is answered before the rest is waited for"
        sink.write(b"ee\n")
        assert next(lines) == [b"three"]
        sink.write(b"last")
        sink.close()
        assert list(lines) == [[b"last"]]
    monkeypatch.setattr(querying, "BLOCK", 8)
    monkeypatch.setattr(querying, "LONGEST", 20)
    got = [line for block in querying.read_lines(io.BytesIO(b"a\n" + b"x" * 1000 + b"\nb\n\nc")) for line in block]
    assert [got[0], *got[2:]] == [b"a", b"b", b"", b"c"]
    assert 20 < len(got[1]) <= 28
    assert list(querying.read_lines(io.BytesIO(b""))) == []


def test_batches_grow_while_they_are_quick(small_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = WhatIfs.together
    monkeypatch.setattr(WhatIfs, "together", lambda self, asked: [sizes.append(len(asked)), real(self, asked)][1])
    clock = iter([t for n in range(100) for t in (10.0 * n, 10.0 * n + (0.1 if n < 4 else 3.0))])
    monkeypatch.setattr(querying.time, "perf_counter", lambda: next(clock))
    assert len(list(small_run.whatifs(["identity"] * 40, estimator="reference"))) == 40
    assert sizes == [1, 2, 4, 8, 16, 8, 1]


def test_tables_are_held_once(make_run: MakeRun) -> None:
    asked = WhatIfs(several(make_run), readouts=["probe", "item:3"])
    probe, item = (asked.asker(name, "adjoint").estimator for name in asked.readouts)
    assert isinstance(probe, Adjoint)
    assert isinstance(item, Adjoint)
    assert probe._tables["gradient"] is item._tables["gradient"]
    assert probe._tables["weight"] is not item._tables["weight"]
    assert asked.asker("probe", "adjoint", "swap").estimator is probe


def test_memory_does_not_grow_with_the_number_of_queries(small_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(querying, "MOST", 128)
    monkeypatch.setattr(querying, "PATIENCE", 1e9)  # batches as large as may be, however busy the machine

    def lines(count: int) -> Iterator[dict[str, Any]]:
        return ({"id": i, "edits": [["swap", i % 5, (i + 1) % 5]]} for i in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in small_run.whatifs(lines(count), estimator="positions")) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(64)
    few, many = peak(512), peak(4096)
    assert many < 2 * few, f"{few} bytes for an eighth as many"  # collections of cycles fall as they may


# --- the command


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
    for word in ("nats/token", "Δ perplexity", "negative is better", "no interval", "retrained Δ"):
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
    rows = [line.split()[0] for line in said.out.splitlines() if "nats/token" in line]
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
        assert probe["error"] == probe["loss"] - probe["truth"]


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
