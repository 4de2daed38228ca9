"""`bank`: retrained orders that are kept, for any question and any read-out to come: trained in parts, merged, read again.

The truth about an order is its parameters at the end. They are kept by what is trained, so that calibration, verification and
searches find them, and a read-out that is asked for later is evaluated there without training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimators.orders.order import Order
from fut.display.format import columns, number
from fut.display.notebook import COLOURS, Displayable
from fut.display.numbers import jsonable
from fut.display.scale import labelled
from fut.divergence import divergence_note, trained_apart
from fut.errors import UsageError
from fut.estimation.calibration_orders import fresh_orders
from fut.orders.files import content_of
from fut.questions.context import QuestionContext
from fut.questions.question import READOUT_HELP, Question, Request, option
from fut.questions.whatif.query import read_query
from fut.readouts.readout import PROBE, step_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PART = re.compile(r"(\d{1,6})/(\d{1,6})")
LISTED = 40
"""Orders that a table lists."""


@dataclass(frozen=True)
class BankedOrder:
    """An order whose truth is kept. loss: the probe loss; value: the read-out, None where it was not reached by training."""

    order: list[Any]
    digest: str
    loss: float
    value: float | None


@dataclass(frozen=True)
class Bank(Displayable):
    """Orders that have been retrained, and what a read-out is after them.

    Args:
        orders: each with its truth.
        readout: its name, and `unit` its unit.
        reference: its value in the reference order.
        loss_unit: unit of the probe loss.
        trained: orders that this call trained.
        copied: truths that this call took from another directory, and `known` those there that were here already.
        diverged: orders whose training diverges, of which nothing is kept.
    """

    orders: list[BankedOrder]
    readout: str
    unit: str
    reference: float
    loss_unit: str
    trained: int = 0
    copied: int = 0
    known: int = 0
    diverged: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = jsonable({**vars(self), "orders": [vars(one) for one in self.orders]})
        return content

    def title(self) -> str:
        return f"{len(self.orders)} retrained orders"

    def rows(self) -> list[dict[str, Any]]:
        """A row per order: its digest's beginning, its probe loss, and the read-out where it is another."""
        other = self.readout != PROBE
        return [
            {"order": one.digest[:12], PROBE: one.loss} | ({self.readout: one.value} if other else {})
            for one in self.orders
        ]

    def units(self) -> dict[str, str]:
        return {PROBE: self.loss_unit, self.readout: self.unit}

    def notes(self) -> list[str]:
        said = [f"{self.trained} of them trained now"] if self.trained else []
        if self.copied or self.known:
            said.append(f"{self.copied} truths copied, {self.known} were here already")
        return said + ([self.diverged[0]] if self.diverged else [])

    def draw(self, axes: Axes) -> None:
        """How the read-out is spread."""
        axes.hist([one.value for one in self.orders if one.value is not None], bins="auto", color=COLOURS[0])
        axes.axvline(self.reference, color=COLOURS[1], label="reference order")
        axes.set(xlabel=labelled(self.readout, self.unit), ylabel="orders")
        axes.legend(fontsize="small", frameon=False)


@dataclass(frozen=True)
class BankRequest(Request[Bank]):
    """Orders to retrain and keep; without any, those that are kept are listed.

    Args:
        orders: how many random ones; those of a seed are what `verify` retrains, but for orders that were calibrated on.
        seed: of the draw.
        file: of further orders, one a line: a name, or a list in JSON.
        part: `2/8` for every eighth of these orders, from the second on. Other processes train the other parts at once.
        readout: evaluated at every kept endpoint, without training.
        source: directory of a run whose truths are copied first: a copy of this run, of another machine, say.

    Raises:
        UsageError: for fewer orders than none, or a part that is none.
    """

    orders: int = option(0, help="random orders to retrain and keep; without any, the kept ones are listed")
    seed: int = option(0, help="seed of the orders; `fut verify` draws the same ones")
    file: Path | str | None = option(
        None,
        help="file of further orders, one a line: a name, or a JSON list",
        read=lambda flag, text: Path(text),
        metavar="ORDERS.jsonl",
    )
    part: str | None = option(
        None, help="train every N-th order from the I-th on; other processes the other parts, at once", metavar="I/N"
    )
    readout: str = option(PROBE, help=f"evaluated at the kept endpoints, without training: {READOUT_HELP}")
    source: Path | str | None = option(
        None,
        name="--from",
        help="copy what another copy of this run has retrained",
        read=lambda flag, text: Path(text),
        metavar="RUN",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orders < 0:
            raise UsageError(f"bank: expected 0 orders or more, got {self.orders}; 32 is a good number")
        _ = self.place

    @property
    def place(self) -> tuple[int, int]:
        """Which part this is, from 0, and of how many."""
        found = PART.fullmatch(self.part or "1/1")
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"bank: expected --part as 2/8, the second of eight parts, got `{self.part}`; correct it")
        return int(found[1]) - 1, int(found[2])

    @property
    def trains(self) -> bool:
        """Whether orders are asked for."""
        return bool(self.orders) or self.file is not None


