"""A `transformers.Trainer`: accumulation, clipping, two groups of decay and a schedule with warm-up, recorded by a callback."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import fut

torch.manual_seed(0)
no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
config = GPT2Config(
    vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None, **no_dropout
)
tokens = (torch.randint(1, 4, (272, 12)).cumsum(1) + torch.randint(64, (272, 1))) % 64
data = [{"input_ids": row, "labels": row} for row in tokens]

recorder = fut.Recorder("runs/trainer", start=4, steps=12)
arguments = TrainingArguments(
    output_dir="out",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=4,
    max_grad_norm=1.0,
    learning_rate=2e-3,
    lr_scheduler_type="linear",
    warmup_steps=4,
    weight_decay=0.1,
    max_steps=16,
    report_to=[],
    save_strategy="no",
    use_cpu=True,
)
Trainer(
    model=GPT2LMHeadModel(config), args=arguments, train_dataset=data[:256], callbacks=[recorder.callback()]
).train()

held_out = [{name: torch.stack([row[name] for row in data[i : i + 8]]) for name in data[0]} for i in (256, 264)]
run = recorder.finish(probe=held_out)
run.cache(["adjoint"])
accuracy = run.verify(orders=12, estimators=["adjoint"]).estimators["adjoint"]
print("Spearman with 12 orders retrained:", accuracy["spearman"])
