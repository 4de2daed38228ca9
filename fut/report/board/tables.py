"""The what-if board: what the page needs to predict any order of the reference run's steps by itself.

The page moves whole steps, the batches that the reference run trained on: T cards for T places. Its table is that of
the `positions` estimator, pooled over the items of a card,

    worth[s, c] = mean over items i of card c of M[s, i] - (the same of the card that stands at s in the reference run),

so that an order p of cards is predicted as phi(theta_T) + sum_s worth[s, p[s]], as `run.estimate` does. Items of one card
stay together: an order that splits them is no order of cards, and is asked by `fut estimate`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from estimators.intervals import LEVEL
from estimators.orders.order import Order, random_steps
from fut.errors import UntrustedError
from fut.estimation.calibration import Calibrated, read_calibration
from fut.methods.adjoint.identity import computed_readouts
from fut.methods.base import Estimator
from fut.methods.registry import open_estimator
from fut.orders.parsing import named_orders
from fut.readouts.readout import PROBE
from fut.report.entries import Missing, command

if TYPE_CHECKING:
    from fut.methods.adjoint.positions import Positions
    from fut.methods.context import Context


CARDS, ROOM = 512, 1 << 20
"""Most cards on a board, and bytes of tables in a page."""
SEEDS = 16
EDITS = ("swap", "move")
"""Edits of the reference order that a board makes in one go."""


@dataclass(frozen=True)
class Table:
    """One read-out's table.

    Args:
        readout: by name.
        unit: of all values.
        reference: its value after the reference run.
        worth: [T, T], by step and card.
        calibrated: the calibration on random orders, if there is one.
        edits: calibrations on orders that are one edit of a kind away from the reference order, which go before that one for
            such orders, as `fut whatif` has it.
    """

    readout: str
    unit: str
    reference: float
    worth: np.ndarray
    calibrated: Calibrated | None
    edits: dict[str, Calibrated]

    def embedded(self) -> dict[str, Any]:
        """As JSON; numbers of the table as base64 of float64, little endian, row after row."""
        return {
            "readout": self.readout,
            "unit": self.unit,
            "reference": self.reference,
            "worth": packed(self.worth),
            "fit": None if self.calibrated is None else _fit(self.calibrated),
            "edits": {edit: _fit(calibrated) for edit, calibrated in self.edits.items()},
        }


def _fit(calibrated: Calibrated) -> dict[str, Any]:
    """What the page needs for `Calibration.nearer`, `correct` and `interval`. least: the share of the variance that every
    interval has beside the residual's own."""
    from scipy.special import stdtrit

    fit = calibrated.fit
    return {
        "offset": fit.offset,
        "slope": fit.slope,
        "sd": fit.sd,
        "count": fit.count,
        "least": 0.0 if fit.anchored else 1 / fit.count,
        "mean": fit.mean,
        "spread": fit.spread,
        "curve": fit.curve,
        "covariance": fit.covariance,
        "chosen": calibrated.chosen,
        "typical": fit.typical,
        "reach": fit.reach,
        "range": [min(calibrated.estimates), max(calibrated.estimates)],
        "quantile": float(stdtrit(fit.freedom, 0.5 + LEVEL / 2)),
    }


@dataclass(frozen=True)
class Arrangement:
    """An order of the cards by name.

    Args:
        group: of such orders.
        name: within the group.
        cards: step by step.
    """

    group: str
    name: str
    cards: list[int]


@dataclass(frozen=True)
class Board:
    """What the page predicts orders of cards from.

    Args:
        tables: of the read-outs that the page has room for, the first of which the board shows in large.
        left_out: the other read-outs.
        untrusted: read-outs that are code which the directory alone names, and which nobody has allowed to run.
        arrangements: orders with names.
        random: random orders.
        classes: of the cards; those of equal class hold the same content.
        items: of every card, as the reference run consumes them.
        content: the same with one number for all items of equal content, ascending, from which an order's distance is taken.
        truths: the first read-out after orders of cards that were retrained, by the classes of their cards.
    """

    tables: list[Table]
    left_out: list[str]
    untrusted: list[str]
    arrangements: list[Arrangement]
    random: list[Arrangement]
    classes: list[int]
    items: list[tuple[int, ...]]
    content: list[tuple[int, ...]]
    truths: dict[tuple[int, ...], float]

    @property
    def steps(self) -> int:
        """T, as many as there are cards."""
        return len(self.items)

    @property
    def gains(self) -> np.ndarray:
        """What a card does at a step instead of its own, beyond the average card of both: [T, T], by step and card.

        Over the cards of an order these add up to the order's difference from the reference order.
        """
        worth = self.tables[0].worth
        centred = worth - worth.mean(axis=1, keepdims=True)
        beyond: np.ndarray = centred - np.diag(centred)[None]
        return beyond


