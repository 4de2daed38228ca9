"""How much does it matter which runs make the trajectory? The same held-out orders, estimated about several draws of them.

python benchmarks/draws.py --steps 32 64 --items iid heterogeneous --work DIR

An ensemble of a few runs is a sample of orders, and curvature is taken on drawn batches: another seed of the expansion draws
others, and nothing else changes. Variants are settings of `adjoint`, such as `mixture=6,pool=1`.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adjoint_table import resplit
from record import began, resumed, write_record

import fut
from fut.artifacts.directory import directory_bytes
from fut.methods.settings import adjoint_settings, load_config

ORDER_SEED = 2000
KEYS = ("steps", "items", "variant", "seed")


def reference(steps: int, items: str, arguments: argparse.Namespace) -> fut.Run:
    """The run of a setting, with its held-out orders retrained once for all draws."""
    path = arguments.work / f"{steps}-{items}"
    data = {"items": steps, "heterogeneous": items == "heterogeneous", "text": arguments.text}
    config = load_config(None, arguments.settings, data=data)
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    run.verify(arguments.orders, ORDER_SEED, ["reference"])
    return run


def drawn(run: fut.Run, variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one draw says about the held-out orders."""
    path = run.path.with_name(f"{run.path.name}-drawn")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(run.path, path)
    copy = fut.open(path)
    chosen = [f"adjoint.{s}" for s in variant.split(",") if s and s != "default"]
    copy.cache(["adjoint"], adjoint=adjoint_settings(copy.context.config.adjoint, [*chosen, f"adjoint.seed={seed}"]))
    found = copy.verify(arguments.orders, ORDER_SEED, ["adjoint", "positions"])
    nbytes = directory_bytes(path / "adjoint")
    shutil.rmtree(path)
    rows = found.estimators
    result = {
        "true_sd": found.as_dict()["true_sd"],
        "reference_loss": run.reference_loss,
        "accuracy": rows["adjoint"],
        "positions": rows["positions"],
        "precompute_training_runs": rows["adjoint"]["precompute_gradients"] / run.context.config.consumed,
        "store_in_lifted_states": nbytes / (run.context.checkpoints.nbytes() / (run.steps + 1)),
        "true_losses": found.true_losses,
        "estimated_losses": found.estimated_losses["adjoint"],
    }
    return result | {"calibrated": resplit(result)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each setting and variant: means over draws, and their ranges."""
    lines = [
        "| T | items | variant | draws | runs | Spearman | calibrated skill | coverage |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys(tuple(row[k] for k in KEYS[:3]) for row in rows):
        same = [row for row in rows if tuple(row[k] for k in KEYS[:3]) == key]
        parts = [[row["accuracy"]["spearman"] for row in same]] + [
            [row["calibrated"][name] for row in same] for name in ("skill", "coverage")
        ]
        cells = [f"{sum(p) / len(p):.3f} ({min(p):.3f}–{max(p):.3f})" for p in parts]
        runs = f"{same[0]['precompute_training_runs']:.1f}"
        lines.append("| " + " | ".join([*map(str, key), str(len(same)), runs, *cells]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[64])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--variants", nargs="+", default=["default"])
    cli.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path)
    cli.add_argument("--name", default="draws")
    cli.add_argument("--table", action="store_true", help="print the record's table; nothing is computed")
    arguments = cli.parse_args(argv)
    rows, done = resumed(arguments.name, KEYS)
    if arguments.table:
        print(table(rows))
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, an empty directory or one of an interrupted call")
    started = began(arguments.name)
    for steps, items in itertools.product(arguments.steps, arguments.items):
        wanted = [(steps, items, *rest) for rest in itertools.product(arguments.variants, arguments.seeds)]
        if done.issuperset(wanted):
            continue
        run = reference(steps, items, arguments)
        for key in (k for k in wanted if k not in done):
            rows.append(dict(zip(KEYS, key, strict=True)) | drawn(run, key[2], key[3], arguments))
            accuracy = rows[-1]["accuracy"]
            print(
                key, f"Spearman {accuracy['spearman']:.3f}, skill {accuracy['skill']:.2f}", file=sys.stderr, flush=True
            )
            write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
        shutil.rmtree(run.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
