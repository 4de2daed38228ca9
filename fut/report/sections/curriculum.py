"""What searches found: the best order beside random and named ones, all retrained, and how the search went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from estimators.orders.order import Order
from fut.display.format import amount
from fut.display.numbers import perplexity
from fut.display.scale import NATS, Scale, labelled, minus
from fut.questions.curriculum.result import Curriculum
from fut.report.board.tables import Arrangement, cards_of
from fut.report.charts.scatter import DOT, beside, stacked
from fut.report.charts.svg import CHANGE, Axis, Chart, Dot, NumberLine, Shapes, Words, line, wide
from fut.report.entries import Missing, Tile, command
from fut.report.section import RunRecord, Section, answered
from fut.report.shared import page_readout
from fut.report.words import bare, difference

if TYPE_CHECKING:
    from fut.methods.context import Context


ROW = 20.0
QUESTION, BUDGET = "Which order is best?", "--budget 60"


@dataclass(frozen=True)
class Search:
    """One search, as the page shows it.

    Args:
        answer: as it was kept.
        headline: the best order's value, in words.
        header: of the table of rivals.
        rivals: its rows: whom it is compared with, and by how much it differs, also in perplexity.
        compared: chart of values on one line.
        progress: chart of the best estimate against evaluations; None where it never improved.
        named: the retrained named orders, the best first.
        arrangement: of the board, if it has one.
        written: the order itself.
    """

    answer: Curriculum
    headline: str
    header: list[str]
    rivals: list[list[str]]
    compared: Chart
    progress: Chart | None
    named: list[tuple[str, str]]
    arrangement: Arrangement | None
    written: str


def searched(record: RunRecord) -> list[Search]:
    """The searches of a run, the best first: by the retrained value where there is one, by the estimate else."""
    shown = record.read("search", lambda content: _search(record.run, Curriculum.from_dict(content)))
    return sorted(shown, key=lambda s: (s.answer.truths.retrained_loss is None, _sign(s.answer) * _value(s.answer)))


def gather(record: RunRecord) -> list[Search] | Missing:
    """The searches, with their charts."""
    missing = Missing("no order has been searched for", command(record.run.path, "search", BUDGET))
    return record.once(searched) or missing


def tiles(record: RunRecord) -> list[Tile]:
    """The best order found, in a sentence."""
    searches = [s.answer for s in record.once(searched) if s.answer.readout == record.once(page_readout)]
    if not searches:
        return [Tile(QUESTION, "Not searched for yet.", missing=command(record.run.path, "search", BUDGET))]
    return [_best(searches[0])]


def _best(answer: Curriculum) -> Tile:
    if answer.truths.retrained_loss is None:
        words = f"against the reference order ({_sought(answer)}) is estimated for the best order found; it is not retrained."
        return Tile(
            QUESTION,
            words,
            bare(_value(answer) - answer.truths.reference_loss, answer.unit),
            answer.unit,
        )
    value, others = answer.truths.retrained_loss, []
    if answer.truths.best_random_loss is not None:
        others.append((answer.truths.best_random_loss, f"the best of {len(answer.truths.random_losses)} random orders"))
    if answer.truths.best_heuristic_loss is not None:
        others.append((answer.truths.best_heuristic_loss, f"the best of {len(answer.truths.heuristics)} named ones"))
    beside = "".join(f"; {bare(value - other, answer.unit)} against {name}" for other, name in others)
    words = f"against the reference order ({_sought(answer)}), retrained, for the best order found{beside}."
    return Tile(QUESTION, words, bare(value - answer.truths.reference_loss, answer.unit), answer.unit)


def _value(answer: Curriculum) -> float:
    return answer.estimate.estimated_loss if answer.truths.retrained_loss is None else answer.truths.retrained_loss


def _sign(answer: Curriculum) -> float:
    return -1.0 if answer.truths.maximize else 1.0


def _sought(answer: Curriculum) -> str:
    """Which sign of a difference the search held for better, in words."""
    return "positive is better" if answer.truths.maximize else "negative is better"


def _search(run: Context, answer: Curriculum) -> Search:
    best = sorted(answer.truths.heuristics.items(), key=lambda pair: _sign(answer) * pair[1])
    cards = cards_of(Order.of(answer.order), run.reference)
    named = [(name, beside(value, answer.truths.reference_loss, answer.unit)) for name, value in best]
    written = ",".join(map(str, answer.order)) if all(isinstance(i, int) for i in answer.order) else str(answer.order)
    label = f"search by {answer.estimator}, {difference(_value(answer) - answer.truths.reference_loss, answer.unit)}"
    arrangement = None if cards is None else Arrangement("found by search", label, cards)
    header = ["against", labelled("difference", answer.unit), "difference in perplexity"]
    return Search(
        answer,
        _headline(answer),
        header if answer.unit == NATS else header[:2],
        list(_rivals(answer)),
        _compared(answer),
        _progress(answer),
        named,
        arrangement,
        written,
    )


def _headline(answer: Curriculum) -> str:
    value = minus(amount(_value(answer), answer.unit))
    shown = f", perplexity {perplexity(_value(answer)):.4f}" if answer.unit == NATS else ""
    how = "retrained" if answer.truths.retrained_loss is not None else "estimated, not retrained yet"
    return f"{value}{shown}, {how}"


def _rivals(answer: Curriculum) -> Iterator[list[str]]:
    """Against whom, how the found order differs from it, and in perplexity where that is one."""
    truths, count = answer.truths, len(answer.truths.random_losses)
    names = {
        "the reference order": truths.reference_loss,
        f"the mean of {count} random orders": truths.mean_random_loss,
        f"the best of {count} random orders": truths.best_random_loss,
        f"the best of {len(truths.heuristics)} named orders, {truths.best_heuristic}": truths.best_heuristic_loss,
    }
    for name, value in names.items():
        if value is not None:
            change = _value(answer) - value
            row = [name, bare(change, answer.unit)]
            if answer.unit == NATS:
                row.append(minus(f"{perplexity(_value(answer)) - perplexity(value):+.4f}"))
            yield row


def _compared(answer: Curriculum) -> Chart:
    """Retrained orders minus the reference order's value, by kind; the found order's estimate with its interval."""
    reference, unit = answer.truths.reference_loss, answer.unit
    rows: list[tuple[str, list[tuple[float, str]], str]] = [
        ("found order", [(_value(answer), "found order")], "found"),
        ("random orders", [(v, "random order") for v in answer.truths.random_losses], "random"),
        ("named orders", [(v, name) for name, v in answer.truths.heuristics.items()], "chosen"),
    ]
    rows = [row for row in rows if row[1]]
    ends = [*(answer.estimate.interval or ()), answer.estimate.estimated_loss, reference]
    values = [v - reference for _, dots, _ in rows for v, _ in dots] + [v - reference for v in ends]
    x = NumberLine.around(wide("the found order beside random and named orders", 0), values, unit)
    shapes: Shapes = []
    top = x.frame.top
    for title, dots, look in rows:
        placed, height = stacked(
            [(x(v - reference), f"{name}\n{beside(v, reference, unit)}") for v, name in dots], 0.0, look
        )
        base = top + ROW + 8 + height
        shapes.append(Words(x.frame.left, top + ROW, title, "row"))
        shapes += [replace(dot, y=dot.y + base) for dot in placed]
        if look == "found":
            shapes += _estimate(answer, x, base - DOT)
        top = base + 4
    x = replace(x, frame=replace(x.frame, height=top + x.frame.bottom))
    return x.drawn([*x.reference(), *shapes], f"{labelled(CHANGE, x.scale.label)}, {_sought(answer)}")


def _estimate(answer: Curriculum, x: NumberLine, y: float) -> Shapes:
    """The estimate's interval as a line, and the estimate as a small upright stroke."""
    at = x(answer.estimate.estimated_loss - answer.truths.reference_loss)
    shapes: Shapes = [line([(at, y - 6), (at, y + 6)], "interval")]
    if answer.estimate.interval is not None:
        low, high = (x(v - answer.truths.reference_loss) for v in answer.estimate.interval)
        shapes.append(line([(low, y), (high, y)], "interval"))
    return shapes


