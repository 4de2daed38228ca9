"""What recording costs a training: the same window with and without the recorder, in turns, in one process.

python benchmarks/recorder_overhead.py                              (on an idle machine; trains GPT-2 models of its own)

A pair is a window of T steps trained alone and the same window recorded, from the same state, side by side: step by step in
turns, one of the two first by turns, so that what else the machine does disturbs both alike. The overhead of a pair is
recorded / alone - 1: all that the recorder does from the first step of the window to the last, the copy of the state at its
beginning and the proof of its first step included. Proof and copy are timed apart too, as they are once per window, whatever T.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from record import began, resumed, write_record
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import fut
from fut.recording.watch import Watch

VOCABULARY, LENGTH, ROWS = 256, 64, 8
SIZES = {"small": (2, 48, 4), "medium": (4, 128, 4), "large": (6, 320, 8)}
"""Layers, width and heads."""
ARMS = ("alone", "recorded")


def model(size: str, dropout: float) -> Any:
    torch.manual_seed(0)
    layers, width, heads = SIZES[size]
    drops: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    none: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=width, n_layer=layers, n_head=heads, **drops, **none
    )
    return GPT2LMHeadModel(config).train()


def train(of: Any, optimizer: Any, batches: Sequence[Tensor], accumulate: int) -> Iterator[tuple[float, float]]:
    """Wall and processor seconds of every step of a loop over micro-batches."""
    for first in range(0, len(batches), accumulate):
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches[first : first + accumulate]:
            (of(input_ids=batch, labels=batch).loss / accumulate).backward()
        nn.utils.clip_grad_norm_(of.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield time.perf_counter() - wall, time.process_time() - cpu


class Timed:
    """How long opening the window and the proof of its first step take, by the method's name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._own = {name: getattr(Watch, name) for name in ("_open",)} | {"_check_first": fut.Recorder._check_first}

    def __enter__(self) -> Timed:
        for name, method in self._own.items():
            setattr(fut.Recorder if name == "_check_first" else Watch, name, self._timing(name, method))
        return self

    def __exit__(self, *raised: object) -> None:
        for name, method in self._own.items():
            setattr(fut.Recorder if name == "_check_first" else Watch, name, method)

    def _timing(self, name: str, method: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            began_at = time.perf_counter()
            found = method(*arguments)
            self.seconds[name] = time.perf_counter() - began_at
            return found

        return timed


def pair(start: Any, batches: Sequence[Tensor], arguments: argparse.Namespace, accumulate: int) -> dict[str, Any]:
    """Wall and processor seconds of one window alone and of the same recorded, step by step in turns."""
    models = {arm: copy.deepcopy(start) for arm in ARMS}
    optimizers = {arm: torch.optim.AdamW(own.parameters(), lr=1e-3) for arm, own in models.items()}
    spent: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as path, Timed() as timed:
        recorder = fut.Recorder(Path(path) / "run", steps=arguments.steps, clip=1.0)
        with recorder.watch(models["recorded"], optimizers["recorded"]):
            loops = {arm: train(models[arm], optimizers[arm], batches, accumulate) for arm in ARMS}
            for step in range(arguments.steps):
                for arm in ARMS if step % 2 else reversed(ARMS):
                    spent[arm].append(next(loops[arm]))
    opened = timed.seconds["_open"]  # as a window that begins at the first step is opened before it
    found: dict[str, Any] = {arm: [sum(part) for part in zip(*listed, strict=True)] for arm, listed in spent.items()}
    found["recorded"] = [seconds + opened for seconds in found["recorded"]]
    return found | {"once": timed.seconds, "load": load}


def measured(size: str, accumulate: int, dropout: float, arguments: argparse.Namespace) -> dict[str, Any]:
    start = model(size, dropout)
    draw = torch.Generator().manual_seed(1)
    shape = (ROWS, LENGTH)
    batches = [torch.randint(VOCABULARY, shape, generator=draw) for _ in range(arguments.steps * accumulate)]
    pair(start, batches, arguments, accumulate)  # warm
    pairs = [pair(start, batches, arguments, accumulate) for _ in range(arguments.pairs)]
    row: dict[str, Any] = {
        "size": size,
        "parameters": sum(p.numel() for p in start.parameters()),
        "accumulate": accumulate,
        "dropout": dropout,
        "load": statistics.median(p["load"] for p in pairs),
        "step_seconds": statistics.median(p["alone"][0] for p in pairs) / arguments.steps,
        "pairs": pairs,
    }
    for place, kind in enumerate(("wall", "processor")):
        ratios = sorted(p["recorded"][place] / p["alone"][place] - 1 for p in pairs)
        low, high = (statistics.quantiles(ratios, n=4)[k] for k in (0, 2))
        row[f"{kind}_overhead"] = {"median": statistics.median(ratios), "quartiles": [low, high]}
    once = [sum(p["once"].values()) / p["alone"][0] for p in pairs]
    row["once_share"] = statistics.median(once)
    print({key: value for key, value in row.items() if key != "pairs"}, file=sys.stderr, flush=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each setting: medians [quartiles] over pairs."""
    lines = [
        "| parameters | micro-batches in a step | dropout | n | load | processor overhead, % | wall overhead, % | once, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row['parameters']:,}",
            row["accumulate"],
            f"{row['dropout']:g}",
            len(row["pairs"]),
            f"{row['load']:.1f}",
        ]
        for kind in ("processor", "wall"):
            found = row[f"{kind}_overhead"]
            low, high = found["quartiles"]
            cells.append(f"{100 * found['median']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        lines.append("| " + " | ".join(map(str, [*cells, f"{100 * row['once_share']:.1f}"])) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    cli.add_argument("--steps", type=int, default=64, help="T of the window")
    cli.add_argument("--pairs", type=int, default=12)
    cli.add_argument("--name", default="recorder-overhead")
    cli.add_argument("--no-record", action="store_true", help="print only")
    cli.add_argument("--table", action="store_true", help="print the record's table, and measure nothing")
    arguments = cli.parse_args(argv)
    if arguments.table:
        print(table(resumed(arguments.name, ())[0]))
        return 0
    torch.set_num_threads(1)
    started = None if arguments.no_record else began(arguments.name)
    rows, done = ([], set()) if started is None else resumed(arguments.name, ("size", "accumulate", "dropout"))
    for size in arguments.sizes:
        for accumulate, dropout in ((1, 0.0), (4, 0.0), (1, 0.1)):
            if (size, accumulate, dropout) in done:
                continue
            rows.append(measured(size, accumulate, dropout, arguments))
            if started is not None:
                write_record(arguments.name, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