def packed(values: np.ndarray) -> str:
    """Values as base64 of float64, little endian."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode("ascii")


def positions_of(run: Context, readout: str) -> Positions:
    """The estimator, its table complete; NotCachedError, naming the command, else."""
    estimator: Estimator = open_estimator(run, "positions", readout=readout)
    estimator.ready()
    return cast("Positions", estimator)


def pooled(table: np.ndarray, steps: Sequence[Sequence[int]]) -> np.ndarray:
    """What every card is worth at every step, minus the card of the reference order there: [T, T]."""
    means = np.stack([table[:, list(step)].mean(axis=1) for step in steps], axis=1)
    return means - np.diag(means)[:, None]


def make_board(run: Context) -> Board | Missing:
    """The board of every read-out that the run's expansion holds, or why there is none."""
    if run.steps > CARDS:
        instead = command(run.path, "estimate", "--order swap:3,7 --estimator positions")
        return Missing(f"the board has room for {CARDS} cards, and this run has {run.steps} steps", instead)
    names, untrusted = _by_trust(run, computed_readouts(run))
    if not names:
        again = command(run.path, "report", "--trust")
        return Missing(
            "its read-outs are code that the run directory alone names, which runs where you trust it", again
        )
    shown = names[: max(1, ROOM // (8 * run.steps**2))]
    tables, classes = [_table(run, name) for name in shown], _classes(run)
    places = {step: card for card, step in reversed(list(enumerate(run.problem.canonical(run.reference).steps)))}
    arrangements = [*_assigned(tables[0]), *_named(run)]
    return Board(
        tables,
        names[len(shown) :],
        untrusted,
        arrangements,
        _random(run.steps),
        classes,
        list(run.reference.steps),
        list(run.problem.canonical(run.reference).steps),
        dict(_truths(run, places)) if names[0] == PROBE else {},
    )


def _by_trust(run: Context, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Read-outs that may be evaluated, and those that are code which nobody has allowed to run."""
    allowed, untrusted = [], []
    for name in names:
        try:
            run.readouts.get(name)
        except UntrustedError:
            untrusted.append(name)
        else:
            allowed.append(name)
    return allowed, untrusted


def _table(run: Context, readout: str) -> Table:
    positions = positions_of(run, readout)
    worth = pooled(positions.table.cpu().numpy(), run.reference.steps)
    near = {edit: read_calibration(run, "positions", readout, edit) for edit in EDITS}
    edits = {edit: fit for edit, fit in near.items() if fit is not None}
    return Table(
        readout,
        positions.readout.unit,
        positions.reference_value,
        worth,
        read_calibration(run, "positions", readout),
        edits,
    )


def _classes(run: Context) -> list[int]:
    """For every card, the first card of the same content."""
    first: dict[tuple[int, ...], int] = {}
    steps = run.problem.canonical(run.reference).steps
    return [first.setdefault(step, card) for card, step in enumerate(steps)]


def _truths(run: Context, places: dict[tuple[int, ...], int]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Retrained orders that consist of whole cards, by their cards' classes."""
    for order, loss in run.retrained.losses():
        steps = run.problem.canonical(order).steps
        if order.weights is None and len(steps) == run.steps and all(step in places for step in steps):
            yield tuple(places[step] for step in steps), loss


def _assigned(table: Table) -> list[Arrangement]:
    from scipy.optimize import linear_sum_assignment

    lowest, highest = (linear_sum_assignment(sign * table.worth)[1].tolist() for sign in (1, -1))
    group = "by this table"
    return [Arrangement(group, "lowest prediction", lowest), Arrangement(group, "highest prediction", highest)]


def _named(run: Context) -> list[Arrangement]:
    """The run's named orders, those that keep the cards whole."""
    arrangements = []
    for name, order in named_orders(run).items():
        cards = cards_of(order, run.reference)
        if cards is not None:
            group = name.partition(":")[0] if ":" in name else "as they are"
            arrangements.append(Arrangement(group, name, cards))
    return arrangements


def cards_of(order: Order, reference: Order) -> list[int] | None:
    """The cards that an order lays out, each once; None where it splits one, or leaves one out."""
    left: dict[tuple[int, ...], list[int]] = {}
    for card, step in reversed(list(enumerate(reference.steps))):
        left.setdefault(tuple(sorted(step)), []).append(card)
    if order.weights is not None or len(order) != len(reference):
        return None
    try:
        return [left[tuple(sorted(step))].pop() for step in order.steps]
    except (KeyError, IndexError):
        return None


def _random(steps: int) -> list[Arrangement]:
    labels = Order.of(range(steps))
    drawn = ([card for (card,) in random_steps(labels, seed).steps] for seed in range(SEEDS))
    return [Arrangement("random", f"seed {s}", cards) for s, cards in enumerate(drawn)]
