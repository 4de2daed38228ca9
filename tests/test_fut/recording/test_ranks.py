"""Two processes that train one model: the items of a step are those of both, and each of them opens the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import LENGTH, gpt2, rows
from hf_models import PROBE as TOKENS
from torch import nn
from torch.multiprocessing.spawn import spawn
from transformers import Trainer, TrainingArguments
from two_processes import joined, port
from user_loops import PROBE, adamw, batches, net

import fut
from fut.errors import ModelError

STEPS, RANKS = 4, 2


def loop(rank: int, path: str, spoiled: bool) -> dict[str, Any]:
    """A loop of `DistributedDataParallel`, recorded; what one process found."""
    model = net()
    parallel, optimizer = nn.parallel.DistributedDataParallel(model), adamw(model)
    recorder = fut.Recorder(path, start=1, steps=STEPS)
    with recorder.watch(parallel, optimizer):
        for step, given in enumerate(batches((1 + STEPS) * RANKS)):
            if step % RANKS == rank:
                parallel(*given).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.3)
                optimizer.step()
                optimizer.zero_grad()
                if spoiled and step // RANKS == 2:
                    model.head.bias.data.add_(0.05)
    try:
        run = recorder.finish(PROBE, device="cpu")
    except ModelError as error:
        return {"error": str(error)}
    with torch.no_grad():
        own = torch.stack([model(**batch) for batch in PROBE]).mean().item()
    return {"steps": run.steps, "items": run.items, "loss": run.reference_loss, "own": own}


def of_trainer(path: str) -> dict[str, Any]:
    """The Hugging Face trainer, whose losses are divided by the targets of all processes, which differ from step to step."""
    given = [
        {**row, "labels": row["labels"].where(torch.arange(LENGTH) < 4 + number % 6, -100)}
        for number, row in enumerate(rows(48))
    ]
    recorder = fut.Recorder(path, start=1, steps=STEPS)
    arguments = TrainingArguments(
        output_dir=f"{path}-out",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        learning_rate=3e-3,
        max_steps=1 + STEPS,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
    )
    Trainer(model=gpt2(), args=arguments, train_dataset=given, callbacks=[recorder.callback()]).train()
    return {"items": recorder.finish(TOKENS, device="cpu").items}


def work(rank: int, free: int, path: str) -> None:
    """What one process does."""
    with joined(rank, RANKS, free):
        said = [loop(rank, f"{path}-{spoiled}", spoiled) for spoiled in (False, True)]
        said.append(of_trainer(f"{path}-trainer"))
        Path(f"{path}.{rank}.json").write_text(json.dumps(said))


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    spawn(work, (port(), str(tmp_path / "run")), nprocs=RANKS)
    for rank in range(RANKS):
        sound, spoiled, trainer = json.loads((tmp_path / f"run.{rank}.json").read_text())
        assert (sound["steps"], sound["items"]) == (STEPS, STEPS * RANKS)
        assert sound["loss"] == pytest.approx(sound["own"], abs=1e-6)
        assert trainer["items"] == STEPS * RANKS * 2
        assert "end where the training did" in spoiled["error"]
    assert not (tmp_path / "run-True").exists()
    for name in ("run-False", "run-trainer"):
        recorded = json.loads((tmp_path / name / "recording.json").read_text())
        assert max(recorded["replay_errors"].values()) <= 2e-5
    run = fut.open(tmp_path / "run-False", module=net(), device="cpu")
    for item, given in zip(run.context.problem.data.items, list(batches(RANKS * (1 + STEPS)))[RANKS:], strict=True):
        assert torch.equal(item[0], given[0]), "rank by rank inside a step"
