"""What answers from what is kept builds no model, and runs none of the code that a run directory names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Cli, MakeRun
from torch import Tensor, nn

import fut
from fut.methods.context import Context
from fut.models.deferred import DeferredObjective
from fut.progress import silent

CPU = ("--device", "cpu")


class Tiny(nn.Module):
    """Two classes from four numbers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def loss_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


@pytest.fixture(scope="module")
def kept(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its terms, a calibration, a retrained order and a comparison."""
    path = tmp_path_factory.mktemp("kept") / "run"
    shutil.copytree(make_run().path, path)
    run = fut.open(path, device="cpu")
    run.calibrate(4)
    run.retrain("reverse")
    run.verify(3)
    run.report(path.parent / "first.html", samples=4)
    return path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds a model fails."""

    def refused(self: Context) -> Any:
        raise AssertionError("a model was built")

    built = Context.__dict__["_built_problem"]
    monkeypatch.setattr(built, "func", refused)


ASKED: dict[str, Callable[[fut.Run], object]] = {
    "a retrained order": lambda run: run.estimate(["reverse"]),
    "retrain": lambda run: run.retrain("reverse").loss,
    "adjoint": lambda run: run.estimate(["random:7", "3,1,2,0,4"], "adjoint"),
    "positions": lambda run: run.estimate(["random:7"], "positions"),
    "whatif": lambda run: run.whatif("swap:1,2"),
    "bank": lambda run: run.orders.bank(3),
    "best": lambda run: run.orders.best(),
    "report": lambda run: run.report(run.path.parent / "page.html", samples=4),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.usefixtures("no_model")
def test_questions_are_answered_without_the_model(kept: Path, name: str) -> None:
    run = fut.open(kept, device="cpu", progress=silent)
    ASKED[name](run)
    assert isinstance(run.context.problem.objective, DeferredObjective)
    assert not run.context.problem.objective.built


@pytest.mark.usefixtures("no_model")
def test_commands_are_too(kept: Path, cli: Cli) -> None:
    for words in (
        ["estimate", kept, "--order", "reverse"],
        ["estimate", kept, "--order", "random:7"],
        ["whatif", kept, "--swap", "1,2"],
        ["bank", kept, "--orders", "3"],
    ):
        said = cli(*words, *CPU)
        assert said.status == 0, said.err


def test_what_computes_builds_it_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And everything that was asked before has the same numbers after."""
    run = fut.open(kept, device="cpu", progress=silent)
    before, start = run.estimate(["random:7"], "adjoint")[0], run.context.problem.objective.start()
    identity, layout = run.context.problem.objective.identity(), run.context.problem.objective.layout
    built, count = Context.__dict__["_built_problem"].func, list[int]()

    def counted(self: Context) -> Any:
        count.append(1)
        return built(self)

    monkeypatch.setattr(Context.__dict__["_built_problem"], "func", counted)
    run.retrain("random:8")
    run.retrain("random:9")
    objective = run.context.problem.objective
    assert count == [1]
    assert isinstance(objective, DeferredObjective)
    assert objective.built
    assert (objective.identity(), objective.layout) == (identity, layout)
    assert torch.equal(objective.start(), start)
    assert run.estimate(["random:7"], "adjoint")[0] == before
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        _ = objective.nothing


def test_a_run_of_an_object_is_asked_without_it(tmp_path: Path, cli: Cli) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(8, 6, 4, generator=draw)
    items = tuple((part, (part.sum(-1) > 0).long()) for part in x)
    sections: dict[str, Any] = {"data": {"items": 6}, "warmup": {"steps": 0}}
    given: dict[str, Any] = {"module": Tiny(), "loss": loss_of}
    config = fut.load_config(**sections)
    made = fut.train(tmp_path / "run", config, data=fut.Dataset(items[:6], items[6:]), device="cpu", **given)
    made.cache(["adjoint"])
    expected = made.estimate(["reverse"])[0]
    bare = fut.open(tmp_path / "run", device="cpu")
    assert bare.estimate(["reverse"])[0] == expected
    assert cli("estimate", tmp_path / "run", "--order", "reverse", "--json", *CPU).json["value"] == expected.value
    said = cli("info", tmp_path / "run", *CPU)
    assert said.status == 0, said.err
    assert "?: the model tells it, which was not given (--model)" in said.out
    facts = cli("info", tmp_path / "run", "--json", *CPU).json
    assert facts["precompute_gradients"]["adjoint"] is None
    assert facts["precompute_gradients"]["retrain"] == 0
    assert made.info()["precompute_gradients"]["adjoint"] > 0
    with pytest.raises(fut.IdentityError, match="expected the module that it was trained with"):
        bare.retrain("reverse")
    assert bare.estimate(["reverse"])[0] == expected, "as before"


@pytest.mark.parametrize(
    "parameters",
    [[], 3, [["a"]], [["a", [2]], ["a", [2]]], [["a", [-1]]], [["a", "b"]], None],
)
def test_a_record_that_describes_no_model_is_refused(parameters: Any) -> None:
    def nothing() -> Any:
        raise AssertionError("asked")

    recorded = {"parameters": parameters, "dtype": "float32"}
    with pytest.raises(fut.ModelError, match="expected the model's trained tensors by name and shape"):
        DeferredObjective(recorded, 2, torch.device("cpu"), None, nothing, nothing)


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ([2], "load", "expected a floating-point dtype of torch, got 'load'"),
        ([2], "quint4x2", "expected a floating-point dtype of torch, got 'quint4x2'"),
        ([10**30], "float32", "expected 2 trained numbers, as the run's summary says, got shapes that hold 1,000,000"),
    ],
)
def test_a_record_of_another_kind_of_numbers_is_refused(shape: list[int], dtype: str, says: str) -> None:
    recorded = {"parameters": [["a", shape]], "dtype": dtype}
    with pytest.raises(fut.ModelError, match=says):
        DeferredObjective(recorded, 2, torch.device("cpu"), None, list, list)  # type: ignore[arg-type]


def test_it_is_built_in_settings_of_its_own(kept: Path) -> None:
    """Whatever holds where it is first needed."""
    truth = fut.open(kept, device="cpu", progress=silent).retrain("reverse")
    expected = truth.state_dict()
    for settings in (torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.no_grad()):
        again = fut.open(kept, device="cpu", progress=silent).retrain("reverse")
        with settings:
            found = again.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_building_it_is_no_part_of_a_trainings_time(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Context.__dict__["_built_problem"].func
    clock = [0.0]
    monkeypatch.setattr("fut.training.trainer.time.perf_counter", lambda: clock[0])

    def slow(self: Context) -> Any:
        clock[0] += 100.0
        return built(self)

    monkeypatch.setattr(Context.__dict__["_built_problem"], "func", slow)
    assert fut.open(kept, device="cpu", progress=silent).retrain("random:31").seconds == 0.0
    assert clock[0] == 100.0
