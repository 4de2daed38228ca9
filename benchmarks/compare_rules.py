"""Do cross-fitting and the correction for variance help AdamW, Sophia and Shampoo, by more than the order gives anyway?

python benchmarks/compare_rules.py --work /tmp/compare-rules

Every plain rule beside its three corrected forms, all from one point and in the same random orders; each at the best of its own
rates, a factor of two apart. `--table` prints the record's table and draws its picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from record import RECORDS, began, write_record

import fut
from fut.display.scale import minus
from fut.methods.settings import load_config
from fut.studies.compare.ask import CompareRequest
from fut.studies.compare.render import SAID, draw
from fut.studies.compare.result import Compared

NAME, ITEMS, SEQUENCES = "compare-rules", 4, 4
"""Items of a step, from which the corrections are made, and sequences of an item."""


def trained(path: Path, arguments: argparse.Namespace) -> fut.Run:
    """A small model on the demo's text."""
    if (path / "summary.json").exists():
        return fut.open(path)
    config = load_config(
        None,
        (),
        data={"items": ITEMS * arguments.steps, "per_step": ITEMS, "batch": SEQUENCES, "context": 32},
        model={"width": 32},
    )
    return fut.train(path, config)


def table(results: Mapping[str, Any]) -> str:
    """A line a difference [10⁻³ nats/token]."""
    rates = {arm["label"]: arm["rate"] for arm in results["arms"]}
    losses = {arm["label"]: sum(arm["values"]) / len(arm["values"]) for arm in results["arms"]}
    head = "rule | rate | loss | against | difference | 95 % t interval | order noise | p | the difference is"
    lines = [head, " | ".join(["---"] * (head.count("|") + 1))]
    for row in results["rows"]:
        of = row["effect"]
        low, high = (1e3 * end for end in of["interval"])
        cells = [row["arm"], f"{rates[row['arm']]:.2g}", f"{losses[row['arm']]:.4f}", row["against"]]
        numbers = f"{1e3 * of['mean']:+.2f}", f"{low:+.2f} … {high:+.2f}", f"± {1e3 * row['noise']:.1f}"
        cells += [*map(minus, numbers), f"{of['p_value']:.3f}", SAID[row["verdict"]]]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--seeds", type=int, default=8)
    cli.add_argument("--rules", nargs="+", default=["corrections"])
    cli.add_argument("--work", type=Path, default=Path("/tmp/compare-rules"))
    cli.add_argument("--name", default=NAME)
    cli.add_argument(
        "--table", action="store_true", help="print the record's table and draw its picture; train nothing"
    )
    arguments = cli.parse_args(argv)
    if arguments.table:
        results = json.loads((RECORDS / f"{arguments.name}.json").read_text(encoding="utf-8"))["results"]
        print(table(results))
        draw(Compared.from_dict(results | {"differences": results["rows"]}), RECORDS / f"{arguments.name}.png")
        return 0
    started = began(arguments.name)
    run = trained(arguments.work / "run", arguments)
    found = run.ask(CompareRequest(tuple(arguments.rules), seeds=arguments.seeds))
    content = found.as_dict()
    results = {"rows": content.pop("differences"), "readout": found.readout, "parameters": run.context.parameters}
    write_record(arguments.name, vars(arguments) | {"threads": torch.get_num_threads()}, results | content, started)
    print(table(results | content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
