"""Time of a step of our rules beside that of torch's optimizers, interleaved in one process.

OMP_NUM_THREADS=1 python benchmarks/step_time.py

A transformer's tensors with about 10M parameters in all, with given gradients: only the step is timed. In every repeat each
contender takes some steps, in an order that turns, so that what else the machine does falls on all alike. The record has the
median and the quartiles over repeats of the wall clock and of the processor's time, and the median of the ratio to torch's
foreach form within a repeat. On a busy machine the wall clock of long steps holds the time of others: use the processor's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from record import began, write_record
from torch import nn

from estimators.parameters import ParameterLayout
from estimators.rules import make_rule
from estimators.rules.base import Rule, next_state
from estimators.rules.memory import reused
from fut.models.transformer import Transformer

BETAS, DECAY, RATE = (0.9, 0.95), 0.1, 1e-3
Step = Callable[[], None]


def module(width: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    return Transformer(4096, 256, width, layers, 8)


def ours(rule: Rule, like: nn.Module) -> Step:
    """Steps of a rule, as a run takes them: on one run's parameters [1, D]."""
    named = [(name, tuple(p.shape)) for name, p in like.named_parameters()]
    layout = ParameterLayout(tuple(n for n, _ in named), tuple(s for _, s in named))
    bound = rule.on(layout)
    theta = torch.cat([p.detach().flatten() for p in like.parameters()])[None]
    gradient, held = torch.randn(theta.shape, generator=torch.Generator().manual_seed(1)), [bound.init(theta)]

    def step() -> None:
        held[0] = next_state(bound, held[0], gradient, RATE)

    return step


def theirs(like: nn.Module, groups: bool, **form: bool) -> Step:
    """Steps of torch.optim.AdamW on the same tensors."""
    parameters = [nn.Parameter(p.detach().clone()) for p in like.parameters()]
    draw = torch.Generator().manual_seed(1)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=draw)
    tables: list[dict[str, Any]] = [{"params": parameters, "weight_decay": DECAY}]
    if groups:
        wide = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        tables = [{"params": wide, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(tables, lr=RATE, betas=BETAS, **form)

    def step() -> None:
        optimizer.step()

    return step


def contenders(like: nn.Module) -> dict[str, Step]:
    plain, decayed = {"betas": BETAS}, {"betas": BETAS, "weight_decay": DECAY}
    wide = [name for name, p in like.named_parameters() if p.ndim > 1]
    groups = [{"name": "decayed", "tensors": wide, "options": decayed}, {"name": "plain", "options": plain}]
    return {
        "torch, foreach": theirs(like, groups=False, foreach=True),
        "torch, fused": theirs(like, groups=False, fused=True),
        "torch, tensor by tensor": theirs(like, groups=False, foreach=False, fused=False),
        "ours": ours(make_rule("adamw", **decayed), like),
        "torch, two groups, foreach": theirs(like, groups=True, foreach=True),
        "torch, two groups, fused": theirs(like, groups=True, fused=True),
        "ours, two groups": ours(make_rule("grouped", groups=groups), like),
    }


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def measured(steps: dict[str, Step], repeats: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of a step by contender and clock, a value a repeat."""
    found: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in CLOCKS} for name in steps}
    names = list(steps)
    for name in names:  # memory is made in the first
        steps[name]()
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            began = {clock: now() for clock, now in CLOCKS.items()}
            for _ in range(count):
                steps[name]()
            for clock, now in CLOCKS.items():
                found[name][clock].append((now() - began[clock]) / count)
    return found


def row(name: str, found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """A contender's figures: of each clock the median, the quartiles and the median ratio to foreach."""
    base = found["torch, two groups, foreach" if "two groups" in name else "torch, foreach"]
    figures: dict[str, Any] = {"optimizer": name}
    for clock, seconds in found[name].items():
        low, median, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
        ratio = float(np.median(np.asarray(seconds) / np.asarray(base[clock])))
        figures[clock] = {"seconds": median, "quartiles": [low, high], "to_foreach": ratio}
        text = f"{clock} {median * 1e3:7.1f} ms [{low * 1e3:.1f}, {high * 1e3:.1f}] {ratio:5.2f} of foreach"
        print(f"{name:28s} {text}", file=sys.stderr, flush=True)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--width", type=int, default=256)
    cli.add_argument("--layers", type=int, default=10)
    cli.add_argument("--repeats", type=int, default=35)
    cli.add_argument("--steps", type=int, default=3, help="of each contender in a repeat")
    cli.add_argument("--name", default="step-time")
    arguments = cli.parse_args(argv)
    started, like = began(), module(arguments.width, arguments.layers)
    with reused():
        found = measured(contenders(like), arguments.repeats, arguments.steps)
    rows = [row(name, found) for name in found]
    settings = vars(arguments) | {"parameters": sum(p.numel() for p in like.parameters())}
    write_record(arguments.name, settings, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
