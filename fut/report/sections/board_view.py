"""The board's section: its table as the page's scripts read it, its gauge, and what is to be known of its predictions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from estimators.orders.distance import Distance
from estimators.orders.order import Order
from fut.display.format import number
from fut.display.scale import Scale, minus
from fut.estimation.calibration import read_calibration
from fut.methods.adjoint import identity
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.sweep import curvature_caution
from fut.methods.registry import default_estimator
from fut.readouts.readout import shortened
from fut.report.board.embedded import embedded
from fut.report.board.tables import EDITS, Board
from fut.report.board.texts import item_texts
from fut.report.charts.scatter import gauge
from fut.report.effects import page_effects
from fut.report.entries import ChecklistRow, Missing, command
from fut.report.section import Need, RunRecord, Section, calibrations
from fut.report.sections.curriculum import searched
from fut.report.shared import measured, page_board, page_readout

ESTIMATOR = "positions"
"""The method whose table the board holds."""


def gather(record: RunRecord) -> dict[str, Any] | Missing:
    """The board with the orders that searches found, what the page's scripts read of it, and what it is read with."""
    bare, run = record.once(page_board), record.run
    if isinstance(bare, Missing):
        return bare
    arrangements = [s.arrangement for s in record.once(searched) if s.arrangement]
    board = replace(bare, arrangements=[*arrangements, *bare.arrangements])
    effects, shown = record.once(page_effects), embedded(run, board, item_texts(run))
    return {
        "board": board,
        "effects": effects,
        "gauge": gauge(effects, _extremes(board)),
        "embedded": shown,
        "scale": Scale.of([shown["limit"]], board.tables[0].unit).label or "its own unit",
        "trust": _trust(record),
        "warning": _warning(record),
        "commands": {
            "estimate": command(run.path, "estimate", "--estimator positions"),
            "by_default": command(run.path, "estimate", "--order swap:3,7"),
            "calibrate": command(run.path, "calibrate", "--estimator positions"),
            "trusting": command(run.path, "report", "--trust"),
            "every_item": command(run.path, "cache", "--terms adjoint --readouts probe,items"),
        },
    }


def _extremes(board: Board) -> list[float]:
    """Predictions of all arrangements, the lowest and the highest that there are among them."""
    main, content = board.tables[0], board.content
    values = [main.reference + float(main.worth[range(board.steps), a.cards].sum()) for a in board.arrangements]
    if main.calibrated is None:
        return values
    distance = Distance(Order.of(content))
    shares = [distance.share(Order.of(content[card] for card in a.cards)) for a in board.arrangements]
    near = [main.calibrated.nearer(main.reference, share).fit for share in shares]
    return [fit.correct(value) for fit, value in zip(near, values, strict=True)]


def _trust(record: RunRecord) -> str:
    """How the board's estimator fared on this run, in words."""
    row, count = measured(record, ESTIMATOR)
    if not row:
        return "How good it is on this run has not been measured."
    return (
        f"On {count} retrained random orders of this run it ranks them with Spearman "
        f"{minus(number(row.get('spearman'), '.3f'))} and has skill {minus(format(row['skill'], '+,.2f'))}."
    )


def _warning(record: RunRecord) -> str:
    """That the board misleads on this run; empty where it does not, or where nobody has measured it."""
    if caution := curvature_caution(open_expansion(record.run)):
        return f"Do not trust the board on this run: {caution}."
    row, count = measured(record, ESTIMATOR)
    if not row or row["skill"] > 0:
        return ""
    return (
        f"Do not trust the board on this run: on {count} retrained orders its estimator, positions, was no better than the "
        f"answer “the order does not matter” (skill {minus(format(row['skill'], '+,.2f'))})."
    )


def has_terms(record: RunRecord) -> ChecklistRow:
    """Whether estimates can be made without training."""
    run = record.run
    done = identity.has_expansion(run.path) and open_expansion(run).complete()
    state = f"cached for {shortened(identity.computed_readouts(run))}" if done else "not cached"
    missing = "" if done else command(run.path, "cache", "--terms adjoint")
    return ChecklistRow("Estimates of any order", done, state, missing)


def calibrated(question: str, estimator: str | None, options: str = "") -> Need:
    """The need of intervals.

    Args:
        question: in words.
        estimator: the method that is calibrated; None for the run's default.
        options: of the command that calibrates it.
    """

    def need(record: RunRecord) -> ChecklistRow:
        name = estimator or default_estimator(record.run)
        counts = {fit.estimator: fit.fit.count for fit in record.once(_calibrations)}
        count = counts.get(name)
        state = f"{name}: calibrated on {count} retrained orders" if count else f"{name}: not calibrated"
        missing = "" if count else command(record.run.path, "calibrate", options)
        return ChecklistRow(question, bool(count), state, missing)

    return need


def _calibrations(record: RunRecord) -> list[Any]:
    return calibrations(record.run, record.once(page_readout))


def has_edits(record: RunRecord) -> ChecklistRow:
    """Whether the board's estimator is calibrated on single edits of the reference order."""
    run, readout = record.run, record.once(page_readout)
    fitted = [edit for edit in EDITS if read_calibration(run, ESTIMATOR, readout, edit) is not None]
    left = next((edit for edit in EDITS if edit not in fitted), "")
    state = f"calibrated on single {'s and '.join(fitted)}s" if fitted else "not calibrated on single edits"
    missing = command(run.path, "calibrate", f"--estimator {ESTIMATOR} --edit {left}") if left else ""
    return ChecklistRow("Intervals after a single swap or move", bool(fitted), f"{ESTIMATOR}: {state}", missing)


SECTION = Section(
    "board",
    "What if?",
    "board.html.j2",
    gather,
    (
        has_terms,
        calibrated("Intervals for estimates", None),
        calibrated("Intervals on the board", ESTIMATOR, f"--estimator {ESTIMATOR}"),
        has_edits,
    ),
    heading="What if the batches came in another order?",
)
