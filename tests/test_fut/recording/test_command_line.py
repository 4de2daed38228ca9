"""A recorded run on the command line: its model is named there, as no directory holds a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import Cli
from torch import Tensor, nn
from user_loops import FIRST, PROBE, STEPS, adamw, net, recorded, trained

import fut


def cross_entropy(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    return recorded(tmp_path_factory.mktemp("recorded") / "run")


def test_every_command_takes_the_model(run: fut.Run, cli: Cli) -> None:
    model = ("--model", "user_loops:net")
    assert cli("info", run.path, *model, "--json").json["steps"] == STEPS
    assert cli("plan", run.path, *model, "--json").status == 0
    assert cli("cache", run.path, *model, "--terms", "adjoint", "--json").status == 0
    asked = ("estimate", run.path, *model, "--order", "reverse", "--json")
    assert cli(*asked, "--estimator", "retrain").json["value"] == pytest.approx(
        run.estimate(["reverse"], "retrain")[0].value
    )
    assert cli("verify", run.path, *model, "--orders", 3, "--estimators", "adjoint", "--json").status == 0
    assert cli("whatif", run.path, *model, "--swap", "1,4", "--json").status == 0
    assert cli("report", run.path, *model, "--json").status == 0
    assert cli("show-batch", run.path, 0, *model, "--json").status == 0


def test_without_it_they_say_what_to_name(run: fut.Run, cli: Cli) -> None:
    for arguments in (("estimate", run.path, "--order", "random:77", "--estimator", "retrain"), ("verify", run.path)):
        said = cli(*arguments)
        assert said.status == 1
        assert "an object of `user_loops.Net`, got none" in said.err
        assert "on the command line --model package.module:factory" in said.err


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("user_loops", 2, "--model: expected `package.module:name`, got `user_loops`"),
        ("user_loops:nothing", 2, "--model: expected an importable"),
        ("user_loops:adamw", 2, "--model: expected a module from `user_loops:adamw`, called without arguments"),
        ("user_loops:batches", 2, "called without arguments"),
        ("user_loops:no_model", 2, "--model: expected an nn.Module from `user_loops:no_model`, got NoneType"),
        ("user_loops:other", 1, "expected the module that it was trained with"),
    ],
)
def test_names_that_are_no_model(run: fut.Run, cli: Cli, name: str, status: int, message: str) -> None:
    said = cli("estimate", run.path, "--model", name, "--order", "reverse")
    assert (said.status, message in said.err) == (status, True), said.err


def test_a_loss_that_was_given_is_named_too(tmp_path: Path, cli: Cli) -> None:
    model: Any = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", start=FIRST, steps=STEPS, loss=cross_entropy)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], explicit=recorder)
    found = recorder.finish([(b["x"], b["y"]) for b in PROBE], device="cpu").estimate(["reverse"], "retrain")[0].value
    asked = ("estimate", tmp_path / "run", "--order", "reverse", "--estimator", "retrain", "--json")
    said = cli(*asked, "--model", "user_loops:net")
    assert said.status == 1
    assert "--loss" in said.err
    own = f"{__name__}:cross_entropy"
    assert cli(*asked, "--model", "user_loops:net", "--loss", own).json["value"] == found
