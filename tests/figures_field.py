"""Figures on leave-out effects beside methods of others, from their records."""

from __future__ import annotations

from collections.abc import Iterable

import field_table
from field_table import GRIDS, loaded, span
from figures import of

NAMES = " ".join(field_table.NAMES)
OWN = "reweighting, of a run in that order"
CHOSEN = (
    ("`reweighting`", "reweighting"),
    ("exact metagradient (MAGIC)", "metagradient"),
    ("`adjoint`, told nothing", "adjoint"),
    ("EK-FAC, best of 4 dampings", GRIDS["EK-FAC"]),
    ("TRAK, best of 12 settings", GRIDS["TRAK"]),
    ("gradient cosine", "gradient cosine"),
    ("BM25", "BM25"),
)


def rows() -> list[field_table.Row]:
    return [row for name in field_table.NAMES for row in loaded(name)]


def costed() -> field_table.Row:
    """The setting that costs are shown of."""
    return next(row for row in rows() if row["text"] == field_table.COSTED)


def runs(part: str, name: str) -> str:
    return f"{field_table.found(costed(), part, name)['training_runs']:.1f}"


@of("docs/choosing.md")
def leave_out() -> Iterable[tuple[str, str]]:
    """The table, told nothing and told the order, and the skill of three answers."""
    every = rows()
    for shown, name in CHOSEN:
        cells = (span(every, part, name) for part in ("reference", "reference_told_nothing"))
        yield NAMES, f"| {shown} | {runs('reference', name)} | " + " | ".join(cells) + " |"
    for shown, name in (("`adjoint`, told the order", "adjoint"), ("`reweighting` of a run in that order", OWN)):
        yield NAMES, f"| {shown} | {runs('other', name)} | – | {span(every, 'other', name)} |"
    skill = (span(every, "reference", name, "skill", "+.2f") for name in ("reweighting", "metagradient"))
    yield NAMES, "skill is {} in place of {}".format(*skill)
    once, each = (field_table.found(costed(), "other", name)["training_runs"] for name in ("adjoint", OWN))
    yield NAMES, f"For up to {int(once // each)} other orders"


@of("docs/limitations.md")
def leave_out_in_another_order() -> Iterable[tuple[str, str]]:
    every = rows()
    own, other = (span(every, part, "reweighting") for part in ("reference", "reference_told_nothing"))
    yield NAMES, f"LDS {own} there, and {other} where the same samples come in another order"
