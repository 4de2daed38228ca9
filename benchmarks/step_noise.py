"""Dropout whose masks travel with the items, or stay at the steps: how well orders are estimated, and what another draw changes.

python benchmarks/step_noise.py --work DIR

A loop trains a GPT-2 model with dropout on text; the same window is recorded twice, with `noise_key` of `item` and of `step`.
Both have the same reference run. Random orders are retrained under each, and the adjoint estimates them with its usual number of
anchors and with an anchor at every step, where no gradient is interpolated. The item's estimates are judged by the step's truth
too: they answer another question.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, resumed, write_record
from scipy.stats import spearmanr
from transformers import GPT2Config, GPT2LMHeadModel

import fut
from fut.data.text import build_dataset
from fut.methods.adjoint.config import AdjointConfig

KEYS = ("item", "step")
LAYERS, WIDTH, HEADS, CLIP = 2, 48, 4, 1.0


def made_model(seed: int, dropout: float, context: int) -> Any:
    """A GPT-2 model of bytes; of a loss that it computes itself."""
    torch.manual_seed(seed)
    drops: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    none: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    sizes: dict[str, Any] = {"n_positions": context, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=256, **sizes, **drops, **none)).train()


def recorded(path: Path, key: str, seed: int, arguments: argparse.Namespace) -> fut.Run:
    """The loop's window as a run."""
    start, steps = arguments.start, arguments.steps
    sections: dict[str, Any] = {
        "data": {"items": steps, "batch": 16, "probe": 64, "seed": seed},
        "warmup": {"steps": start},
    }
    data = build_dataset(fut.load_config(**sections))
    batches = [item[0].long() for item in (*data.warmup, *data.items)]
    model = made_model(seed, arguments.dropout, batches[0].shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(seed + 1)
    recorder = fut.Recorder(path, start=start, steps=steps, clip=CLIP)
    with recorder.watch(model, optimizer):
        for batch in batches:
            model(input_ids=batch, labels=batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
    probe = [{"input_ids": chunk[0].long(), "labels": chunk[0].long()} for chunk in data.probe]
    said: dict[str, Any] = {"model": {"noise_key": key, "unit": "nats/token"}}
    return recorder.finish(probe, device="cpu", settings=said)


def judged(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Of differences from the reference order."""
    rank = float(spearmanr(found, truth)[0])
    return {"spearman": rank, "skill": 1 - float(np.abs(found - truth).mean() / np.abs(truth).mean())}


def measured(seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of a seed."""
    orders, truths = [f"random:{n}" for n in range(arguments.orders)], dict[str, np.ndarray]()
    found, runs = dict[tuple[str, int], np.ndarray](), dict[str, fut.Run]()
    for key in KEYS:
        place = arguments.work / f"{seed}-{key}"
        shutil.rmtree(place, ignore_errors=True)
        runs[key] = recorded(place / "3", key, seed, arguments)
        truths[key] = np.array([e.delta for e in runs[key].estimate(orders, "retrain")])
        for anchors in (3, arguments.steps):
            run = runs[key]
            if anchors != 3:
                shutil.copytree(
                    place / "3", place / str(anchors), ignore=shutil.ignore_patterns("adjoint", "retrained")
                )
                module = run.context.problem.objective.module
                run = fut.open(place / str(anchors), module=module, device="cpu")
            run.cache(["adjoint"], adjoint=AdjointConfig(num_anchors=anchors))
            found[key, anchors] = np.array([e.delta for e in run.estimate(orders, "adjoint", known=False)])
    rows = []
    for key in KEYS:
        row: dict[str, Any] = {
            "seed": seed,
            "key": key,
            "orders": len(orders),
            "parameters": runs[key].context.parameters,
        }
        row["reference_loss"], row["sd_over_orders"] = runs[key].reference_loss, float(truths[key].std(ddof=1))
        row["sd_over_draws"] = runs[key].orders.redraw(arguments.draws).sd
        row["adjoint"] = {str(n): judged(found[key, n], truths[key]) for n in (3, arguments.steps)}
        row["other_truth"] = judged(truths[key], truths["step" if key == "item" else "item"])
        row["of_the_others_truth"] = judged(found[key, 3], truths["step" if key == "item" else "item"])
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each kind of noise: means over seeds [smallest, largest]."""
    lines = [
        "| noise | seeds | sd over orders | sd over draws | estimates | Spearman | skill |",
        "|---|---|---|---|---|---|---|",
    ]

    def spread(values: Sequence[float], digits: int) -> str:
        return f"{np.mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"

    for key in KEYS:
        own = [row for row in rows if row["key"] == key]
        first = f"| `{key}` | {len(own)} | {1e3 * np.mean([r['sd_over_orders'] for r in own]):.1f} | "
        first += f"{1e3 * np.mean([r['sd_over_draws'] for r in own]):.1f} | "
        kinds = {f"`{key}`, anchors at {n} steps": [r["adjoint"][n] for r in own] for n in own[0]["adjoint"]}
        other = next(k for k in KEYS if k != key)
        of_other = [row for row in rows if row["key"] == other]
        kinds[f"`{other}`, anchors at 3 steps"] = [r["of_the_others_truth"] for r in of_other]
        kinds[f"`{other}`, really retrained"] = [r["other_truth"] for r in of_other]
        for name, found in kinds.items():
            ranks, skills = [f["spearman"] for f in found], [f["skill"] for f in found]
            lines.append(f"{first}{name} | {spread(ranks, 3)} | {spread(skills, 2)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, help="directory for runs")
    cli.add_argument("--table", action="store_true", help="print the record's table, and measure nothing")
    cli.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    cli.add_argument("--steps", type=int, default=16, help="T")
    cli.add_argument("--start", type=int, default=100, help="steps before the window")
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--draws", type=int, default=8)
    cli.add_argument("--dropout", type=float, default=0.1)
    cli.add_argument("--name", default="step-noise")
    arguments = cli.parse_args(argv)
    torch.set_num_threads(1)
    rows, done = resumed(arguments.name, ("seed",))
    if arguments.table:
        print(table(rows))
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, where the runs are")
    started = began(arguments.name)
    for seed in arguments.seeds:
        if (seed,) not in done:
            rows += measured(seed, arguments)
            write_record(arguments.name, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
