"""Leave-out effects: the linear datamodeling score of `reweighting` against subsets that were really left out.

python benchmarks/leave_out.py --steps 32 64 --work /tmp/leave-out

For every setting: a reference run whose items are single samples, the expansion about it, and n random subsets of the
samples left out in place (seed fixed here), all really retrained. Resumes: settings that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, resumed, write_record

import fut
from fut.artifacts.directory import directory_bytes
from fut.estimation.accuracy import accuracy
from fut.methods.reweighting.estimator import REWEIGHTING_METHOD
from fut.methods.settings import load_config
from fut.questions.accuracy.leave_out import READINGS

SUBSET_SEED = 3000
SHOWN = ("spearman", "spearman_interval", "pearson", "mae", "skill", "bias", "residual_sd", "seconds_per_order")


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: the readings of `reweighting` against n subsets of one setting."""
    per_step = arguments.per_step
    data = {
        "items": setting["steps"] * per_step,
        "per_step": per_step,
        "batch": 1,
        "heterogeneous": setting["items"] == "heterogeneous",
        "text": arguments.text,
    }
    config = load_config(None, arguments.settings, data=data, schedule={"kind": "cosine", "rate": setting["rate"]})
    path = arguments.work / "-".join(str(v) for v in setting.values())
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, config)
    began = time.perf_counter()
    run.cache(["reweighting"])
    built = time.perf_counter() - began
    found = run.lds(arguments.subsets, arguments.share, SUBSET_SEED, READINGS)
    true, reference = found.true_losses, run.reference_loss
    sums = [reference + additive(run.methods.attributions(), run.reference.steps, s) for s in found.subsets]
    rows = {name: {k: found.estimators[name].get(k) for k in SHOWN} for name in READINGS}
    simple = accuracy(true, sums, reference).as_dict()
    rows["additive"] = {k: simple[k] for k in SHOWN if k in simple}
    result = {
        **setting,
        "parameters": run.context.parameters,
        "samples": run.items,
        "left_out": len(found.subsets[0]),
        "reference_loss": reference,
        "true_sd": float(np.std(true, ddof=1)),
        "mean_effect": float(np.mean(true) - reference),
        "readings": rows,
        "precompute_training_runs": REWEIGHTING_METHOD.gradients_before(run.context) / config.consumed,
        "build_seconds": built,
        "retrain_seconds": found.retrain_seconds,
        "store_bytes": directory_bytes(run.path / "reweighting"),
        "true_losses": true,
        "estimated_losses": {name: found.estimated_losses[name] for name in READINGS} | {"additive": sums},
    }
    shutil.rmtree(path)
    return result


def additive(attributions: np.ndarray, steps: Sequence[Sequence[int]], left_out: Collection[int]) -> float:
    """Change of the read-out by attributions [T, n items] alone: minus those of the left-out items, in all their steps."""
    entries = [(t, j) for t, step in enumerate(steps) for j, item in enumerate(step) if item in left_out]
    return -sum(float(attributions[t, j]) for t, j in entries)


def say(row: dict[str, Any]) -> None:
    shown = ", ".join(
        f"{name.rpartition('=')[2]} {r['spearman']:.3f} [{r['spearman_interval'][0]:.2f}, {r['spearman_interval'][1]:.2f}] "
        f"skill {r['skill']:+.2f}"
        for name, r in row["readings"].items()
    )
    print(
        f"{row['items']:13s} T={row['steps']:<4d} rate={row['rate']:g} D={row['parameters']} sd={row['true_sd']:.6f} "
        f"LDS: {shown}; {row['precompute_training_runs']:.1f} training runs",
        file=sys.stderr,
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    cli.add_argument("--per-step", type=int, default=16)
    cli.add_argument("--subsets", type=int, default=48)
    cli.add_argument("--share", type=float, default=0.1)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="leave-out")
    arguments = cli.parse_args(argv)
    kept = ("steps", "items", "rate")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, kept)
    for values in itertools.product(arguments.steps, arguments.items, arguments.rates):
        if values not in done:
            rows.append(measure(dict(zip(kept, values, strict=True)), arguments))
            say(rows[-1])
            shown = vars(arguments) | {"subset_seed": SUBSET_SEED, "threads": torch.get_num_threads()}
            write_record(arguments.name, shown, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
