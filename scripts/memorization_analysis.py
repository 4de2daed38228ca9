"""What a run remembers of its items, as tables: one line per item and step, and one per step.

python scripts/memorization_analysis.py RUN --calibrate 16 --verify 64 --out analysis
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import fut


def main(argv: Sequence[str] | None = None) -> int:
    """Write `cells.csv` and `steps.csv`; losses in nats/token, against the reference order (negative is better)."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", help="directory of a reference run")
    cli.add_argument("--out", type=Path, default=Path("analysis"), help="directory of the tables")
    cli.add_argument("--groups", type=int, default=8, help="groups of like held-out samples")
    cli.add_argument("--calibrate", type=int, default=0, help="cells to retrain for 90 %% intervals")
    cli.add_argument("--verify", type=int, default=0, help="cells to retrain and compare with")
    arguments = cli.parse_args(argv)
    counts = {"groups": arguments.groups, "calibrate": arguments.calibrate, "verify": arguments.verify}
    found = fut.open(arguments.run).memorize(**counts)
    maps = found.maps
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["item", "own_step", "step", *maps.effects, *(f"{kind}_half_width" for kind in maps.effects)])
        for row, item in enumerate(found.items):
            for step in range(found.steps):
                values = [maps.effects[kind][row][step] for kind in maps.effects]
                half = ["" if not maps.half_widths else maps.half_widths[kind][row][step] for kind in maps.effects]
                table.writerow([item, found.places[row], step, *values, *half])
    with (arguments.out / "steps.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", "loss_against_never_seen", "low", "high", "share_retained"])
        curve = [found.forgetting[name][::-1] for name in ("mean", "low", "high")]
        shares = found.retention["share"] or [""] * found.steps
        table.writerows(zip(range(found.steps), *curve, shares, strict=True))
    for kind, checked in found.checked.items():
        measured = checked.measures
        shown = f"Spearman {measured['spearman']:.3f}, heatmap error {measured['heatmap_error']:.3f}"
        print(f"{kind}: {len(checked.cells)} retrained: {shown}")
    print(found.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
