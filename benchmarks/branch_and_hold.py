"""What the memory of training does: the first three experiments of arXiv 2601.21624, on small language models.

python benchmarks/branch_and_hold.py --wikitext wikitext-2/test.txt --work /tmp/branch

1. The optimizer's memory is reset, scaled or exchanged in the middle of training. 2. The order of a window, or of all that
follows, is changed. 3. Pre-training on one text, fine-tuning on another: what AdamW remembers is carried over, or reset. Every
row is 8 seeds, paired. Resumes: rows that the record holds already are skipped. `--picture` draws the record anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import RECORDS, began, resumed, write_record

import fut
from fut.data.text import build_dataset
from fut.display.picture import save
from fut.methods.settings import load_config
from fut.studies.branch.ask import BranchRequest

NAME, STEPS, AT, WINDOW = "branch-and-hold", 64, 20, 14
KEPT = ("experiment", "source", "treatment")
MIDDLE = [
    ("optimizer", treatment)
    for treatment in ("nothing", "reset", "reset-memory", "reset:m", "reset:v", "log-scale:0.5", "swap", "swap:v")
]
WINDOWS = [("order", treatment) for treatment in ("swap:0:13", "reverse", "permute", "reshuffle", "with-replacement")]
BOUNDARY = [("optimizer", treatment) for treatment in ("nothing", "reset", "reset-memory", "reset:m", "reset:v")]
ROWS = [
    *(("1 optimizer", *row) for row in MIDDLE),
    *(("2 order", *row) for row in WINDOWS),
    *(("3 phase boundary", *row) for row in BOUNDARY),
]


def trained(path: Path, arguments: argparse.Namespace, boundary: bool) -> fut.Run:
    """The demo's model on its text; for the phase boundary, warmed up on that text and trained on WikiText-2."""
    config = load_config(None, (), data={"items": STEPS}, warmup={"steps": 200 if boundary else 100})
    if (path / "summary.json").exists():
        return fut.open(path)
    if not boundary:
        return fut.train(path, config)
    other = load_config(None, (), data={"items": STEPS, "text": str(arguments.wikitext)})
    tuned = build_dataset(other)
    return fut.train(path, config, data=fut.Dataset(tuned.items, tuned.probe, build_dataset(config).warmup))


def measure(row: tuple[str, str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The effect of one treatment."""
    experiment, source, treatment = row
    boundary = experiment == ROWS[-1][0]
    run = trained(arguments.work / ("boundary" if boundary else "middle"), arguments, boundary)
    at = 0 if boundary else AT
    found = run.ask(BranchRequest(at=at, window=WINDOW, seeds=arguments.seeds, source=source, treatment=treatment))
    steps, course = found.course()
    return {
        **dict(zip(KEPT, row, strict=True)),
        "at": at,
        "window": WINDOW,
        "horizon": found.plan.horizon,
        "seeds": arguments.seeds,
        "parameters": run.context.parameters,
        "half_lives": dict(found.half_lives),
        "effects": {name: effect.as_dict() for name, effect in found.effects.items()},
        "deltas": found.deltas(),
        "control": [pair.readings[-1].control["loss"] for pair in found.pairs],
        "distances": found.distances,
        "course": {"steps": steps, "loss": course},
        "checks": found.checks,
    }


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A row a treatment: the difference of every seed, and the mean with its interval."""
    from matplotlib.figure import Figure

    parts = sorted({row["experiment"] for row in rows})
    counts = [sum(row["experiment"] == part for row in rows) for part in parts]
    figure = Figure(figsize=(8.4, 0.34 * len(rows) + 2.2), dpi=150, layout="constrained")
    axes = figure.subplots(len(parts), 1, height_ratios=counts, squeeze=False)[:, 0]
    for ax, part in zip(axes, parts, strict=True):
        own = [row for row in rows if row["experiment"] == part]
        ax.axvline(0, color="0.6", linewidth=0.8)
        for place, row in enumerate(reversed(own)):
            low, high = row["effects"]["loss"]["interval"]
            mean = row["effects"]["loss"]["mean"]
            ax.plot(row["deltas"], [place] * len(row["deltas"]), "o", color="tab:blue", markersize=3.5, alpha=0.5)
            ax.errorbar(
                [mean], [place], xerr=[[mean - low], [high - mean]], fmt="D", color="black", capsize=3, markersize=4
            )
        ax.set_yticks(range(len(own)), [row["treatment"] for row in reversed(own)])
        ax.set_ylim(-0.6, len(own) - 0.4)
        ax.set_title(part[2:], fontsize=10, loc="left")
    axes[-1].set_xlabel("probe loss at the end, treated minus control [nats/token]: seeds, mean, 95 % t interval")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--wikitext", type=Path, help="the path of WikiText-2's test.txt")
    cli.add_argument("--seeds", type=int, default=8)
    cli.add_argument("--work", type=Path, default=Path("/tmp/branch-and-hold"))
    cli.add_argument("--name", default=NAME)
    cli.add_argument("--picture", action="store_true", help="draw the record's picture, train nothing")
    arguments = cli.parse_args(argv)
    if arguments.picture:
        record = json.loads((RECORDS / f"{arguments.name}.json").read_text(encoding="utf-8"))
        picture(record["results"], RECORDS / f"{arguments.name}.png")
        return 0
    if arguments.wikitext is None:
        cli.error("expected --wikitext, the text that is fine-tuned on")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEPT)
    for row in ROWS:
        if row not in done:
            rows.append(measure(row, arguments))
            print(*row, rows[-1]["effects"]["loss"]["mean"], rows[-1]["effects"]["loss"]["interval"], file=sys.stderr)
            write_record(arguments.name, vars(arguments) | {"threads": torch.get_num_threads()}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
