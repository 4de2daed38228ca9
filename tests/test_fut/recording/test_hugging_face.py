"""Models and trainers of Hugging Face, made from configurations: recorded, replayed, and asked about another order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import PROBE, gpt2, llama, lora, recording, rows, stacked
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

import fut

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize("make", [gpt2, llama, lora])
def test_a_loop_of_ones_own(tmp_path: Path, make: Any) -> None:
    model = make().train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.1)
    scheduler = get_scheduler("linear", optimizer, 3, 20)
    data = rows(2 * 2 * 8)
    recorder = fut.Recorder(tmp_path / "run", start=2, steps=5, clip=1.0)
    with recorder.watch(model, optimizer):
        for step in range(8):
            for part in range(2):
                first = 4 * step + 2 * part
                (model(**stacked(data[first : first + 2])).loss / 2).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    run = recorder.finish(PROBE, device="cpu")
    # Key biases have no gradient but for rounding, which AdamW magnifies.
    assert max(recording(run)["replay_errors"].values()) <= 1e-4
    assert run.context.problem.objective.size == sum(p.numel() for p in trained)
    run.cache(["adjoint"])
    [estimated], [truth] = (run.estimate(["reverse"], name) for name in ("adjoint", "retrain"))
    assert estimated.value != run.reference_loss
    assert abs(estimated.value - truth.value) < 0.5 * abs(truth.delta) + 1e-3


@pytest.mark.parametrize("clip", [1.0, 0.3])
def test_the_trainer(tmp_path: Path, clip: float) -> None:
    recorder = fut.Recorder(tmp_path / "run", start=4, steps=6)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_grad_norm=clip,
        learning_rate=3e-3,
        lr_scheduler_type="linear",
        warmup_steps=4,
        weight_decay=0.1,
        max_steps=12,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=gpt2(), args=arguments, train_dataset=rows(96), callbacks=[recorder.callback()])
    trainer.train()
    run = recorder.finish(PROBE, device="cpu")
    assert max(recording(run)["replay_errors"].values()) <= 1e-5
    assert (run.steps, run.items) == (6, 24)
    rule = run.context.problem.rule
    assert (rule.name, rule.clip) == ("grouped", clip)
