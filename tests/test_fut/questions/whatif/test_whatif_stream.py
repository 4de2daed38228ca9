"""Streams of what-if questions: bad lines, lines as they arrive, bounded memory."""

from __future__ import annotations

import gc
import io
import os
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from lines import MIXED
from small import MakeRun, whatifs

import fut
from estimators.errors import DivergenceError
from estimators.orders.order import Order
from fut.api.questions import question_context
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint.estimator import Adjoint
from fut.questions.whatif import stream as querying
from fut.questions.whatif.ask import WhatIfRequest, WhatIfs


def test_a_bad_line_is_named_and_the_rest_go_on(small_run: fut.Run) -> None:
    found = list(whatifs(small_run, io.BytesIO(MIXED), known=False))
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
        12: "readable JSON file",
    }
    assert bad.keys() == expected.keys()
    for line, said in expected.items():
        assert said in bad[line]
    orders = {1: "reverse", 3: "reverse", 4: "swap:1,3", 8: "sort:loss", 13: "random:7"}
    for answer in found:
        if answer["line"] in orders:
            estimate = small_run.estimate([orders[answer["line"]]], known=False)[0]
            assert answer["readouts"]["probe"]["value"] == estimate.value, "bit for bit, whatever stands beside it"
            assert answer["digest"] == estimate.order


def test_python_asks_with_values_and_lines(small_run: fut.Run) -> None:
    asked = ["reverse", [4, 3, 2, 1, 0], small_run.order("reverse"), {"order": "identity", "edits": [("swap", 0, 4)]}]
    found = list(whatifs(small_run, asked, start="reverse"))
    assert len({a["digest"] for a in found[:3]}) == 1
    assert found[3]["digest"] == small_run.order("swap:0,4").digest
    assert next(whatifs(small_run, io.StringIO('{"edits": [["swap", 0, 4]]}\n'), start="reverse"))["digest"] == (
        small_run.order("reverse").swap(0, 4).digest
    )


def test_what_no_line_could_be_answered_with_is_refused_at_once(make_run: MakeRun, small_run: fut.Run) -> None:
    with pytest.raises(NotCachedError, match="fut cache"):
        whatifs(make_run(cached=False), ["reverse"])
    with pytest.raises(NotCachedError, match=r"computed for the read-out `item:1`"):
        whatifs(small_run, ["reverse"], readouts=["item:1"])
    with pytest.raises(UsageError, match="expected one of reference"):
        whatifs(small_run, ["reverse"], estimator="oracle")
    assert list(whatifs(small_run, [])) == []


def test_one_order_that_diverges_leaves_the_others_their_answers(
    small_run: fut.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, bad = (
        WhatIfs(question_context(small_run.context), WhatIfRequest(known=False)),
        small_run.order("reverse").digest,
    )
    asker = asked.estimates("probe", "adjoint")
    real = type(asker).__call__

    def call(self: Any, orders: Sequence[Order]) -> Sequence[Any]:
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
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert len(list(whatifs(small_run, ["identity"] * 40, estimator="reference"))) == 40
    assert sizes == [1, 2, 4, 8, 16, 8, 1]


def test_tables_are_held_once(make_run: MakeRun) -> None:
    run = make_run(cached=False, adjoint={"readouts": ["probe", "item:3"]})
    run.cache(["adjoint"])
    asked = WhatIfs(question_context(run.context), WhatIfRequest(readouts=["probe", "item:3"]))
    probe, item = (cast("Any", asked.estimates(name, "adjoint")).estimator for name in asked.readouts)
    assert isinstance(probe, Adjoint)
    assert isinstance(item, Adjoint)
    assert probe._tables["gradient"] is item._tables["gradient"]
    assert probe._tables["weight"] is not item._tables["weight"]
    assert cast("Any", asked.estimates("probe", "adjoint", "swap")).estimator is probe


def test_memory_does_not_grow_with_the_number_of_queries(small_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(querying, "MOST", 128)
    monkeypatch.setattr(querying, "PATIENCE", 1e9)  # batches as large as may be, however busy the machine

    def lines(count: int) -> Iterator[dict[str, Any]]:
        return ({"id": i, "edits": [["swap", i % 5, (i + 1) % 5]]} for i in range(count))

    def peak(count: int) -> int:
        gc.collect()
        gc.freeze()  # what is there already: the more of it, the longer cycles wait to be collected
        tracemalloc.start()
        try:
            assert sum(1 for _ in whatifs(small_run, lines(count), estimator="positions")) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    peak(64)
    few, many = peak(512), peak(4096)
    assert many < 2 * few, f"{few} bytes for an eighth as many"  # collections of cycles fall as they may


# --- the command
