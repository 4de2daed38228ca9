"""One item with a gradient far steeper than the others', under clipping: how well orders are estimated.

python benchmarks/steep_items.py --work DIR

A small network is trained on random vectors, with clipping at 1; the targets of one item are 1 to 100 times as large as the
others'. Estimates of the adjoint whose steep parts have their own injections are compared with those of mean injections for all
parts, on the same retrained orders.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measured_rows import Row, Rows, run, with_frame
from torch import Tensor, nn

import fut
from fut.methods import curvature_batches
from fut.methods.adjoint import quadratic
from fut.progress import silent

STEPS, ROWS, WIDTH, INPUTS, STEEP = 12, 2, 8, 4, 9
INJECTIONS = ("mean", "own")
NEVER = 10**9
"""Places from which on products would be compared, and times the median that a gradient would be too long: never."""


class Network(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.first(x)))
        return out


def loss_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = (module(x) - y).square().mean()
    return loss


def data_of(seed: int, steepness: float) -> fut.Dataset:
    """Items of two rows, two of them to warm up; the targets of one are so many times larger."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(STEPS + 4, ROWS, INPUTS, generator=draw)
    y = torch.randn(STEPS + 4, ROWS, 1, generator=draw)
    y[STEEP] *= steepness
    items = tuple(zip(x, y, strict=True))
    return fut.Dataset(items[:STEPS], items[STEPS : STEPS + 2], items[STEPS + 2 :])


@contextmanager
def taken_by(injections: str) -> Iterator[None]:
    """Products and functionals by the mean injections alone, or as they are."""
    if injections != "mean":
        yield
        return
    with patch.object(curvature_batches, "COMPARED", NEVER), patch.object(quadratic, "OUTLYING", NEVER):
        yield


def measure(setting: Row, arguments: argparse.Namespace) -> Row:
    """What the adjoint says about n orders of one window."""
    path = arguments.work / "-".join(map(str, setting.values()))
    shutil.rmtree(path, ignore_errors=True)
    sections: dict[str, Any] = {
        "data": {"items": STEPS},
        "warmup": {"steps": 2},
        "rule": {"name": "adamw", "options": {"clip": 1.0}},
        "schedule": {"kind": "cosine", "rate": arguments.rate},
    }
    config = fut.load_config(None, arguments.settings, **sections)
    data = data_of(setting["seed"], setting["steepness"])
    made = fut.train(path, config, module=Network(), loss=loss_of, data=data, device="cpu", progress=silent)
    with taken_by(setting["injections"]):
        made.cache(["adjoint"])
    found = made.verify(arguments.orders, 0, ["adjoint"])
    row = found.estimators["adjoint"]
    return setting | {
        "true_sd": found.as_dict()["true_sd"],
        "spearman": row["spearman"],
        "skill": row["skill"],
        "true_losses": found.true_losses,
        "estimated_losses": found.estimated_losses["adjoint"],
    }


def table(rows: Sequence[Row]) -> str:
    """A row for each steepness: medians over seeds [smallest, largest]."""
    lines = ["| targets of one item | injections | seeds | Spearman | skill |", "|---|---|---|---|---|"]
    for steepness in sorted({row["steepness"] for row in rows}):
        for injections in INJECTIONS:
            of = [row for row in rows if (row["steepness"], row["injections"]) == (steepness, injections)]
            if of:
                cells = (spread([row[key] for row in of]) for key in ("spearman", "skill"))
                lines.append(f"| × {steepness:g} | {injections} | {len(of)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--seeds", type=int, default=12)
    cli.add_argument("--steepness", type=float, nargs="+", default=[1.0, 10.0, 30.0, 100.0])
    cli.add_argument("--rate", type=float, default=0.03)
    arguments = with_frame(cli, "steep-items").parse_args(argv)
    rows = Rows(("seed", "steepness", "injections"), measure, table, {"steps": STEPS, "rows": ROWS, "width": WIDTH})
    settings = [(s, x, i) for s in range(arguments.seeds) for x in arguments.steepness for i in INJECTIONS]
    return run(cli, arguments, rows, settings)


if __name__ == "__main__":
    sys.exit(main())
