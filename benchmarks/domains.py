"""Domain orders, placements of domains and of one poisoned batch: estimates against real retraining of every one.

python benchmarks/domains.py --work /tmp/domains

Two runs whose items come from consecutive zones of the text, in three domains of equal size: as it is, and with one item of
the middle domain replaced by random bytes. Calibrated on 8 random orders and 8 random moves, and then on 8 of the domain orders
themselves; all orders that are asked about are retrained. The curve of the one item is estimated by `replay-exact` as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, write_record

import fut
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.methods.settings import load_config
from fut.questions.domains.result import Domains, Entry, compare

POISONED, LABELS, EVERY = 13, ("first", "second", "third"), 1000


def poisoned_data(config: fut.Config) -> Dataset:
    """The configured items, one of them replaced by uniformly random bytes."""
    data, draw = build_dataset(config), torch.Generator().manual_seed(0)
    noise = torch.randint(256, data.items[POISONED][0].shape, generator=draw)
    items = (*data.items[:POISONED], (noise,), *data.items[POISONED + 1 :])
    return Dataset(items, data.probe, data.warmup, data.source)


def measure(arguments: argparse.Namespace, poisoned: bool) -> dict[str, Any]:
    """Everything that is asked, with its truth, and the accuracy of each part."""
    data = {"items": arguments.steps, "heterogeneous": True, "text": arguments.text}
    config = load_config(None, arguments.settings, data=data)
    path = arguments.work / ("poisoned" if poisoned else "clean")
    given: dict[str, Any] = {"data": poisoned_data(config)} if poisoned else {}
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config, **given)
    run.cache(["adjoint"])
    run.calibrate(8)
    run.calibrate(8, edit="move")
    parts = np.array_split(np.arange(arguments.steps), len(LABELS))
    labels = {label: part.tolist() for label, part in zip(LABELS, parts, strict=True)}
    found = run.domains(labels, items=[POISONED], places=9, verify=EVERY)
    fitted = run.domains(labels, places=9, calibrate=8, verify=EVERY)
    exact = run.domains(labels, [list(LABELS)], [POISONED], places=2, estimator="replay-exact")
    norms = run.orders.difficulty("gradient-norm").scores
    return {
        "poisoned": poisoned,
        "parameters": run.context.parameters,
        "gradient_norm_over_median": norms[POISONED] / float(np.median(norms)),
        "accuracy": accuracies(found)
        | {"orders and domain, calibrated on domain orders": fitted.checked}
        | {"item, replay-exact": accuracies(exact)["item"]},
        "item_replay_exact": exact.as_dict()["placements"][-1],
        **found.as_dict(),
    }


def accuracies(found: Domains) -> dict[str, Any]:
    """By part: orders of whole domains, placements of one, and the step of the poisoned item."""
    kinds: dict[str, list[Entry]] = {"orders": list(found.orders), "domain": [], "item": []}
    for placed in found.placements:
        kinds[placed.kind] += placed.answers
    return {kind: compare(entries, found.reference_loss) for kind, entries in kinds.items()}


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="domains")
    arguments = cli.parse_args(argv)
    started, rows = began(), []
    for poisoned in (False, True):
        rows.append(measure(arguments, poisoned))
        for kind, of in rows[-1]["accuracy"].items():
            m = of["measures"]
            shown = f"Spearman {m['spearman']:.3f} skill {m['skill']:+.2f} coverage {m['coverage']}"
            print(f"poisoned={poisoned} {kind}: n={of['count']} {shown}", flush=True)
    write_record(arguments.name, vars(arguments) | {"item": POISONED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
