"""Does `fut trust`, from three trained orders, tell how well the adjoint ranks orders? Asked of settings that were measured.

python benchmarks/trust.py --wikitext wikitext-2/valid.txt --work DIR

Every setting of the accuracy records named below is trained again, and asked. Its Spearman, from 48 retrained orders, is the
record's; nothing is cached or estimated here. The last lines are the rank correlation over settings, and the law that
`fut/questions/trust/expected.py` has. Resumes: settings that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import RECORDS, began, resumed, write_record
from scipy.stats import spearmanr

import fut
from fut.methods.settings import load_config

MEASURED = (
    *("grid", "grid-rest", "279k-balanced", "1m-low-rate", "1m-balanced", "1m-heterogeneous", "2780k-balanced"),
    *("wikitext-balanced", "wikitext-balanced-t64", "wikitext-low-rate"),
)
"""Accuracy records, `adjoint-accuracy-NAME.json`, each setting in one of them alone."""
KEYS = ("record", "steps", "schedule", "items", "rate")


def settings_of(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The settings of records, with the Spearman and the calibrated skill that they have there."""
    for name in names:
        record = json.loads((RECORDS / f"adjoint-accuracy-{name}.json").read_text(encoding="utf-8"))
        own = [one for one in record["settings"]["settings"] if not one.startswith("adjoint.")]
        for row in record["results"]:
            yield {
                "record": name,
                **{key: row[key] for key in KEYS[1:]},
                "parameters": row["parameters"],
                "wikitext": bool(record["settings"]["text"]),
                "settings": own,
                "spearman": row["accuracy"]["spearman"],
                "skill": row["accuracy"]["skill"],
            }


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what three trained orders of the setting say."""
    data = {
        "items": setting["steps"],
        "heterogeneous": setting["items"] == "heterogeneous",
        "text": str(arguments.wikitext) if setting["wikitext"] else "",
    }
    schedule = {"kind": setting["schedule"], "rate": setting["rate"]}
    path = arguments.work / "trust"
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, load_config(None, setting["settings"], data=data, schedule=schedule))
    asked = time.perf_counter()
    found = run.trust(arguments.trials).as_dict()
    seconds = time.perf_counter() - asked
    shutil.rmtree(path)
    return setting | {key: found[key] for key in ("over", "trials")} | {"seconds": seconds}


def interaction(row: dict[str, Any]) -> float:
    """At the end, as a share of the way that training has moved, as `fut trust` takes it."""
    return float(row["over"][-1]["interaction"] * row["over"][-1]["effect"])


def law(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """-log Spearman = scale · interaction^power, by least squares of logarithms; spread: what is left, a standard deviation."""
    x, y = (np.log(of) for of in np.array([(interaction(row), -np.log(row["spearman"])) for row in rows]).T)
    power, constant = np.polyfit(x, y, 1)
    left = y - power * x - constant
    return {"scale": float(np.exp(constant)), "power": float(power), "spread": float(left.std(ddof=2))}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rank correlation of interaction with Spearman over settings, in all and by size, and the law of all."""

    def ranks(of: Sequence[dict[str, Any]]) -> float | None:
        pairs = [(-interaction(row), row["spearman"]) for row in of]
        return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(of) > 2 else None

    large = [row for row in rows if row["parameters"] > 200_000]
    return {
        "settings": len(rows),
        "ranks": ranks(rows),
        "larger": {"settings": len(large), "ranks": ranks(large)},
    } | law(rows)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--records", nargs="+", default=list(MEASURED), help="accuracy records, without their first name")
    cli.add_argument("--trials", type=int, default=1)
    cli.add_argument("--wikitext", type=Path, required=True, help="the path of WikiText-2's valid.txt")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="trust")
    arguments = cli.parse_args(argv)
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEYS)
    for setting in settings_of(arguments.records):
        if tuple(setting[key] for key in KEYS) in done:
            continue
        rows.append(measure(setting, arguments))
        print(*(rows[-1][key] for key in (*KEYS, "spearman")), interaction(rows[-1]), file=sys.stderr, flush=True)
        write_record(arguments.name, vars(arguments), rows, started)
    print(summary(rows), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
