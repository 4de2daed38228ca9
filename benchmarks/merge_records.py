"""One record of several that parts of one benchmark wrote side by side.

python benchmarks/merge_records.py pretrained-gpu PART.json PART.json …

Rows stand in the order of the parts, and every call that made a row keeps its command, commit and date. Parts of other machines
or versions are refused: a record says one of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import RECORDS

from storage import write_json

ALIKE = ("machine", "versions", "threads")
"""What parts have in common."""


def merged(name: str, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record of all parts' rows.

    Args:
        name: of the record.
        parts: records, the results of each being a list of rows.

    Raises:
        SystemExit: for parts that differ in `ALIKE`, or that have no list of rows.
    """
    first, rows, calls = parts[0], list[Any](), list[dict[str, Any]]()
    for part in parts:
        if odd := [key for key in ALIKE if part[key] != first[key]]:
            raise SystemExit(f"{part['name']}: expected the {odd[0]} of {first['name']}, got another; record it apart")
        if not isinstance(part["results"], list):
            raise SystemExit(f"{part['name']}: expected a list of rows as results, got none; record it apart")
        calls += [call | {"rows": [len(rows) + place for place in call["rows"]]} for call in part["calls"]]
        rows += part["results"]
    return first | {
        "name": name,
        "calls": calls,
        "seconds": round(sum(call["seconds"] for call in calls), 1),
        "uncommitted_changes": any(call["uncommitted_changes"] for call in calls),
        "settings": {"parts": {part["name"]: part["settings"] for part in parts}},
        "results": rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("name", help="of the record that is written")
    cli.add_argument("parts", type=Path, nargs="+")
    arguments = cli.parse_args(argv)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.parts]
    write_json(RECORDS / f"{arguments.name}.json", merged(arguments.name, parts))


if __name__ == "__main__":
    main()
