"""Models and trainers of Hugging Face, made from configurations: recorded, replayed, and asked about another order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    get_scheduler,
)

import fut

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WORDS, LENGTH = 32, 10


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    none: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    none |= {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=1, n_head=2, **none)
    model: nn.Module = GPT2LMHeadModel(config)
    return model


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: nn.Module = LlamaForCausalLM(config)
    return model


def lora() -> nn.Module:
    torch.manual_seed(1)
    target = ["q_proj", "v_proj"]
    model: nn.Module = get_peft_model(llama(), LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=target))
    return model


def rows(count: int, seed: int = 1) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, 4, (count, LENGTH), generator=draw)
    tokens = (steps.cumsum(1) + torch.randint(WORDS, (count, 1), generator=draw)) % WORDS
    return [{"input_ids": row, "labels": row.clone()} for row in tokens]


def stacked(given: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in given]) for name in given[0]}


PROBE = [stacked(rows(4, seed)) for seed in (7, 8)]


def recording(run: fut.Run) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((run.path / "recording.json").read_text())
    return said


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
