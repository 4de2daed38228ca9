"""LoRA on a Llama model in a loop of your own: only the adapters are trained, and only they are state."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import fut

torch.manual_seed(0)
base = LlamaForCausalLM(
    LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
)
model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
tokens = (torch.randint(1, 4, (22, 8, 12)).cumsum(2) + torch.randint(64, (22, 8, 1))) % 64

recorder = fut.Recorder("runs/lora", start=4, steps=16)
with recorder.watch(model, optimizer):
    for batch in tokens[:20]:
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

run = recorder.finish(probe=[{"input_ids": batch, "labels": batch} for batch in tokens[20:]])
run.cache(["adjoint"])
accuracy = run.verify(orders=12, estimators=["adjoint"]).estimators["adjoint"]
print("Spearman with 12 orders retrained:", accuracy["spearman"])
