"""Exponents of the order's noise on a run's own model, in double precision, and which models are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import Cli, MakeRun, small_config
from torch import Tensor, nn
from user_loops import recorded

import fut
from fut.api.questions import slopes_window
from fut.errors import UsageError
from fut.estimation.own_window import in_precision, own_window
from fut.studies.noise.slopes import SlopesRequest, noise_slopes, text

RULES = ("sgd", "momentum", "adamw")


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> fut.Run:
    """Eight steps of two items, in single precision."""
    return make_run(False, data={"items": 16, "per_step": 2, "batch": 1})


def test_exponents_are_four_without_memory_and_two_with_it(run: fut.Run) -> None:
    request = SlopesRequest(4, 4, rules=RULES)
    found = noise_slopes(request, own=own_window(run.context, 4, "float64", 4))
    assert set(found.slopes) == set(RULES)
    small = {name: slope.small for name, slope in found.slopes.items()}
    assert small["sgd"] == pytest.approx(4.0, abs=0.1)
    assert small["momentum"] == pytest.approx(2.0, abs=0.1)
    assert small["adamw"] == pytest.approx(2.0, abs=0.1)
    assert f"on the run's model, {run.context.parameters:,} parameters" in text(found)


def test_the_window_is_the_runs_last_steps_with_its_own_gradients_in_double(run: fut.Run) -> None:
    window = own_window(run.context, 3, "float64", 2)
    assert [list(entry) for entry in window.entries] == [list(step) for step in run.reference.steps[5:]]
    assert len(window.history) == 5 + 1
    problem = run.context.problem
    for place, gradient in enumerate(window.history[:-1]):
        items = list(run.reference.steps[place])
        expected = problem.mean_gradient(run.context.state(place).theta, items, [0.5, 0.5])
        assert gradient.dtype == torch.float64
        assert float((gradient - expected).norm() / expected.norm()) < 1e-5
    assert torch.equal(window.history[-1], run.context.state(5).theta.double())
    assert float(window.probe_loss(window.history[-1][None])[0]) == pytest.approx(
        problem.probe_loss(run.context.state(5).theta), abs=1e-5
    )
    assert len(own_window(run.context, 8, "float64", 2).history) == 8 + 1, (
        "of the window's own steps where it is the run"
    )
    assert run.context.problem.objective.dtype == torch.float32, "the run itself is as it was"


def test_a_recorded_training_is_taken_on_its_own_model(tmp_path: Path) -> None:
    found = recorded(tmp_path / "run")
    window, archive = slopes_window(found.context, SlopesRequest(3, 3, rules=("sgd",)))
    assert noise_slopes(SlopesRequest(3, 3, rules=("sgd",)), own=window, archive=archive).slopes["sgd"].small == (
        pytest.approx(4.0, abs=0.15)
    )


class Rounding(nn.Module):
    """A model that rounds to single precision within, whatever its parameters are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x).float())


class Fixed(Rounding):
    """A model that takes no double precision at all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer.weight @ torch.ones(3, 1)).T + 0 * x[:, :2]


def squares(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().mean()


@pytest.mark.parametrize(("kind", "said"), [(Rounding, "Rounding, which rounds"), (Fixed, "one that fails there")])
def test_a_model_that_is_not_double_is_refused_by_name(tmp_path: Path, kind: type[nn.Module], said: str) -> None:
    draw = torch.Generator().manual_seed(0)
    items = [(torch.randn(4, 3, generator=draw),) for _ in range(5)]
    config = small_config(data={"items": 5}, warmup={"steps": 0})
    data = fut.Dataset(items, items[:2], [])
    run = fut.train(tmp_path / "run", config, module=kind(), loss=squares, data=data, device="cpu")
    with pytest.raises(UsageError, match=f"expected a model that computes in float64.*{said}"):
        own_window(run.context, 3, "float64", 2)
    assert own_window(run.context, 3, "float32", 2).problem.objective.dtype == torch.float32


def test_what_cannot_be_taken_is_refused(run: fut.Run, make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="expected at most 8 steps, got 9"):
        own_window(run.context, 9, "float64", 2)
    with pytest.raises(UsageError, match=r"expected rules of sgd, .* got adamv"):
        SlopesRequest(rules=("adamv",))


def test_a_problem_in_another_precision_has_the_same_numbers(run: fut.Run) -> None:
    problem = in_precision(run.context.problem, torch.float64)
    assert problem.config.model.dtype == "float64"
    theta = run.context.state(0).theta
    assert problem.probe_loss(theta.double()) == pytest.approx(run.context.problem.probe_loss(theta), abs=1e-5)
    assert problem.objective.start().dtype == torch.float64


def test_the_command_takes_a_run_and_keeps_the_answer(run: fut.Run, cli: Cli) -> None:
    flags = ("--steps", 3, "--permutations", 3, "--rule", "sgd", "--rule", "adamw", "--json", "--device", "cpu")
    said = cli("noise", "slopes", run.path, *flags)
    assert said.status == 0, said.err
    found = noise_slopes(SlopesRequest(3, 3, rules=("sgd", "adamw")), own=own_window(run.context, 3, "float64", 3))
    assert said.json == json.loads(json.dumps(found.as_dict()))
    (kept,) = run.path.glob("answers/slopes-*.json")
    assert json.loads(kept.read_text())["slopes"] == said.json["slopes"]
