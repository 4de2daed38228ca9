"""Memorization maps against real retraining: every cell at T = 32, a sample of cells beyond.

python benchmarks/memorization.py --steps 32 --items iid heterogeneous --work /tmp/memorization
python benchmarks/memorization.py --steps 64 --cells 128 --name memorization-t64 --work /tmp/memorization

For every setting: a reference run, the maps from one sweep, calibrated on 16 retrained cells and 8 orders without an item, and
truth: all cells and all items' absence really retrained (`--cells 0`), or a sample. Cells that the calibration was fitted to
are left out of the comparison. Resumes: settings that the record holds are skipped. Writes the picture beside the record.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memorization_picture import draw
from record import RECORDS, began, write_record

import fut
from fut.api.questions import question_context
from fut.artifacts.directory import directory_bytes
from fut.display.numbers import jsonable
from fut.estimation.changes import expansion_for
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.settings import load_config
from fut.questions.memorization.ask import CALIBRATED, SHARE, MemorizeRequest, resolve
from fut.questions.memorization.maps import ABSENT, KINDS, Cells, Checked, check_cells, draw_cells
from fut.questions.memorization.result import Memorization

CALIBRATE, SEED = 16, 5000


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: the maps of one setting and what retraining says of them."""
    data = {"items": setting["steps"], "heterogeneous": setting["items"] == "heterogeneous", "text": arguments.text}
    config = load_config(None, arguments.settings, data=data, schedule={"kind": "cosine", "rate": setting["rate"]})
    path = arguments.work / "-".join(str(v) for v in setting.values())
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    clock = [time.perf_counter()]
    run.memorize(seed=SEED)  # the sweep, and every cell
    clock.append(time.perf_counter())
    run.memorize(seed=SEED)  # every cell again, from what was swept
    clock.append(time.perf_counter())
    found = run.memorize(calibrate=CALIBRATE, verify=arguments.cells, seed=SEED)
    truth = None if arguments.cells else run.memorize(estimator="retrain", seed=SEED)
    checked = found.checked if truth is None else compared(found, truth, fitted_on(run, found))
    resolved = resolve(MemorizeRequest(), question_context(run.context))
    expansion = expansion_for(run.context, resolved.shared, resolved.items)
    seconds = float(np.mean([run.retrain(run.order("reverse")).seconds, run.retrain(run.order("random:1")).seconds]))
    result = {
        **setting,
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "checked": {kind: {"cells": len(c.cells), **c.measures} for kind, c in checked.items()},
        "fits": {kind: vars(fit) for kind, fit in (found.fits or {}).items()},
        "readouts_swept": len(expansion.spec.names),
        "sweep_training_runs": EXPANSION.cost(expansion.spec).gradients / config.consumed,
        "sweep_seconds": clock[1] - clock[0] - (clock[2] - clock[1]),
        "cells_seconds": clock[2] - clock[1],
        "retrain_seconds": seconds,
        "store_bytes": directory_bytes(expansion.directory),
        "forgetting": found.forgetting,
        "retention": found.retention,
        "generalization": found.generalization,
        "places": found.places,
        "estimated": shortened(found),
        "true": None if truth is None else shortened(truth),
        "true_generalization": None if truth is None else truth.generalization,
        "sample": {kind: jsonable(vars(c)) for kind, c in checked.items()} if truth is None else None,
    }
    if arguments.remove:
        shutil.rmtree(path)
    return result


def fitted_on(run: fut.Run, found: Memorization) -> Cells:
    """The cells that the calibration was fitted to, as `memorize` draws them."""
    return draw_cells(found.places, run.steps, CALIBRATE, CALIBRATE // SHARE, [], [SEED, CALIBRATED])


def compared(found: Memorization, truth: Memorization, used: Cells) -> dict[str, Checked]:
    """All cells but the items' own steps and those fitted to; all items' absence but those fitted to."""
    checked, fitted = {}, set(used.moved)
    cells = [
        (r, s) for r, own in enumerate(found.places) for s in range(found.steps) if s != own and (r, s) not in fitted
    ]
    rows = [r for r in range(len(found.items)) if r not in used.absent]
    for kind in KINDS:
        true, guess = (
            [np.asarray(of[kind])[r, s] for r, s in cells] for of in (truth.maps.effects, found.maps.effects)
        )
        half = None if found.maps.half_widths is None else [found.maps.half_widths[kind][r][s] for r, s in cells]
        checked[kind] = check_cells([[found.items[r], s] for r, s in cells], true, guess, half)
        true, guess = ([of[kind][r] for r in rows] for of in (truth.maps.absence, found.maps.absence))
        half = (
            None if found.maps.absence_half_widths is None else [found.maps.absence_half_widths[kind][r] for r in rows]
        )
        checked[ABSENT + kind] = check_cells([[found.items[r]] for r in rows], true, guess, half)
    return checked


def shortened(found: Memorization) -> dict[str, Any]:
    """Maps and absence to six digits."""
    effects = {kind: [[float(f"{v:.6g}") for v in row] for row in rows] for kind, rows in found.maps.effects.items()}
    return {"effects": effects, "absence": {k: [float(f"{v:.6g}") for v in of] for k, of in found.maps.absence.items()}}


def say(row: dict[str, Any]) -> None:
    shown = ", ".join(
        f"{kind} {c['spearman']:.4f} error {c['heatmap_error']:.3f} coverage {c['coverage']:.2f}"
        for kind, c in row["checked"].items()
    )
    print(f"{row['items']} T={row['steps']} D={row['parameters']}: {shown}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    cli.add_argument("--cells", type=int, default=0, help="cells to retrain and compare; 0 for all")
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--remove", action="store_true", help="remove a setting's run once it is measured")
    cli.add_argument("--name", default="memorization")
    arguments = cli.parse_args(argv)
    started, path = began(arguments.name), RECORDS / f"{arguments.name}.json"
    rows = json.loads(path.read_text())["results"] if path.exists() else []
    kept = ("steps", "items", "rate")
    done = {tuple(row[k] for k in kept) for row in rows}
    for values in itertools.product(arguments.steps, arguments.items, arguments.rates):
        if values not in done:
            rows.append(measure(dict(zip(kept, values, strict=True)), arguments))
            say(rows[-1])
            shown = vars(arguments) | {"calibrate": CALIBRATE, "seed": SEED, "threads": torch.get_num_threads()}
            write_record(arguments.name, shown, rows, started)
    draw(rows, RECORDS / f"{arguments.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