def _progress(answer: Curriculum) -> Chart | None:
    """The best estimate so far against the number of orders estimated."""
    if len(answer.search.history) < 2:
        return None
    reference, history = answer.truths.reference_loss, answer.search.history
    scale = Scale.of([v - reference for _, v in history], answer.unit)
    frame = Chart("the best estimate so far against the orders estimated", height=230, right=16)
    y = Axis.around([scale(v - reference) for _, v in history], frame.inner[3], frame.top)
    frame = frame.with_y(y, 4, labelled("Δ best estimate", scale.label))
    left, _, right, _ = frame.inner
    x = Axis(0.0, float(max(answer.search.evaluations, 1)), left, right)
    corners: list[tuple[float, float]] = []
    for count, value in history:
        level = y(scale(value - reference))
        corners += [(x(count), corners[-1][1] if corners else level), (x(count), level)]
    corners.append((x(answer.search.evaluations), corners[-1][1]))
    shapes: Shapes = [line(corners, "trace")]
    for count, value in history:
        said = f"after {count} estimates\n{beside(value, reference, answer.unit)}"
        shapes.append(Dot(x(count), y(scale(value - reference)), "estimate", said, 2.4))
    return replace(frame, x=x.ticks(5), x_label="orders estimated", shapes=shapes)


SECTION = Section(
    "search",
    QUESTION,
    "search.html.j2",
    gather,
    (answered(QUESTION, "search", "search", BUDGET),),
    tiles,
)
