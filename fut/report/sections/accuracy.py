"""Estimators against the truth, as the page shows them: a table, and a scatter for each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fut.display.agreement import BY_KEY, summary
from fut.display.format import amount, number
from fut.display.scale import minus, shown_unit
from fut.methods.registry import METHODS, base_name, is_baseline, method_of
from fut.methods.reweighting.terms import stored_config
from fut.questions.accuracy.leave_out import Datamodel
from fut.questions.accuracy.render import in_order, title
from fut.questions.accuracy.result import Verification
from fut.report.charts.scatter import scatter
from fut.report.charts.svg import Chart
from fut.report.entries import ChecklistRow, Missing, Tile, command
from fut.report.section import RunRecord, Section
from fut.report.shared import comparisons, page_readout
from fut.report.words import bare

ORDERS = 32
"""Orders that a first verification should retrain."""
SHOWN = (
    *("skill", "mae", "spearman", "spearman_interval", "coverage", "skill_uncalibrated", "endpoint_error"),
    *("seconds_per_order", "precompute_gradients", "store_bytes"),
)
"""Columns of the page's table; what matters most comes first, where a phone shows it."""
CHARTS = 9
"""Scatter charts of one comparison at most."""


@dataclass(frozen=True)
class Comparison:
    """Estimators beside retrained orders.

    Args:
        title: of what.
        words: the same in sentences.
        unit: of the read-out.
        header: of the table.
        rows: of the table, the baseline first.
        charts: name, caption, drawing.
    """

    title: str
    words: str
    unit: str
    header: list[str]
    rows: list[list[str]]
    charts: list[tuple[str, str, Chart]] = field(default_factory=list)


def gather(record: RunRecord) -> dict[str, Any] | Missing:
    """Comparisons on random orders, of the page's read-out and of most orders first, and on subsets that were left out."""
    missing, readout = (
        Missing("no estimate has been compared with retraining", verify_command(record)),
        record.once(page_readout),
    )
    if not record.verified and not record.left_out:
        return missing
    ordered = sorted(record.verified, key=lambda v: v.readout != readout)
    return {
        "verified": [compared(v, i == 0) for i, v in enumerate(ordered)],
        "left_out": [left_out(d, i == 0) for i, d in enumerate(record.left_out)],
        "missing": missing,
    }


def verify_command(record: RunRecord) -> str:
    """What retrains random orders and compares the estimates with them."""
    return command(record.run.path, "verify", f"--orders {ORDERS}")


def compared(result: Verification, drawn: bool) -> Comparison:
    """A result of `fut verify`; its charts if `drawn`."""
    true = result.true_losses
    words = (
        f"{len(true)} random orders were retrained ({result.retrain_seconds:.2g} s each) and estimated, by estimators "
        f"that had not seen them. Retrained: {amount(sum(true) / len(true), result.unit)} on average, standard deviation "
        f"{minus(amount(result.as_dict()['true_sd'], result.unit, '.2g'))}; reference order "
        f"{amount(result.reference_loss, result.unit)}." + _remarks(result)
    )
    header, rows = _table(result)
    named = f"{len(true)} random orders, {title(result)}"
    return Comparison(named, words, result.unit, header, rows, _charts(result) if drawn else [])


def left_out(result: Datamodel, drawn: bool) -> Comparison:
    """A result of `fut lds`; its charts if `drawn`."""
    size = len(result.subsets[0])
    words = (
        f"{len(result.subsets)} random subsets of {size} item{'' if size == 1 else 's'} ({100 * result.share:g} % of all) were "
        "left out in place, every other item in its step, and "
        f"retrained ({result.retrain_seconds:.2g} s each). LDS, the linear datamodeling score, is the Spearman correlation of "
        "estimated with retrained values over the subsets." + _remarks(result)
    )
    header, rows = _table(result)
    header = [head.replace("Spearman", "LDS").replace("order", "subset") for head in header]
    named = f"{len(result.subsets)} subsets left out, {title(result)}"
    return Comparison(named, words, result.unit, header, rows, _charts(result, "LDS") if drawn else [])


