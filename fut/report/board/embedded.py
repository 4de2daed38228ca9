"""What the page's own scripts read: the board as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.orders.epochs import epochs
from fut.display.scale import Scale
from fut.report.board.tables import Board
from fut.report.board.texts import ItemText
from storage import address

if TYPE_CHECKING:
    from fut.methods.context import Context


def embedded(run: Context, board: Board, texts: Sequence[ItemText]) -> dict[str, Any]:
    """The board as `board.js` takes it. Texts of items stand once, whatever cards they are on."""
    main, gains = board.tables[0], board.gains
    limit = float(np.quantile(np.abs(gains), 0.95)) or 1.0
    return {
        "run": shlex.quote(address(run.path)),
        "tables": [table.embedded() for table in board.tables],
        "classes": board.classes,
        "content": board.content,
        "epochs": len(epochs([tuple((item, 1.0) for item in card) for card in board.content])),
        "cards": [_card(run, card, board.items[card], texts) for card in range(board.steps)],
        "texts": {str(i): texts[i].sequences for step in board.items for i in step if texts[i].sequences},
        "single": all(len(step) == 1 for step in board.items),
        "limit": limit,
        "factor": 10.0 ** Scale.of([limit], main.unit).exponent,
        "arrangements": [{"name": a.name, "order": a.cards} for a in board.arrangements],
        "random": [{"name": a.name, "order": a.cards} for a in board.random],
        "truths": {",".join(map(str, classes)): loss for classes, loss in board.truths.items()},
    }


def _card(run: Context, card: int, items: Sequence[int], texts: Sequence[ItemText]) -> dict[str, Any]:
    """name: on the card. about: which items, by content hash."""
    per_pass = run.steps // run.config.data.epochs
    again = f", pass {card // per_pass}" if run.config.data.epochs > 1 else ""
    if len(items) == 1:
        name, about = f"batch {card}", f"item {items[0]}{again}, content SHA-256 {texts[items[0]].hash[:12]}…"
    else:
        name, about = f"batch {card}", f"items {items[0]} to {items[-1]}{again}; they stay together here"
    first = texts[items[0]]
    return {
        "name": name,
        "about": about,
        "excerpt": first.excerpt or first.hash[:12],
        "items": list(items),
        "cut": any(texts[i].cut for i in items),
    }
