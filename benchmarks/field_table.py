"""The tables of pages/field.md from their records: python benchmarks/field_table.py"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from record import RECORDS

Row = dict[str, Any]
NAMES = ("field", "field-wikitext")
TEXTS = {"field": "docs", "field-wikitext": "WikiText-2"}
COSTED = "WikiText-2"
"""The text of the setting, its first, that costs are shown of."""
METAGRADIENT = "exact metagradient"
FIRST = {
    "reweighting": "`reweighting`",
    "reweighting, linear": "`reweighting:reading=linear`",
    "metagradient": METAGRADIENT,
    "adjoint": "`adjoint`",
    "positions": "`positions`",
    "TRAK": "TRAK, 5 models",
    "TRAK, one model": "TRAK, 1 model",
    "EK-FAC": "EK-FAC",
    "TracIn": "TracIn, 5 checkpoints",
    "TracIn, own steps": "TracIn, own steps",
    "gradient cosine": "gradient cosine",
    "BM25": "BM25",
    "random": "random scores",
}
"""Methods that are told nothing of another order, and how the page calls them."""
GRIDS = {"TRAK": "TRAK, best of 12 settings", "EK-FAC": "EK-FAC, best of 4 dampings"}
TOLD = {
    "adjoint": "`adjoint`",
    "positions": "`positions`",
    "reweighting moved by adjoint": "`reweighting`, moved by `adjoint`",
    "reweighting, of a run in that order": "`reweighting` of a run in it",
    "reweighting, linear, of a run in that order": "`reweighting:reading=linear` of a run in it",
    "metagradient, of a run in that order": f"{METAGRADIENT} of a run in it",
}


def loaded(name: str) -> list[Row]:
    """The rows of a record, each with its text."""
    rows = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["results"]
    return [row | {"text": TEXTS[name]} for row in rows]


def setting(row: Row) -> str:
    """Text, kind of samples and epochs."""
    kind = "mixed" if row["items"] == "iid" else row["items"]
    return f"{row['text']}, {kind}" + (f", {row['epochs']} epochs" if row["epochs"] > 1 else "")


def lds(found: Row) -> str:
    """Spearman over the subsets and its 90 % bootstrap interval."""
    low, high = found["spearman_interval"]
    return f"{found['spearman']:.3f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def best(part: Mapping[str, Row], method: str) -> Row:
    """Of the grid of a method's settings the one with the largest LDS, which only the truth tells."""
    names = [name for name in part if name.startswith(f"{method}, ") and name[-1].isdigit() and "one model" not in name]
    return max((part[name] for name in names), key=lambda one: float(one["spearman"]))


def found(row: Row, part: str, name: str) -> Row:
    """What a method answers in a bank; of a grid, by its name on the page, the best."""
    grid = next((method for method, shown in GRIDS.items() if shown == name), None)
    answers: dict[str, Row] = row[part]
    return answers[name] if grid is None else best(answers, grid)


def span(rows: Sequence[Row], part: str, name: str, key: str = "spearman", shown: str = ".2f") -> str:
    """The least and the largest over settings, of LDS or of another measure."""
    values = [float(found(row, part, name)[key]) for row in rows]
    return f"{min(values):{shown}} to {max(values):{shown}}".replace("-", "−")


def table(rows: Sequence[Row], part: str, names: Mapping[str, str], grids: bool) -> Iterator[str]:
    """LDS of every method, a column for every setting."""
    yield "| method | " + " | ".join(map(setting, rows)) + " |"
    yield "|---" * (len(rows) + 1) + "|"
    for name, shown in names.items():
        yield f"| {shown} | " + " | ".join(lds(found(row, part, name)) for row in rows) + " |"
        if grids and name in GRIDS:
            yield f"| {GRIDS[name]} | " + " | ".join(lds(found(row, part, GRIDS[name])) for row in rows) + " |"


def skills(rows: Sequence[Row]) -> Iterator[str]:
    """Skill of what is meant in nats/token, in the reference order and told the other one."""
    yield "| method | " + " | ".join(map(setting, rows)) + " |"
    yield "|---" * (len(rows) + 1) + "|"
    for part, names, said in (("reference", FIRST, ""), ("other", TOLD, ", told the other order")):
        for name, shown in names.items():
            if "skill" in rows[0][part][name]:
                cells = (f"{row[part][name]['skill']:+.2f}".replace("-", "−") for row in rows)
                yield f"| {shown}{said} | " + " | ".join(cells) + " |"


def size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def costs(row: Row) -> Iterator[str]:
    """What every method costs in one setting."""
    yield f"| {setting(row)} | training runs | kept | seconds before | seconds a subset |"
    yield "|---|---|---|---|---|"
    for part, names, said in (("reference", FIRST, ""), ("other", TOLD, ", told the other order")):
        for name, shown in names.items():
            one, own = row[part][name], part == "other" and name in FIRST
            asked = f"{one['seconds_per_subset']:.2g}" if one["seconds_per_subset"] else "–"
            if not own:
                cells = f"{one['training_runs']:.1f} | {size(one['bytes'])} | {one['seconds']:.1f}"
                yield f"| {shown}{said} | {cells} | {asked} |"


def orders(rows: Sequence[Row]) -> Iterator[str]:
    """How the two banks differ."""
    yield "| setting | sd | Spearman of the banks | order effect | by `adjoint` |"
    yield "|---|---|---|---|---|"
    for row in rows:
        sd, agree = row["true_sd"]["reference"], row["banks_agree"]
        effects = f"{row['order_effect']:+.4f} | {row['order_effect_by_adjoint']:+.4f}".replace("-", "−")
        yield f"| {setting(row)} | {sd:.5f} | {lds(agree)} | {effects} |"


def tables(rows: Sequence[Row]) -> dict[str, list[str]]:
    """All tables of the page, by what they show."""
    return {
        "banks": list(orders(rows)),
        "reference order": list(table(rows, "reference", FIRST, grids=True)),
        "other order, told nothing": list(table(rows, "reference_told_nothing", FIRST, grids=True)),
        "other order, told": list(table(rows, "other", TOLD, grids=False)),
        "skill": list(skills(rows)),
        "cost": list(costs(next(row for row in rows if row["text"] == COSTED))),
    }


def main() -> int:
    rows = [row for name in NAMES for row in loaded(name)]
    for title, lines in tables(rows).items():
        print(f"\n{title}\n")
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
