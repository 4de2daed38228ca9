"""How well can any sum over steps rank orders, where the adjoint falls short? Asked of settings that were measured.

python benchmarks/ceilings.py --work DIR --records 279k-balanced 1m-balanced-16 …
python benchmarks/ceilings.py --work DIR --wikitext wikitext-2/test.txt --pretrained pretrained …

Every setting is trained again. In each of n trials two halves of the steps are permuted, each alone and both together: what
both do beyond the sum tells the share of interactions in the variance of the read-out, and with it the best correlation that a
sum over steps can have with retraining (`fut trust`). The Spearman beside it is the record's. Resumes: settings that the
record holds are skipped.
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

import pretrained
from record import RECORDS, began, resumed, write_record
from trust import settings_of

import fut
from fut.methods.settings import load_config
from fut.resources.device import set_workspace

KEYS = ("record", "steps", "schedule", "items", "rate", "warmup")


def measured(names: Sequence[str], least: int) -> Iterator[dict[str, Any]]:
    """Settings of accuracy records with at least so many steps."""
    for setting in settings_of(names):
        if setting["steps"] >= least:
            yield setting | {"warmup": None}


def fine_tuned(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Settings of records of pretrained models."""
    for name in names:
        record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        for row in record["results"]:
            setting = {key: (pretrained.EARLIER | row)[key] for key in pretrained.KEPT}
            found = row["accuracy"]
            yield setting | {
                "record": name,
                "parameters": row["parameters"],
                "spearman": found["spearman"],
                "skill": found["skill"],
            }


def trained(setting: dict[str, Any], path: Path, arguments: argparse.Namespace) -> fut.Run:
    """The setting's reference run."""
    shutil.rmtree(path, ignore_errors=True)
    if setting["warmup"] is None:
        data = {
            "items": setting["steps"],
            "heterogeneous": setting["items"] == "heterogeneous",
            "text": str(arguments.wikitext) if setting["wikitext"] else "",
        }
        schedule = {"kind": setting["schedule"], "rate": setting["rate"]}
        return fut.train(path, load_config(None, setting["settings"], data=data, schedule=schedule))
    model, given = pretrained.pretrained(setting["tuning"]), pretrained.data(setting, arguments)
    return pretrained.recorded(model, setting, *given, path, [])


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    path = arguments.work / "ceilings"
    run = trained(setting, path, arguments)
    asked = time.perf_counter()
    found = run.trust(arguments.trials).as_dict()
    kept = {key: found[key] for key in ("share", "ceiling", "ceiling_interval", "interaction")}
    changes = [trial["changes"] for trial in found["trials"]]
    shutil.rmtree(path)
    return setting | kept | {"changes": changes, "seconds": time.perf_counter() - asked}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--records", nargs="+", default=[], help="accuracy records, without their first name")
    cli.add_argument("--least", type=int, default=64, help="steps of a setting of accuracy records")
    cli.add_argument("--pretrained", nargs="+", default=[], help="records of pretrained models")
    cli.add_argument("--rates", type=float, nargs="+", default=[], help="of pretrained models; all where none is said")
    cli.add_argument("--warmups", type=int, nargs="+", default=[], help="of pretrained models; all where none is said")
    cli.add_argument("--trials", type=int, default=16)
    cli.add_argument("--wikitext", type=Path, help="the path of a text of WikiText-2, for settings that have one")
    cli.add_argument("--text", default="", help="the second text of pretrained models, as pretrained.py says")
    cli.add_argument("--device", default="cpu", help="of pretrained models")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="ceilings")
    return cli.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    set_workspace()
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEYS)
    chosen = [
        setting
        for setting in fine_tuned(arguments.pretrained)
        if setting["rate"] in (arguments.rates or [setting["rate"]])
        and setting["warmup"] in (arguments.warmups or [setting["warmup"]])
    ]
    for setting in [*measured(arguments.records, arguments.least), *chosen]:
        if tuple(setting[key] for key in KEYS) in done:
            continue
        rows.append(measure(setting, arguments))
        cells = [rows[-1][key] for key in (*KEYS, "spearman", "ceiling", "ceiling_interval")]
        print(*cells, file=sys.stderr, flush=True)
        write_record(arguments.name, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
