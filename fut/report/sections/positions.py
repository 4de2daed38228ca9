"""What a batch is worth at a step: the board's table as a heatmap."""

from __future__ import annotations

import numpy as np

from fut.report.board.tables import Board
from fut.report.charts.heatmap import Heatmap, heatmap
from fut.report.entries import Missing
from fut.report.section import RunRecord, Section
from fut.report.shared import page_board

MARKED = 64
"""Steps up to which single cells are large enough to be marked."""


def gather(record: RunRecord) -> Heatmap | Missing:
    """The heatmap, if there is a board."""
    board = record.once(page_board)
    return board if isinstance(board, Missing) else positions_map(board)


def positions_map(board: Board) -> Heatmap:
    """What a batch is worth at a step beyond the averages of both, batches as rows."""
    worth = board.tables[0].worth
    cells = worth - worth.mean(axis=0) - worth.mean(axis=1, keepdims=True) + worth.mean()
    best = next(a.cards for a in board.arrangements if a.name == "lowest prediction")
    marks = [(card, step) for step, card in enumerate(best)] if board.steps <= MARKED else []
    about = f"Heatmap of what each of {board.steps} batches is worth at each of {board.steps} steps"
    return heatmap("positions-data", np.ascontiguousarray(cells.T), board.tables[0].unit, about, "worth", marks=marks)


SECTION = Section(
    "positions",
    "Batches and steps",
    "positions.html.j2",
    gather,
    heading="What is a batch worth at a step?",
)
