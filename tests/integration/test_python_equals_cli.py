"""Every question, asked by the command line and in Python of copies of one run: the same answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import ASKED, Cli, MakeRun

import fut
from fut.display.numbers import jsonable
from fut.questions.accuracy.ask import VerifyRequest
from fut.questions.accuracy.leave_out import LdsRequest
from fut.questions.bank import BankRequest
from fut.questions.calibrate import CalibrateRequest
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.request import SearchRequest
from fut.questions.domains.ask import DomainsRequest
from fut.questions.endpoint import EndpointRequest
from fut.questions.estimate import EstimateRequest
from fut.questions.memorization.ask import MemorizeRequest
from fut.questions.question import Request
from fut.questions.registry import QUESTIONS, question_of
from fut.questions.snr.ask import SnrRequest
from fut.questions.trust.ask import TrustRequest
from fut.questions.whatif.ask import WhatIfRequest
from fut.questions.whatif.stream import Queries

CPU = ("--device", "cpu")
LINES = ["random:7", '{"id": "a", "edits": [["swap", 0, 3]], "readouts": ["item:1"]}', '{"order": "random:x"}']
CASES: list[tuple[str, tuple[object, ...], Request[Any]]] = [
    ("estimate", ("--order", "reverse", "--no-known"), EstimateRequest(["reverse"], known=False)),
    ("estimate", ("--order", "3,1", "--partial", "--estimator", "replay"), EstimateRequest([[3, 1]], "replay", True)),
    (
        "estimate",
        ("--order", "random:3", "--curve-steps", "2,4", "--estimator", "replay-exact"),
        EstimateRequest(["random:3"], "replay-exact", curve_steps=(2, 4)),
    ),
    ("trust", ("--trials", 1, "--seed", 3), TrustRequest(1, 3)),
    (
        "bank",
        ("--orders", 3, "--seed", 5, "--part", "2/2", "--readout", "item:1"),
        BankRequest(3, 5, None, "2/2", "item:1"),
    ),
    ("bank", (), BankRequest()),
    ("calibrate", ("--orders", 4), CalibrateRequest(4)),
    ("calibrate", ("--orders", 3, "--edit", "swap", "--seed", 5), CalibrateRequest(3, 5, edit="swap")),
    ("estimate", ("--order", "swap:0,4", "--no-known"), EstimateRequest(["swap:0,4"], known=False)),
    ("calibrate", ("--orders", 12, "--chosen"), CalibrateRequest(12, chosen=True)),
    ("estimate", ("--order", "random:4", "--no-known"), EstimateRequest(["random:4"], known=False)),
    ("estimate", ("--order", "random:3", "--readout", "item:1"), EstimateRequest(["random:3"], readout="item:1")),
    (
        "endpoint",
        ("--order", "reverse", "--estimator", "replay", "--out", "reverse.safetensors"),
        EndpointRequest("reverse", "replay", "reverse.safetensors"),
    ),
    (
        "verify",
        ("--orders", 3, "--estimators", "adjoint,retrain"),
        VerifyRequest(3, estimators=["adjoint", "retrain"]),
    ),
    ("lds", ("--subsets", 3, "--share", 0.4, "--estimators", "adjoint"), LdsRequest(3, 0.4, estimators=["adjoint"])),
    (
        "memorize",
        ("--items", "0,3", "--groups", 2, "--calibrate", 3),
        MemorizeRequest([0, 3], groups=2, calibrate=3),
    ),
    (
        "domains",
        ("--labels", "loss:2", "--orders", "loss-low,loss-high", "--items", 1, "--verify", 3),
        DomainsRequest("loss:2", [["loss-low", "loss-high"]], [1], verify=3),
    ),
    ("snr", ("--points", 2, "--gradients", 4, "--power", -1.0), SnrRequest(2, 4, power=-1.0)),
    (
        "search",
        ("--evaluations", 30, "--verify", 1, "--heuristics", "reverse", "--also", "item:2", "--before", "1,3"),
        SearchRequest(
            None,
            30,
            verify=1,
            heuristics=["reverse"],
            also=["item:2"],
            constraints=Constraints.of(precedence=[(1, 3)]),
        ),
    ),
    (
        "whatif",
        ("--swap", "3,1", "--sort", "loss", "--readout", "probe", "--readout", "item:1", "--verify"),
        WhatIfRequest(edits=["swap:3,1", ("sort", "loss")], readouts=["probe", "item:1"], verify=True),
    ),
    ("whatif", ("--queries", "queries.jsonl", "--order", "reverse"), Queries("reverse", queries=LINES)),
]
CLOCK = {"plot", "seconds", "retrain_seconds", "retraining_seconds", "precompute_seconds", "seconds_per_order"}
"""What the wall clock says, and where a picture lies."""


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CLOCK | {"store_bytes"}}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def twins(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two copies of one run, of which both doors are asked the same in the same order."""
    where, source = tmp_path_factory.mktemp("twins"), make_run(adjoint={"readouts": ["probe", "item:1"]}).path
    one, two = (Path(shutil.copytree(source, where / name, ignore=ASKED)) for name in ("cli", "python"))
    return one, two


@pytest.mark.parametrize(
    ("command", "words", "request_"), CASES, ids=[f"{i}-{command}" for i, (command, _, _) in enumerate(CASES)]
)
def test_both_doors_give_the_same_answer(
    twins: tuple[Path, Path],
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: tuple[object, ...],
    request_: Request[Any],
) -> None:
    (tmp_path / "queries.jsonl").write_text("\n".join(LINES) + "\n")
    monkeypatch.chdir(tmp_path)
    said = cli(command, twins[0], *words, "--json", *CPU)
    answer, question = fut.open(twins[1], device="cpu").ask(request_), question_of(request_)
    if isinstance(request_, Queries):
        assert said.status == 1, "a line is wrong"
        assert [json.loads(line) for line in said.out.splitlines()] == json.loads(json.dumps(list(answer)))
        return
    assert said.status == 0, said.err
    python = json.loads(json.dumps(jsonable(question.content(answer))))
    assert timeless(said.json) == timeless(python)


def test_every_question_is_asked() -> None:
    assert {question_of(request).name for _, _, request in CASES} == {question.name for question in QUESTIONS}


@pytest.mark.parametrize("request_", [request for _, _, request in CASES], ids=[command for command, _, _ in CASES])
def test_a_request_survives_json(request_: Request[Any]) -> None:
    again = type(request_).from_dict(json.loads(json.dumps(request_.as_dict())))
    assert again.as_dict() == request_.as_dict()
    assert EstimateRequest.from_dict({"orders": ["reverse"]}) == EstimateRequest(["reverse"])
    with pytest.raises(fut.UsageError, match="no orders"):
        EstimateRequest.from_dict({})
    with pytest.raises(fut.UsageError, match="expected the fields"):
        type(request_).from_dict(request_.as_dict() | {"wrong": 1})
