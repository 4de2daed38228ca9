"""A loop of your own: recorded, and asked what another order would have given."""

import torch
from torch import nn

import fut

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
x = torch.randn(24, 8, 4)
y = x.sum(-1).sign().clamp(min=0).long()


def loss(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(x), y)


recorder = fut.Recorder("runs/loop", start=4, steps=16, loss=loss, clip=1.0)
with recorder.watch(model, optimizer):
    for batch in zip(x[:20], y[:20], strict=True):
        recorder.item(*batch)  # labels are not forwarded, so the item is said
        loss(model, *batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

run = recorder.finish(probe=list(zip(x[20:], y[20:], strict=True)))
run.cache(["adjoint"])
accuracy = run.verify(orders=12, estimators=["adjoint"]).estimators["adjoint"]
print("Spearman with 12 orders retrained:", accuracy["spearman"])
