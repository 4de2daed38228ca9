"""The table of benchmarks/pages/pretrained.md from its records.

python benchmarks/pretrained_table.py pretrained pretrained-gpu
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

from pretrained import EARLIER
from record import RECORDS

HEAD = (
    "trained",
    "rate",
    "warm-up",
    "items",
    "T",
    "loss gained",
    "sd of orders",
    "Spearman [90 %]",
    "skill",
    "calibrated",
    "coverage",
    "training runs",
    "store [MB]",
    "device",
)
KINDS = {"iid": "one of each text", "heterogeneous": "both of one text"}
TUNINGS = {"lora": "LoRA", "full": "all"}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(rate: float) -> str:
    """A rate as 2·10⁻⁴, or 10⁻³."""
    digits, _, exponent = f"{rate:.0e}".partition("e")
    return ("" if digits == "1" else f"{digits}·") + "10" + str(int(exponent)).translate(RAISED)


def line(row: dict[str, Any]) -> str:
    """A row of the table, of a row of a record."""
    row = EARLIER | {"device": "cpu"} | row
    a = row["accuracy"]
    low, high = a["spearman_interval"]
    cells = (
        TUNINGS.get(row["tuning"]) or f"last {row['tuning'].removeprefix('last')} layers",
        power(row["rate"]),
        row["warmup"],
        KINDS[row["items"]],
        row["steps"],
        f"{row['loss_at_start_of_window'] - row['reference_loss']:.3f}",
        f"{row['true_sd']:.4f}",
        f"{a['spearman']:.3f} [{low:.2f}, {high:.2f}]",
        f"{a['skill_uncalibrated']:+.2f}",
        f"{a['skill']:+.2f}",
        f"{a['coverage']:.2f}",
        f"{row['precompute_training_runs']:.1f}",
        f"{row['store_bytes'] / 1e6:,.0f}",
        row["device"].removeprefix("NVIDIA "),
    )
    return f"| {' | '.join(map(str, cells))} |"


def table(rows: Iterable[dict[str, Any]]) -> str:
    """All rows: adapters before all parameters, short windows before long ones."""
    known = sorted(rows, key=lambda r: (r.get("tuning", "lora") == "full", r["steps"], r["items"] != "iid", r["rate"]))
    return "\n".join((f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *map(line, known)))


def main(argv: Sequence[str] | None = None) -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("records", nargs="+", help="their names")
    found = [json.loads((RECORDS / f"{name}.json").read_text("utf-8")) for name in cli.parse_args(argv).records]
    print(table(row for record in found for row in record["results"]))


if __name__ == "__main__":
    main()
