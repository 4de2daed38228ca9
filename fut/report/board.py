"""The what-if board: what the page needs to predict any order of the reference run's steps by itself.

The page moves whole steps, the batches that the reference run trained on: T cards for T places. Its table is that of
the `positions` estimator, pooled over the items of a card,

    worth[s, c] = mean over items i of card c of M[s, i] - (the same of the card that stands at s in the reference run),

so that an order p of cards is predicted as phi(theta_T) + sum_s worth[s, p[s]], as `run.estimate` does. Items of one card
stay together: an order that splits them is no order of cards, and is asked by `fut estimate`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student

from estimators.intervals import LEVEL
from estimators.order import Order, random_steps

from ..calibration import Calibrated, read_calibration
from ..estimator import Estimator
from .missing import Missing

if TYPE_CHECKING:
    from ..positions import Positions
    from ..run import Run

CARDS, ROOM = 512, 1 << 20
"""Most cards on a board, and bytes of tables in a page."""
SEEDS = 16


@dataclass(frozen=True)
class Table:
    """One read-out's table worth [T, T], in its unit; reference: its value after the reference run."""

    readout: str
    unit: str
    reference: float
    worth: np.ndarray
    calibrated: Calibrated | None

    def embedded(self) -> dict[str, Any]:
        """As JSON; numbers of the table as base64 of float64, little endian, row after row."""
        fit = None
        if self.calibrated is not None:
            found = self.calibrated.fit
            fit = {
                "offset": found.offset,
                "slope": found.slope,
                "sd": found.sd,
                "count": found.count,
                "mean": found.mean,
                "spread": found.spread,
                "quantile": float(student.ppf(0.5 + LEVEL / 2, found.freedom)),
            }
        return {
            "readout": self.readout,
            "unit": self.unit,
            "reference": self.reference,
            "worth": packed(self.worth),
            "fit": fit,
        }


@dataclass(frozen=True)
class Board:
    """tables: those of the read-outs that the page has room for; left_out: the others. arrangements: named orders of the
    cards, each with the name that `--order` takes, if any. classes: cards of equal class hold the same content."""

    tables: list[Table]
    left_out: list[str]
    arrangements: list[tuple[str, str | None, list[int]]]
    classes: list[int]
    items: list[tuple[int, ...]]

    @property
    def steps(self) -> int:
        return len(self.items)

    def order(self, cards: Sequence[int]) -> Order:
        """The order of items that an arrangement of cards is."""
        return Order(tuple(self.items[c] for c in cards))


def packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode("ascii")


def positions_of(run: Run, readout: str) -> Positions:
    """The estimator, its table complete; NotCachedError, naming the command, else."""
    found: Estimator = run.estimator("positions", readout=readout)
    found.ready()
    return cast("Positions", found)


def pooled(table: np.ndarray, steps: Sequence[Sequence[int]]) -> np.ndarray:
    """What every card is worth at every step, minus the card of the reference order there: [T, T]."""
    held = np.stack([table[:, list(step)].mean(axis=1) for step in steps], axis=1)
    return held - np.diag(held)[:, None]


def make_board(run: Run) -> Board | Missing:
    """The board of every read-out that the run's expansion holds, or why there is none."""
    if run.steps > CARDS:
        return Missing(
            f"the board has room for {CARDS} cards, and this run has {run.steps} steps",
            f"fut estimate {run.path} --order swap:3,7 --estimator positions",
        )
    steps = run.reference.steps
    names = run.expansion().names
    shown = names[: max(1, ROOM // (8 * run.steps**2))]
    tables = [_table(run, name) for name in shown]
    return Board(tables, names[len(shown) :], _arrangements(run, tables[0]), _classes(run), list(steps))


def _table(run: Run, readout: str) -> Table:
    found = positions_of(run, readout)
    asked, worth = found.reference, pooled(found.table.cpu().numpy(), run.reference.steps)
    return Table(readout, asked.readout.unit, asked.loss, worth, read_calibration(run, "positions", readout))


def _classes(run: Run) -> list[int]:
    """For every card, the first card of the same content."""
    first: dict[tuple[int, ...], int] = {}
    steps = run.problem.canonical(run.reference).steps
    return [first.setdefault(step, card) for card, step in enumerate(steps)]


def _arrangements(run: Run, table: Table) -> list[tuple[str, str | None, list[int]]]:
    cards = list(range(run.steps))
    best, worst = (linear_sum_assignment(sign * table.worth)[1].tolist() for sign in (1, -1))
    labels = Order.of(cards)
    drawn = [[card for (card,) in random_steps(labels, seed).steps] for seed in range(SEEDS)]
    named = [("reference order", "identity", cards), ("reversed", "reverse", cards[::-1])]
    named += [("lowest by this table", None, best), ("highest by this table", None, worst)]
    return [*named, *((f"random, seed {seed}", f"random-steps:{seed}", found) for seed, found in enumerate(drawn))]
