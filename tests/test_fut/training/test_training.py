"""The reference trainer: bitwise replayable, what torch.optim does, refusing what it cannot finish."""

from __future__ import annotations

import hashlib
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE
from small import MakeRun, contents, small_config
from torch.optim.lr_scheduler import LambdaLR

import fut
from estimators.errors import DivergenceError
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.models.transformer import Transformer, next_token_loss
from storage import CheckpointStore, ExistsError, IdentityError

StartPython = Callable[..., "subprocess.Popen[str]"]
ADAMW: dict[str, Any] = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}


def test_retraining_the_reference_order_gives_the_last_checkpoint_bitwise(small_run: fut.Run) -> None:
    truth = small_run.retrain("identity")
    assert torch.equal(truth.theta, small_run.context.state(small_run.steps).theta)
    assert truth.loss == small_run.reference_loss


def test_the_same_configuration_gives_the_same_bytes_in_another_directory(small_run: fut.Run, tmp_path: Path) -> None:
    again = fut.train(tmp_path / "again", small_config(), device="cpu")
    ours, theirs = contents(small_run.path), contents(again.path)
    differing = [name for name in theirs if theirs[name] != ours.get(name)]
    assert differing == []
    assert sum(name.startswith("checkpoints/") for name in theirs) == 6


def test_another_process_retrains_an_order_to_the_same_bytes(small_run: fut.Run, start_python: StartPython) -> None:
    script = """
import sys, hashlib, torch, fut
torch.set_num_threads(1)
from fut.training.trainer import train_order
run = fut.open(sys.argv[1], device="cpu")
found = train_order(run.context.problem, run.context.state(0), run.order("reverse"))
print(repr(found.loss), hashlib.sha256(found.theta.numpy().tobytes()).hexdigest())
"""

    here = small_run.retrain("reverse")
    out, err = start_python(script, small_run.path).communicate(timeout=PATIENCE)
    expected = f"{here.loss!r} {hashlib.sha256(here.theta.numpy().tobytes()).hexdigest()}"
    assert out.strip() == expected, err


def test_every_step_has_a_checkpoint_of_parameters_memory_and_clocks(small_run: fut.Run) -> None:
    assert small_run.context.checkpoints.steps() == [0, 1, 2, 3, 4, 5]
    for step in range(6):
        state = small_run.context.state(step)
        assert state.theta.shape == (small_run.context.parameters,)
        assert {name: m.shape for name, m in state.memory.items()} == {"m": state.theta.shape, "v": state.theta.shape}
        assert state.clock["step"] == 4 + step, "the clock counts the warm-up's steps too"
        assert state.clock["p1"] == pytest.approx(0.9 ** (4 + step), rel=1e-12)
    assert not torch.equal(small_run.context.state(0).theta, small_run.context.state(1).theta)
    assert small_run.context.state(0).memory["v"].abs().sum() > 0, "the warm-up's memory is handed over"


def test_every_checkpoint_records_the_loss_of_the_step_that_led_to_it(small_run: fut.Run) -> None:
    for step in range(small_run.steps):
        loss = small_run.context.problem.objective.loss(
            small_run.context.state(step).theta, small_run.context.problem.data.items[step]
        ).item()
        assert small_run.context.checkpoints.read(step + 1).attributes["train_loss"] == pytest.approx(loss, abs=1e-6)


