"""Models of Hugging Face and rows of tokens, small, made from configurations: nothing is downloaded."""

from __future__ import annotations

import json
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import fut

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
