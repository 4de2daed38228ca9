"""The board's section: its table as the page's scripts read it, its gauge, and the heatmap of the same table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.orders.distance import Distance
from estimators.orders.order import Order
from fut.display.format import number
from fut.questions.accuracy.result import Verification
from fut.report.charts.heatmap import Heatmap, heatmap
from fut.report.charts.scatter import gauge
from fut.report.charts.svg import Scale, minus
from fut.report.missing import Missing
from fut.report.sections.board import Board
from fut.report.sections.board_data import embedded
from fut.report.sections.item_texts import held
from fut.report.sections.order_effect import Effects

if TYPE_CHECKING:
    from fut.methods.context import Context


MARKED = 64
"""Steps up to which single cells are large enough to be marked."""


def board_context(
    run: Context, board: Board | Missing, effects: Effects, verified: Sequence[Verification]
) -> dict[str, Any]:
    """What the templates of the board and of its heatmap read."""
    if isinstance(board, Missing):
        return {"board": None, "board_missing": board, "positions": None}
    shown, main = embedded(run, board, held(run)), board.tables[0]
    return {
        "board": board,
        "gauge": gauge(effects, _extremes(board)),
        "embedded": shown,
        "board_scale": Scale.of([shown["limit"]], main.unit).label or "its own unit",
        "board_trust": _trust(verified),
        "board_warning": _warning(verified),
        "items_together": any(len(step) > 1 for step in board.items),
        "positions": _map(board, effects.unit),
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


def measured_skill(verified: Sequence[Verification], estimator: str) -> tuple[float, int] | None:
    """An estimator's skill on this run and on how many orders it was measured; None where it was not."""
    found = next((v for v in verified if estimator in v.estimators), None)
    skill = found.estimators[estimator].get("skill") if found else None
    return None if found is None or skill is None else (float(skill), len(found.orders))


def _trust(verified: Sequence[Verification]) -> str:
    """How the board's estimator fared on this run, in words."""
    measured = measured_skill(verified, "positions")
    if measured is None:
        return "How good it is on this run has not been measured."
    row = next(v.estimators["positions"] for v in verified if "positions" in v.estimators)
    return (
        f"On {measured[1]} retrained random orders of this run it ranks them with Spearman "
        f"{minus(number(row.get('spearman'), '.3f'))} and has skill {minus(format(measured[0], '+,.2f'))}."
    )


def _warning(verified: Sequence[Verification]) -> str:
    """That the board misleads on this run; empty where it does not, or where nobody has measured it."""
    measured = measured_skill(verified, "positions")
    if measured is None or measured[0] > 0:
        return ""
    return (
        f"Do not trust the board on this run: on {measured[1]} retrained orders its estimator, positions, was no better than the "
        f"answer “the order does not matter” (skill {minus(format(measured[0], '+,.2f'))})."
    )


def _map(board: Board, unit: str) -> Heatmap:
    """What a batch is worth at a step beyond the averages of both, batches as rows."""
    worth = board.tables[0].worth
    cells = worth - worth.mean(axis=0) - worth.mean(axis=1, keepdims=True) + worth.mean()
    best = next(a.cards for a in board.arrangements if a.name == "lowest prediction")
    marks = [(card, step) for step, card in enumerate(best)] if board.steps <= MARKED else []
    about = f"Heatmap of what each of {board.steps} batches is worth at each of {board.steps} steps"
    return heatmap("positions-data", np.ascontiguousarray(cells.T), unit, about, "worth", marks=marks)