def torch_optim_endpoint(config: fut.Config, data: Dataset, start: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The slow reference: torch.optim.AdamW, its own module and backward, LambdaLR; no code of the trainer."""
    data_config, model = config.data, config.model
    module = Transformer(data_config.vocabulary, data_config.context, model.width, model.layers, model.heads).double()
    torch.nn.utils.vector_to_parameters(start, module.parameters())
    options = config.rule.options
    optimizer = torch.optim.AdamW(
        module.parameters(), config.schedule.rate, tuple(options["betas"]), options["eps"], options["weight_decay"]
    )
    rates = LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / len(order))))
    for item in order:
        optimizer.zero_grad()
        next_token_loss(module, data.items[item][0]).backward()
        optimizer.step()
        rates.step()
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 3, 0, 4, 1]])
def test_training_is_what_torch_optim_does(make_run: MakeRun, order: list[int]) -> None:
    sections = {"rule": {"name": "adamw", "options": ADAMW}, "model": {"dtype": "float64"}}
    run = make_run(cached=False, **sections, warmup={"steps": 0}, schedule={"kind": "cosine", "rate": 3e-3})
    found = run.retrain(order).theta
    expected = torch_optim_endpoint(run.context.config, run.context.problem.data, run.context.state(0).theta, order)
    assert (expected - run.context.state(0).theta).abs().max() > 1e-3, (
        "a comparison of runs that did not move says nothing"
    )
    assert (found - expected).abs().max() < 1e-10


def test_warm_up_batches_share_no_segment_with_items() -> None:
    data = build_dataset(small_config(data={"context": 40, "batch": 4}, warmup={"steps": 30}))
    items = {tuple(row.tolist()) for item in data.items for row in item[0]}
    warm = {tuple(row.tolist()) for item in data.warmup for row in item[0]}
    assert len(items) == 20
    assert len(data.warmup) == 30
    assert not items & warm


def test_a_finished_run_is_refused_and_left_untouched(own_run: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in own_run.rglob("*")}
    with pytest.raises(ExistsError, match=r"holds a finished run; open it with fut\.open"):
        fut.train(own_run, small_config(), device="cpu")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in own_run.rglob("*")} == before


@pytest.mark.parametrize("foreign", ["file", "directory"])
def test_a_path_that_holds_something_else_is_refused(tmp_path: Path, foreign: str) -> None:
    out = tmp_path / "mine"
    if foreign == "file":
        out.write_text("thesis")
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("thesis")
    with pytest.raises(ExistsError, match="expected a new or empty directory"):
        fut.train(out, small_config(), device="cpu")
    assert "thesis" in (out if foreign == "file" else out / "thesis.tex").read_text()


def interrupted(own_run: Path, after: int) -> Path:
    """The run as a kill after `after` steps leaves it."""
    (own_run / "summary.json").unlink()
    for step in range(after + 1, 6):
        (own_run / f"checkpoints/step-{step:06d}.h5").unlink()
    return own_run


def test_an_interrupted_run_of_another_configuration_names_the_field_and_both_values(own_run: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        fut.train(interrupted(own_run, 2), small_config(schedule={"rate": 0.25}), device="cpu")
    message = str(caught.value)
    for part in ("config.schedule.rate", "0.25", "0.001", "interrupted run of another kind, choose another `out`"):
        assert part in message, part
    assert not (own_run / "checkpoints/step-000003.h5").exists(), "nothing may be added to it"


def test_an_interrupted_run_is_not_opened_as_a_finished_one(own_run: Path) -> None:
    with pytest.raises(FileNotFoundError, match="repeat the `fut train` command"):
        fut.open(interrupted(own_run, 2))


def test_an_interrupted_run_continues_and_keeps_what_it_had(own_run: Path, small_run: fut.Run) -> None:
    kept = (interrupted(own_run, 3) / "checkpoints/step-000003.h5").stat()
    stray = own_run / "checkpoints/step-000004.h5.1-abc-0.part"
    stray.write_bytes(b"half a checkpoint")
    fut.train(own_run, small_config(), device="cpu")
    after = (own_run / "checkpoints/step-000003.h5").stat()
    assert (after.st_ino, after.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert contents(own_run) == contents(small_run.path)
    assert not stray.exists()


@pytest.mark.parametrize(("steps", "kept"), [(5, [0, 1]), (1, [0, 1])])
def test_a_diverging_run_says_so_and_keeps_its_checkpoints(tmp_path: Path, steps: int, kept: list[int]) -> None:
    config = small_config(schedule={"rate": 1e30}, data={"items": steps})
    with pytest.raises(DivergenceError, match="expected a finite loss, got nan; lower"):
        fut.train(tmp_path / "run", config, device="cpu")

    assert CheckpointStore(tmp_path / "run/checkpoints").steps() == kept
    assert not (tmp_path / "run/summary.json").exists(), "a diverged run is not a finished one"


def test_a_number_of_items_that_is_not_the_configured_one_is_refused(tmp_path: Path) -> None:
    data = build_dataset(small_config())
    with pytest.raises(fut.UsageError, match=r"data\.items=7, as configured, got 5"):
        fut.train(tmp_path / "run", small_config(data={"items": 7}), data=data, device="cpu")
    assert not (tmp_path / "run").exists()
