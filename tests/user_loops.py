"""Trainings as users write them, small: a loop with a schedule, clipping and accumulation, alone or recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import fut

STEPS, FIRST = 6, 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(x).tanh()))
        return out if y is None else nn.functional.cross_entropy(out, y)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batches(count: int, seed: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(5, 4, generator=draw)
        yield x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


PROBE = [{"x": x, "y": y} for x, y in batches(3, seed=9)]


def adamw(model: nn.Module) -> Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=0.02)


def trained(
    model: Net,
    optimizers: list[Optimizer],
    count: int = FIRST + STEPS + 1,
    accumulate: int = 1,
    clip: float | None = None,
    explicit: fut.Recorder | None = None,
) -> None:
    """A user's own loop, with a warm-up and a decay of the rate."""

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 4) * (1 - step / 40)

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    given = batches(count * accumulate)
    for _ in range(count):
        for _ in range(accumulate):
            x, y = next(given)
            if explicit is None:
                loss = model(x, y)
            else:
                explicit.item(x, y)
                loss = nn.functional.cross_entropy(model(x), y)
            (loss / accumulate).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def recorded(path: Path, make: Callable[[nn.Module], Any] = adamw, start: int = FIRST, **loop: Any) -> fut.Run:
    model = net()
    made = make(model)
    optimizers = made if isinstance(made, list) else [made]
    recorder = fut.Recorder(path, start=start, steps=STEPS)
    with recorder.watch(model, *optimizers):
        trained(model, optimizers, **loop)
    return recorder.finish(PROBE, device="cpu")


def replay_error(run: fut.Run) -> float:
    """The largest, as a fraction of how far the parameters moved."""
    said = json.loads((run.path / "recording.json").read_text())
    return float(max(said["replay_errors"].values()))


def other() -> nn.Module:
    """Another module than `net`."""
    return nn.Linear(4, 3)


def no_model() -> None:
    """What makes no module."""
