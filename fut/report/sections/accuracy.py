"""Estimators against the truth, as the page shows them: a table, and a scatter for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fut.display import format as present
from fut.methods.registry import METHODS, base_name, is_baseline
from fut.questions.accuracy import render as accuracy_render
from fut.questions.accuracy.result import Verification
from fut.questions.leave_out.score import Datamodel
from fut.report.charts.scatter import scatter
from fut.report.charts.svg import Chart, minus

COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "skill": lambda row: present.number(row["skill"], "+.2f"),
    "MAE": lambda row: present.number(row["mae"], ".5f"),
    "Spearman [90 % interval]": lambda row: (
        f"{present.number(row['spearman'])} {present.interval(row['spearman_interval'])}"
    ),
    "coverage of 90 % intervals": lambda row: present.number(row["coverage"], ".2f"),
    "skill before calibration": lambda row: present.number(row.get("skill_uncalibrated"), "+.2f"),
    "endpoint error": lambda row: present.number(row["endpoint_error"], ".2f"),
    "seconds per order": lambda row: present.number(row["seconds_per_order"], ".2g"),
    "gradients before": lambda row: f"{row['precompute_gradients']:,}",
    "reads": lambda row: present.nbytes(row["store_bytes"]),
}
"""The accuracy table: header, and how a row's cell is made; what matters most comes first, where a phone shows it."""
CHARTS = 9
"""Scatter charts of one comparison at most."""


@dataclass(frozen=True)
class Comparison:
    """title, words: of what. header, rows: of the table, the baseline `reference` first. charts: name, caption, drawing."""

    title: str
    words: str
    header: list[str]
    rows: list[list[str]]
    charts: list[tuple[str, str, Chart]] = field(default_factory=list)


def compared(found: Verification, drawn: bool) -> Comparison:
    """A result of `fut verify`; its charts if `drawn`."""
    true = found.true_losses
    words = (
        f"{len(true)} random orders were really retrained ({found.retrain_seconds:.2g} s each) and estimated, by estimators that "
        f"had not seen them. Retrained: {present.amount(sum(true) / len(true), found.unit)} on average, standard deviation "
        f"{_number(found.as_dict()['true_sd'], '.2g')}; reference order {present.amount(found.reference_loss, found.unit)}."
    )
    names = _in_order(found.estimators)
    title = f"{len(true)} random orders, {accuracy_render.title(found)}"
    charts = (
        [(n, _caption(found.estimators[n]), scatter(found, n)) for n in names if not is_baseline(n)] if drawn else []
    )
    return Comparison(title, words, *_table(found, COLUMNS), charts[:CHARTS])


def left_out(found: Datamodel, drawn: bool) -> Comparison:
    """A result of `fut lds`."""
    checked = found.verification
    size = f"{_counted(len(found.subsets[0]))} ({100 * found.share:g} % of all)"
    words = (
        f"{len(found.subsets)} random subsets of {size} were left out in place, every other item in its step, and really "
        f"retrained ({checked.retrain_seconds:.2g} s each). LDS, the linear datamodeling score, is the Spearman correlation of "
        "estimated with retrained values over the subsets."
    )
    columns = {h.replace("Spearman", "LDS").replace("order", "subset"): cell for h, cell in COLUMNS.items()}
    names = _in_order(checked.estimators)
    charts = [(n, "", scatter(checked, n)) for n in names if not is_baseline(n)] if drawn else []
    title = f"{len(found.subsets)} subsets left out, {accuracy_render.title(checked)}"
    return Comparison(title, words, *_table(checked, columns), charts[:CHARTS])


def _counted(items: int) -> str:
    return "1 item" if items == 1 else f"{items} items"


def _table(
    found: Verification, columns: Mapping[str, Callable[[dict[str, Any]], str]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; columns that say nothing of any estimator are left out."""
    names = _in_order(found.estimators)
    cells = {h: [_cell(cell, found.estimators[n]) for n in names] for h, cell in columns.items()}
    kept = {h: column for h, column in cells.items() if set(column) - {"–"}}
    rows = [[name, *(column[i] for column in kept.values())] for i, name in enumerate(names)]
    return ["estimator", *kept], rows


def _cell(cell: Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    try:
        found = minus(cell(row))
        return "–" if found == "– –" else found
    except (KeyError, TypeError):  # a file of another version lacks the column
        return "–"


def _caption(row: Mapping[str, Any]) -> str:
    return f"Spearman {_number(row.get('spearman'), '.3f')}, skill {_number(row.get('skill'), '+.2f')}"


def _number(value: float | None, form: str) -> str:
    return minus(present.number(value, form))


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """As `accuracy_render.in_order`; names that this version does not know come last."""
    known = [n for n in names if base_name(n) in METHODS]
    return [*accuracy_render.in_order(known), *sorted(set(names) - set(known))]
