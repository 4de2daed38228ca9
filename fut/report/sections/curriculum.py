"""What searches found: the best order beside random and named ones, all really trained, and how the search went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from estimators.orders.order import Order
from fut.display.format import amount
from fut.display.numbers import perplexity
from fut.questions.curriculum.result import Curriculum
from fut.report.charts.scatter import DOT, difference, stacked
from fut.report.charts.svg import Axis, Bar, Chart, Dot, Path, Scale, Words, line, minus, upright
from fut.report.sections.board import Arrangement, cards_of

if TYPE_CHECKING:
    from fut.methods.context import Context


Shapes = list[Dot | Bar | Path | Words]
ROW = 20.0


@dataclass(frozen=True)
class Search:
    """One search, as the page shows it. compared: losses on one line; progress: best estimate against evaluations, None
    where it never improved. named: the retrained named orders, the best first. arrangement: of the board, if it has one."""

    found: Curriculum
    headline: str
    beside: list[tuple[str, str, str]]
    compared: Chart
    progress: Chart | None
    named: list[tuple[str, str]]
    arrangement: Arrangement | None
    written: str


def searches(run: Context, kept: Sequence[Curriculum]) -> list[Search]:
    """The searches of a run, the best first: by the retrained value where there is one, by the estimate else."""
    shown = [_search(run, found) for found in kept]
    return sorted(shown, key=lambda s: (s.found.retrained_loss is None, _sign(s.found) * _value(s.found)))


def _value(found: Curriculum) -> float:
    return found.estimated_loss if found.retrained_loss is None else found.retrained_loss


def _sign(found: Curriculum) -> float:
    return -1.0 if found.maximize else 1.0


def _search(run: Context, found: Curriculum) -> Search:
    best = sorted(found.heuristics.items(), key=lambda pair: _sign(found) * pair[1])
    cards = cards_of(Order.of(found.order), run.reference)
    named = [(name, minus(difference(value, found.reference_loss, found.unit))) for name, value in best]
    written = ",".join(map(str, found.order)) if all(isinstance(i, int) for i in found.order) else str(found.order)
    label = f"search by {found.estimator}, {_said(found, _value(found) - found.reference_loss)}"
    arrangement = None if cards is None else Arrangement("found by search", label, cards)
    return Search(
        found,
        _headline(found),
        list(_beside(found)),
        _compared(found),
        _progress(found),
        named,
        arrangement,
        written,
    )


def _headline(found: Curriculum) -> str:
    value = minus(amount(_value(found), found.unit))
    shown = f", perplexity {perplexity(_value(found)):.4f}" if found.unit == "nats/token" else ""
    how = "really retrained" if found.retrained_loss is not None else "estimated, not retrained yet"
    return f"{value}{shown}, {how}"


def _said(found: Curriculum, change: float) -> str:
    return minus(amount(change, found.unit, "+.5f"))


def _beside(found: Curriculum) -> Iterator[tuple[str, str, str]]:
    """Against whom, how the found order differs from it, and in perplexity."""
    count = len(found.random_losses)
    names = {
        "the reference order": found.reference_loss,
        f"the mean of {count} random orders": found.mean_random_loss,
        f"the best of {count} random orders": found.best_random_loss,
        f"the best of {len(found.heuristics)} named orders, {found.best_heuristic}": found.best_heuristic_loss,
    }
    for name, value in names.items():
        if value is not None:
            change = _value(found) - value
            exponent = ""
            if found.unit == "nats/token":
                exponent = minus(f"{perplexity(_value(found)) - perplexity(value):+.4f}")
            yield name, _said(found, change), exponent


def _compared(found: Curriculum) -> Chart:
    """Retrained orders minus the reference order's value, by kind; the found order's estimate with its interval."""
    reference, unit = found.reference_loss, found.unit
    rows: list[tuple[str, list[tuple[float, str]], str]] = [
        ("found order", [(_value(found), "found order")], "found"),
        ("random orders", [(v, "random order") for v in found.random_losses], "random"),
        ("named orders", [(v, name) for name, v in found.heuristics.items()], "chosen"),
    ]
    rows = [row for row in rows if row[1]]
    ends = [*(found.interval or ()), found.estimated_loss, reference]
    values = [v - reference for _, dots, _ in rows for v, _ in dots] + [v - reference for v in ends]
    scale = Scale.of(values, unit)
    frame = Chart("the found order beside random and named orders", width=560, left=12, right=12, top=24, bottom=54)
    x = Axis.around([scale(v) for v in values], frame.left, frame.width - frame.right, 0.04)
    shapes: Shapes = []
    top = frame.top
    for title, dots, look in rows:
        placed, height = stacked(
            [(x(scale(v - reference)), f"{name}\n{difference(v, reference, unit)}") for v, name in dots], 0.0, look
        )
        base = top + ROW + 8 + height
        shapes.append(Words(frame.left, top + ROW, title, "row"))
        shapes += [replace(dot, y=dot.y + base) for dot in placed if isinstance(dot, Dot)]
        if look == "found":
            shapes += _estimate(found, x, scale, base - DOT)
        top = base + 4
    frame = replace(frame, height=top + frame.bottom)
    shapes += [upright(x(0), frame, "reference"), Words(x(0), frame.top - 9, "reference order", "mark", "middle")]
    label = f"value after training − reference [{scale.label}]"
    return replace(frame, x=x.ticks(7), x_label=label, shapes=tuple(shapes))


def _estimate(found: Curriculum, x: Axis, scale: Scale, y: float) -> Shapes:
    """The estimate's interval as a line, and the estimate as a small upright stroke."""
    at = x(scale(found.estimated_loss - found.reference_loss))
    shapes: Shapes = [line([(at, y - 6), (at, y + 6)], "interval")]
    if found.interval is not None:
        low, high = (x(scale(v - found.reference_loss)) for v in found.interval)
        shapes.append(line([(low, y), (high, y)], "interval"))
    return shapes


def _progress(found: Curriculum) -> Chart | None:
    """The best estimate so far against the number of orders estimated."""
    if len(found.history) < 2:
        return None
    reference = found.reference_loss
    scale = Scale.of([v - reference for _, v in found.history], found.unit)
    frame = Chart("the best estimate so far against the orders estimated", height=230, left=60, right=16)
    left, top, right, bottom = frame.inner
    x = Axis(0.0, float(max(found.evaluations, 1)), left, right)
    y = Axis.around([scale(v - reference) for _, v in found.history], bottom, top)
    corners: list[tuple[float, float]] = []
    for count, value in found.history:
        level = y(scale(value - reference))
        corners += [(x(count), corners[-1][1] if corners else level), (x(count), level)]
    corners.append((x(found.evaluations), corners[-1][1]))
    dots = [
        Dot(
            x(count),
            y(scale(v - reference)),
            "estimate",
            f"after {count} estimates\n{difference(v, reference, found.unit)}",
            2.4,
        )
        for count, v in found.history
    ]
    return replace(
        frame,
        x=x.ticks(5),
        y=y.ticks(4),
        x_label="orders estimated",
        y_label=f"Δ best estimate [{scale.label}]",
        shapes=(line(corners, "trace"), *dots),
    )