def _remarks(result: Verification) -> str:
    return "".join(f" {remark[0].upper()}{remark[1:]}." for remark in result.remarks)


def _charts(result: Verification, rank: str = "Spearman") -> list[tuple[str, str, Chart]]:
    names = [name for name in _in_order(result.estimators) if not is_baseline(name)]
    return [
        (name, minus(summary(result.estimators[name], rank)), scatter(result.agreement(name), name))
        for name in names[:CHARTS]
    ]


def _table(result: Verification) -> tuple[list[str], list[list[str]]]:
    """Header and rows; columns that say nothing of any estimator are left out."""
    names = _in_order(result.estimators)
    columns = [BY_KEY[key] for key in SHOWN]
    cells = {c.titled(result.unit): [minus(c.cell(result.estimators[n])) for n in names] for c in columns}
    kept = {head: column for head, column in cells.items() if set(column) - {"–"}}
    rows = [[name, *(column[i] for column in kept.values())] for i, name in enumerate(names)]
    return ["estimator", *kept], rows


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """In their usual order, the baseline first; names that this version does not know come last."""
    known = [n for n in names if base_name(n) in METHODS]
    return [*in_order(known), *sorted(set(names) - set(known))]


def tiles(record: RunRecord) -> list[Tile]:
    """How far the best cheap estimator can be trusted."""
    question, checked = "Can the estimates be trusted?", record.once(comparisons)
    if not checked:
        return [
            Tile(question, "Not known: they have not been compared with retraining.", missing=verify_command(record))
        ]
    result, count = checked[0], len(checked[0].orders)
    rows = {
        n: r
        for n, r in result.estimators.items()
        if base_name(n) not in METHODS or method_of(n).capabilities.approximates
    }
    best = max(rows, key=lambda n: rows[n].get("skill") or -math.inf, default="")
    if not best or (rows[best].get("skill") or 0) <= 0:
        words = f"No cheap estimator beats the answer “the order does not matter” on {count} retrained orders."
        return [Tile(question, words)]
    row = rows[best]
    error, baseline = (bare(row[name], result.unit, ".2g") for name in ("mae", "mae_reference"))
    words = (
        f"less error than the answer “the order does not matter”: {best} is off by {error} on average, that answer by "
        + f"{baseline} {shown_unit(result.unit)}".rstrip()
        + f", on {count} retrained random orders."
    )
    if row.get("spearman") is not None:
        words += f" It ranks them with Spearman {number(row['spearman'])}."
    return [Tile(question, words, minus(f"{100 * row['skill']:.0f} %"))]


def has_comparison(record: RunRecord) -> ChecklistRow:
    """Whether estimates have been compared with retraining."""
    counts = [len(v.orders) for v in record.verified]
    state = f"{' and '.join(map(str, counts))} random orders retrained and compared" if counts else "not computed yet"
    return ChecklistRow("How good are the estimates?", bool(counts), state, "" if counts else verify_command(record))


def has_left_out(record: RunRecord) -> ChecklistRow:
    """Whether items have been left out, or what that takes."""
    question, path = "What if items are left out?", record.run.path
    counts = [len(d.subsets) for d in record.left_out]
    if counts:
        state = f"{' and '.join(map(str, counts))} subsets left out, retrained and compared"
        return ChecklistRow(question, True, state, "")
    if stored_config(record.run) is None:
        return ChecklistRow(question, False, "not computed yet", command(path, "cache", "--terms reweighting"))
    return ChecklistRow(question, False, "terms cached, not compared with the truth yet", command(path, "lds"))


SECTION = Section(
    "accuracy",
    "How good are the estimates?",
    "accuracy.html.j2",
    gather,
    (has_comparison, has_left_out),
    tiles,
)
