"""What several sections read of a run: the board, the read-out that the page is about, and how its estimators fared."""

from __future__ import annotations

from fut.display.agreement import Row
from fut.errors import NotCachedError
from fut.methods.adjoint.identity import computed_readouts
from fut.methods.coupling import condition_of
from fut.methods.registry import method_of
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import PROBE
from fut.report.board.tables import Board, make_board
from fut.report.entries import Missing, command
from fut.report.section import RunRecord


def page_board(record: RunRecord) -> Board | Missing:
    """The board, or why there is none."""
    run = record.run
    if not run.problem.rule.smooth:
        return Missing(f"the update rule {run.config.rule.name} has no derivative, which the board's table needs")
    if condition_of(method_of("positions").capabilities, run.problem.rule) is None:
        return Missing(
            f"`positions`, of whose table the board is made, does not take the update rule {run.config.rule.name}"
        )
    not_cached = Missing("what the board predicts from is not cached", command(run.path, "cache", "--terms adjoint"))
    try:
        return make_board(run) if computed_readouts(run) else not_cached
    except NotCachedError:
        return not_cached


def page_readout(record: RunRecord) -> str:
    """The read-out that the page is about: the board's first."""
    board = record.once(page_board)
    return board.tables[0].readout if isinstance(board, Board) else PROBE


def comparisons(record: RunRecord) -> list[Verification]:
    """Comparisons of that read-out with retraining, those of most orders first."""
    return [v for v in record.verified if v.readout == record.once(page_readout)]


def measured(record: RunRecord, estimator: str) -> tuple[Row, int]:
    """What is known of an estimator's accuracy, and on how many orders; an empty row where its skill was not measured."""
    first = next((v for v in record.once(comparisons) if estimator in v.estimators), None)
    if first is None or first.estimators[estimator].get("skill") is None:
        return {}, 0
    return first.estimators[estimator], len(first.orders)


def distrusted(record: RunRecord) -> bool:
    """Whether the estimator of the page's random orders is no better than the baseline on this run."""
    row, _ = measured(record, record.sampling.estimator)
    return bool(row) and float(row["skill"]) <= 0
