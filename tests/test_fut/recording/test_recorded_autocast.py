"""Trainings under autocast to bfloat16: recorded with it, replayed under it, and asked about another order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import PROBE as ROWS
from hf_models import gpt2, recording, rows
from test_fut.recording.test_lightning import Module, data, trainer
from torch import nn
from transformers import Trainer, TrainingArguments
from user_loops import PROBE, STEPS, adamw, batches, net, replay_error

import fut
from fut.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore")


def loop(recorder: fut.Recorder, dtype: torch.dtype = torch.bfloat16, until: int = STEPS + 3) -> None:
    """A user's own loop; autocast in its first steps."""
    model = net()
    optimizer = adamw(model)
    with recorder.watch(model, optimizer):
        for step, (x, y) in enumerate(batches(STEPS + 3)):
            with torch.autocast("cpu", dtype, enabled=step < until):
                loss = model(x, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    recorder = fut.Recorder(tmp_path / "run", start=2, steps=STEPS)
    loop(recorder)
    run = recorder.finish(PROBE, device="cpu")
    assert run.context.config.model.autocast == "bfloat16"
    assert recording(run)["gradient_error"] <= 1e-6
    assert replay_error(run) <= 1e-3, "of the same rounding, but for what flips where a rule rounds otherwise"
    assert run.retrain("identity").loss == run.reference_loss
    run.cache(["adjoint"])
    [estimated], [truth] = (run.estimate(["reverse"], name, known=False) for name in ("adjoint", "retrain"))
    assert abs(estimated.value - truth.value) < 0.5 * abs(truth.delta) + 5e-3


def test_the_trainer_of_hugging_face(tmp_path: Path) -> None:
    recorder = fut.Recorder(tmp_path / "run", start=2, steps=5)
    settings: dict[str, Any] = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        max_steps=8,
        use_cpu=True,
        bf16=True,
        **settings,
    )
    Trainer(model=gpt2(), args=arguments, train_dataset=rows(64), callbacks=[recorder.callback()]).train()
    run = recorder.finish(ROWS, device="cpu")
    assert run.context.config.model.autocast == "bfloat16"
    assert max(recording(run)["replay_errors"].values()) <= 1e-2


def test_the_trainer_of_lightning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recorder = fut.Recorder(tmp_path / "run", start=2, steps=5)
    trainer(recorder, max_steps=8, precision="bf16-mixed").fit(Module(), data(False))
    run = recorder.finish([(b["x"], b["y"]) for b in PROBE], device="cpu")
    assert run.context.config.model.autocast == "bfloat16"
    assert replay_error(run) <= 1e-3


def test_half_precision_and_a_window_of_two_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"got float16, whose gradients are scaled"):
        loop(fut.Recorder(tmp_path / "half", steps=STEPS), torch.float16)
    with pytest.raises(ModelError, match="got forward passes with and without autocast"):
        loop(fut.Recorder(tmp_path / "two", steps=STEPS), until=3)


def test_a_loss_outside_of_autocast_that_casts_to_float32_is_the_same(tmp_path: Path) -> None:
    model = net()
    recorder = fut.Recorder(tmp_path / "run", steps=2, loss=lambda m, x, y: nn.functional.cross_entropy(m(x), y))
    optimizer = adamw(model)
    with recorder.watch(model, optimizer):
        for x, y in batches(4):
            recorder.item(x, y)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            nn.functional.cross_entropy(logits.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = recorder.finish([(b["x"], b["y"]) for b in PROBE], device="cpu")
    assert run.context.config.model.autocast == "bfloat16", "cross entropy is in float32 under autocast too"
