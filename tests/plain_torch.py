"""Plain training with torch.optim on a copy of a user's module: the truth that contract tests compare fut with."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fut

Item = tuple[Tensor, ...]
Loss = Callable[..., Tensor]
RATE = 1e-2
RULES: dict[str, dict[str, Any]] = {
    "adamw": {"name": "adamw", "options": {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}},
    "adam": {"name": "adamw", "options": {"betas": [0.9, 0.95], "eps": 1e-8}},
    "sgd": {"name": "sgd", "options": {}},
}


def optimizer(rule: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if rule == "sgd":
        return torch.optim.SGD(parameters, RATE)
    return torch.optim.AdamW(parameters, RATE, (0.9, 0.95), 1e-8, 0.1 if rule == "adamw" else 0.0)


def config(items: int, rule: str = "adamw", **sections: dict[str, Any]) -> fut.Config:
    """A constant rate, no warm-up."""
    own: dict[str, dict[str, Any]] = {
        "data": {"items": items},
        "warmup": {"steps": 0},
        "schedule": {"kind": "constant", "rate": RATE},
        "rule": RULES[rule],
    }
    merged = {name: own.get(name, {}) | sections.get(name, {}) for name in {*own, *sections}}
    return fut.load_config(None, (), None, **merged)


def by_fut(
    path: Path,
    net: nn.Module,
    loss: Loss,
    items: Sequence[Item],
    probe: Sequence[Item],
    rule: str = "adamw",
    **sections: Any,
) -> fut.Run:
    data = fut.Dataset(tuple(items), tuple(probe))
    chosen = config(len(items), rule, **sections)
    return fut.train(path, chosen, module=net, loss=loss, data=data, device="cpu")


def seeded_by(item: Item) -> None:
    """All generators seeded by the item's content, as the documentation says: written out here."""
    h = hashlib.sha256()
    for tensor in item:
        array = tensor.numpy()
        h.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    seed = int.from_bytes(h.digest()[:7], "little")
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def by_torch(
    net: nn.Module,
    loss: Loss,
    items: Sequence[Item],
    probe: Sequence[Item],
    order: Sequence[int],
    rule: str = "adamw",
    dtype: torch.dtype | None = None,
    noisy: bool = False,
) -> float:
    """The mean probe loss after one step per item. noisy: every call is seeded by its item's content."""
    m, of = copy.deepcopy((net, loss)) if isinstance(loss, nn.Module) else (copy.deepcopy(net), loss)
    m = m if dtype is None else m.to(dtype)
    own = [p for p in m.parameters() if p.requires_grad]
    if isinstance(of, nn.Module):
        own += [p for p in of.parameters() if p.requires_grad and all(p is not q for q in own)]
    steps = optimizer(rule, own)

    def value(item: Item) -> Tensor:
        if noisy:
            seeded_by(item)
        return of(m, *item)

    for i in order:
        steps.zero_grad()
        value(items[i]).backward()
        steps.step()
    m.eval()
    if isinstance(of, nn.Module):
        of.eval()
    with torch.no_grad():
        return sum(value(p).item() for p in probe) / len(probe)


def numbers(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Normal numbers [count, *shape]."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def pairs(count: int, rows: int = 4, width: int = 6) -> list[Item]:
    """Items of samples and labels of two classes."""
    x = numbers(count, rows, width)
    return list(zip(x, (x.sum(-1) > 0).long(), strict=True))


def tokens(count: int, vocabulary: int = 9, rows: int = 3, length: int = 6) -> list[Item]:
    drawn = torch.randint(1, vocabulary, (count, rows, length), generator=torch.Generator().manual_seed(3))
    return [(t,) for t in drawn]


def cross_entropy(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(m(x), y)


def next_token(m: nn.Module, t: Tensor) -> Tensor:
    return nn.functional.cross_entropy(m(t[:, :-1]).flatten(0, 1), t[:, 1:].flatten())


def perceptron(width: int = 6, hidden: int = 8, classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, classes))


def made(cls: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """A module with seeded starting values."""
    torch.manual_seed(0)
    return cls(*arguments)


class Body(nn.Module):
    """A layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.f(x))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.hidden(x))
        return found
