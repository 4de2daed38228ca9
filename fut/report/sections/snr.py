"""Signal and noise of gradients by module, over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from estimators.signal_noise import FLOOR, SignalNoise
from fut.display.format import number
from fut.display.scale import minus
from fut.questions.snr.result import ModuleSnr
from fut.report.charts.logarithmic import Frame, Line, banded, lines
from fut.report.charts.svg import Chart
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered

QUESTION, OPTIONS = "Which modules' gradients are signal?", "--points 6"


@dataclass(frozen=True)
class SnrShown:
    """One answer.

    Args:
        answer: as it was kept.
        words: which module is cleanest and which noisiest, at the last point.
        compared: ratios of all modules over the steps; None for one point.
        modules: name, and its ratio over the steps with its interval.
        moments: whether any ratio is by moments.
        step: of the last point.
        header: of the table of the last point.
        rows: its rows, cleanest first.
    """

    answer: ModuleSnr
    words: str
    compared: Chart | None
    modules: list[tuple[str, Chart]]
    moments: bool
    step: int
    header: list[str]
    rows: list[list[str]]


def gather(record: RunRecord) -> list[SnrShown] | Missing:
    """The answers, those of most points first."""
    found = record.read("snr", lambda content: shown(ModuleSnr.from_dict(content)))
    missing = Missing("signal and noise have not been measured", command(record.run.path, "snr", OPTIONS))
    return sorted(found, key=lambda one: -len(one.answer.points)) or missing


def shown(answer: ModuleSnr) -> SnrShown:
    """What the page shows of an answer."""
    last = answer.points[-1]
    order = sorted(last.gradients, key=lambda module: -last.gradients[module].ratio)
    every = [_line(answer, module) for module in order]
    within = [v for one in every for v in (*one.ys, *one.beside) if math.isfinite(v)]
    frame = _frame("signal-to-noise ratio of every module by step")
    panels = [(one.name, banded(one, _frame(f"signal-to-noise ratio of {one.name} by step", within))) for one in every]
    return SnrShown(
        answer,
        f"At step {last.step}, the cleanest gradients are those of {order[0]}, the noisiest those of {order[-1]}.",
        lines(every, frame) if len(answer.points) > 1 else None,
        panels,
        any(point.moments for point in answer.points),
        last.step,
        ["module", "SNR", "90 % interval", "by moments", "damping", "scale"],
        [_row(answer, module) for module in order],
    )


def _frame(about: str, within: Sequence[float] = ()) -> Frame:
    def said(name: str, step: float, value: float) -> str:
        return f"{name}, step {step:g}\nSNR {value:.3g}"

    return Frame(about, "step", "SNR", FLOOR, said, within)


def _line(answer: ModuleSnr, module: str) -> Line:
    of = [point.gradients[module] for point in answer.points]
    moments = [point.moments.get(module) for point in answer.points]
    ratios = [math.nan if one is None else one.ratio for one in moments]
    known = [one for one in moments if one is not None]
    beside = _band(known) if len(known) == len(moments) else None
    return Line(module, [p.step for p in answer.points], [one.ratio for one in of], _band(of), ratios, beside)


def _band(of: Sequence[SignalNoise]) -> tuple[list[float], list[float]] | None:
    """Both ends of the intervals; None where any has none."""
    ends = [one.interval for one in of]
    known = [end for end in ends if end is not None]
    return ([low for low, _ in known], [high for _, high in known]) if len(known) == len(ends) else None


def _row(answer: ModuleSnr, module: str) -> list[str]:
    last = answer.points[-1]
    one, scales = last.gradients[module], answer.scales(last)
    by_moments = _known(last.moments[module]) if module in last.moments else "–"
    cells = number(one.ratio, ".3g"), _ends(one), by_moments, number(one.damping, ".2f"), number(scales[module], ".2f")
    return [module, *map(minus, cells)]


def _known(one: SignalNoise) -> str:
    return number(one.ratio, ".3g") + ("" if one.interval is None else f" ({_ends(one)})")


def _ends(one: SignalNoise) -> str:
    return "none" if one.interval is None else f"{one.interval[0]:.2g} … {one.interval[1]:.2g}"


SECTION = Section(
    "snr",
    "Signal and noise",
    "snr.html.j2",
    gather,
    (answered(QUESTION, "snr", "snr", OPTIONS),),
    heading=QUESTION,
)