def ask(request: BankRequest, context: QuestionContext) -> Bank:
    """Retrain what is missing of the orders, or of the part; every endpoint is kept in the run as soon as it is there."""
    service, truths, losses = context.service, context.service.truths(request.readout), context.service.truths(PROBE)
    copied, known = (0, 0) if request.source is None else service.take_truths(Path(request.source))
    made, diverged = dict[Order, tuple[float, float | None]](), list[Order]()
    if request.trains:
        orders = _asked(request, context)
        missing = service.untrained(orders)
        with context.progress("retraining", len(missing) * context.run.steps) as tick:
            losses.ahead(missing, tick)
            early = step_of(truths.readout) is not None  # taken from kept truths alone

            def both(order: Order) -> tuple[float, float | None]:
                loss = losses.train(order, tick)
                return loss, truths.find(order) if early else truths.train(order)

            made, diverged = trained_apart(missing, both)
        listed = [order for order in orders if order not in set(diverged)]
    else:
        listed = [order for order in service.kept_orders() if len(order) == context.run.steps]
    found = []
    for order in listed:
        # what could not be kept is there too
        loss, value = made[order] if order in made else (losses.find(order), truths.find(order))
        if loss is not None:
            found.append(BankedOrder(order.tolist(), order.digest, loss, value))
    notes = (divergence_note(len(made), diverged),) if diverged else ()
    about = truths.readout, truths.unit, truths.reference, losses.unit
    return Bank(found, *about, len(made), copied, known, notes)


def _asked(request: BankRequest, context: QuestionContext) -> list[Order]:
    """The orders of the file, then the random ones, each that trains otherwise than those before; of a part its own."""
    run, orders = context.run, list[Order]()
    if request.file is not None:
        lines = content_of(Path(request.file)).decode("utf-8", errors="replace").splitlines()
        orders += [_read(line, context) for line in lines if line.strip()]
    if request.orders:
        orders += fresh_orders(run.reference, run.canonical, request.orders, request.seed, (), "bank")
    apart: dict[Order, Order] = {}
    for order in orders:
        apart.setdefault(run.canonical(order), order)
    first, parts = request.place
    return list(apart.values())[first::parts]


def _read(line: str, context: QuestionContext) -> Order:
    """The order of a line."""
    query = read_query(line)
    if query.edits or query.order is None:
        raise UsageError(
            f"bank: expected an order in every line, as random:7 or [3, 1, 2, 0], got {line[:60]}; mend it"
        )
    return context.run.order(query.order)


def _costs(request: BankRequest, context: QuestionContext) -> Sequence[str]:
    if not request.trains:
        return ()
    orders = _asked(request, context)
    missing = len(context.service.untrained(orders))
    part = "" if request.part is None else f" of part {request.part}"
    return [
        f"{len(orders)} orders{part}, {len(orders) - missing} of them kept already; retraining {missing} orders of "
        f"{context.run.steps} steps, {missing * context.run.consumed} gradients"
    ]


def text(bank: Bank) -> str:
    """A line per order, the first of many."""
    rows, units = bank.rows(), bank.units()
    lines = [bank.title()]
    if rows:
        _, *names = rows[0]
        head = ["order", *(f"{name} [{units[name]}]" if units[name] else name for name in names)]
        lines.append(
            columns([head, *([row["order"], *(number(row[n], ".5f") for n in names)] for row in rows[:LISTED])])
        )
    if len(rows) > LISTED:
        lines.append(f"… {len(rows) - LISTED} more; --json has them all")
    return "\n".join([*lines, *bank.notes()])


BANK = Question(
    "bank",
    BankRequest,
    ask,
    text,
    "Retrain orders and keep them for every later question, in parts and in several processes at once; or list what is kept.",
    _costs,
    retrains=True,
)
