"""Estimates against the truth: what a table of accuracy and a scatter show, whoever draws them.

The terminal, a notebook, the PNG and the page all take columns, points, labels and units from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fut.display.format import interval, nbytes, number
from fut.display.scale import Scale, labelled

Row = Mapping[str, Any]
"""What is known of one estimator, by key."""
TRUE, ESTIMATED = "retrained − reference", "estimated − reference"
"""Labels of both axes of a scatter."""
BASELINE = "reference"
"""The estimator that answers the reference order's value for every order; a scatter shows it as a line."""


@dataclass(frozen=True)
class Column:
    """A column of the accuracy table.

    Args:
        key: of an estimator's row, as programs have it.
        brief: head in a terminal.
        head: head on a page.
        form: value -> text.
        better: which values are better, in words; empty where none are.
        unit: of the values; `READOUT` for the read-out's own.
    """

    key: str
    brief: str
    head: str
    form: Callable[[Any], str]
    better: str = ""
    unit: str = ""

    def cell(self, row: Row) -> str:
        """The text of an estimator's cell; a dash where the row lacks the value."""
        value = row.get(self.key)
        return "–" if value is None else self.form(value)

    def titled(self, unit: str) -> str:
        """The head on a page, with the unit and what is better.

        Args:
            unit: of the read-out.
        """
        head = labelled(self.head, unit if self.unit == READOUT else self.unit)
        return f"{head} ({self.better})" if self.better else head


READOUT = "the read-out's"
COLUMNS: tuple[Column, ...] = (
    Column("spearman", "Spearman", "Spearman", number, "1 is best"),
    Column("spearman_interval", "[90 % interval]", "90 % interval of Spearman", interval),
    Column("pearson", "Pearson", "Pearson", number, "1 is best"),
    Column("mae", "MAE", "MAE", lambda v: number(v, ".5f"), "0 is best", READOUT),
    Column("skill", "skill", "skill", lambda v: number(v, "+.2f"), "positive is better"),
    Column("skill_uncalibrated", "uncalibrated", "skill before calibration", lambda v: number(v, "+.2f")),
    Column("coverage", "coverage", "coverage of 90 % intervals", lambda v: number(v, ".2f"), "0.9 is right"),
    Column("endpoint_error", "endpoint error", "endpoint error", lambda v: number(v, ".2f"), "0 is best"),
    Column("seconds_per_order", "s/order", "time per order", lambda v: number(v, ".2g"), unit="s"),
    Column("precompute_gradients", "gradients", "gradients before", lambda v: f"{v:,}"),
    Column("store_bytes", "store", "reads", nbytes),
)
"""The accuracy table, column by column."""
BY_KEY = {column.key: column for column in COLUMNS}


def table_row(name: str, row: Row) -> dict[str, Any]:
    """An estimator's row of plain values: every column, an interval as `low` and `high`."""
    low, high = row.get("spearman_interval") or (None, None)
    plain: dict[str, Any] = {"estimator": name}
    for column in COLUMNS:
        plain |= {"low": low, "high": high} if column.key == "spearman_interval" else {column.key: row.get(column.key)}
    return plain


def table_units(unit: str) -> dict[str, str]:
    """Units by column of `table_row`."""
    units = {column.key: unit if column.unit == READOUT else column.unit for column in COLUMNS if column.unit}
    return units | {"store_bytes": "B"}


def summary(row: Row, rank: str = "Spearman") -> str:
    """An estimator's rank correlation and skill, in a line.

    Args:
        row: of the estimator.
        rank: what the rank correlation is called.
    """
    return f"{rank} {BY_KEY['spearman'].cell(row)}, skill {BY_KEY['skill'].cell(row)}"


@dataclass(frozen=True)
class Agreement:
    """One estimator's scatter: true and estimated changes of n orders against the reference order.

    Args:
        true: changes retrained [n].
        estimated: estimated changes [n]; NaN for an estimate that is not finite.
        reference: the reference order's value.
        unit: of all of these.
    """

    true: tuple[float, ...]
    estimated: tuple[float, ...]
    reference: float
    unit: str

    @classmethod
    def of(cls, true: Sequence[float], estimated: Sequence[float | None], reference: float, unit: str) -> Agreement:
        """From values, which need not be finite."""
        guesses = [math.nan if v is None or not math.isfinite(v) else v - reference for v in estimated]
        return cls(tuple(v - reference for v in true), tuple(guesses), reference, unit)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(true, estimated) changes of the orders whose estimate is finite."""
        return [(t, e) for t, e in zip(self.true, self.estimated, strict=True) if math.isfinite(e)]

    @property
    def ends(self) -> tuple[float, float]:
        """Where the line of exact estimates begins and ends."""
        return min(*self.true, 0.0), max(*self.true, 0.0)

    @property
    def scale(self) -> Scale:
        """A power of ten in which the true changes have few digits."""
        return Scale.of((true for true, _ in self.pairs), self.unit)


def axis_labels(label: str) -> tuple[str, str]:
    """Labels of both axes of a scatter.

    Args:
        label: the unit as the axes say it.
    """
    return labelled(TRUE, label), labelled(ESTIMATED, label)
