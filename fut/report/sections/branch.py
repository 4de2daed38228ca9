"""What a part of training's memory does: branch and hold, every read-out with a dot a seed."""

from __future__ import annotations

from dataclasses import dataclass

from fut.display.format import number
from fut.display.scale import labelled, minus
from fut.report.charts.paired import Course, Pairs, course, pairs
from fut.report.charts.svg import Chart
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered
from fut.studies.branch.kept import KeptEffect
from fut.studies.branch.render import NAMES, SAID

QUESTION = "What does the memory of training do?"
OPTIONS = "--treatment reset"
BETTER = {"loss": "negative helps", "accuracy": "positive helps", "calibration_error": "negative helps"}


@dataclass(frozen=True)
class BranchShown:
    """One answer.

    Args:
        answer: as it was kept.
        title: source and treatment.
        words: what was done, and what it did to the loss.
        panels: name of a read-out with its mean, and a dot a seed.
        course: of the loss over the steps; None where there is one reading.
        header: of the table of effects.
        rows: its rows.
        failed: checks that do not hold, in words.
        held: those that do.
    """

    answer: KeptEffect
    title: str
    words: str
    panels: list[tuple[str, Chart]]
    course: Chart | None
    header: list[str]
    rows: list[list[str]]
    failed: list[str]
    held: list[str]


def gather(record: RunRecord) -> list[BranchShown] | Missing:
    """The answers, by file name."""
    found = record.read("branch", lambda content: shown(KeptEffect.from_dict(content)))
    return found or Missing(
        "no part of training's memory has been treated", command(record.run.path, "branch", OPTIONS)
    )


def shown(answer: KeptEffect) -> BranchShown:
    """What the page shows of an answer."""
    plan, count = answer.plan, len(answer.deltas["loss"])
    window = (plan.at, min(plan.at + plan.window, plan.horizon))
    curve = Course(answer.steps, answer.course, answer.units["loss"], "Δ", window)
    metrics = [name for name in NAMES if name in answer.effects]
    said: dict[bool, list[str]] = {True: [], False: []}
    for name, held in answer.checks.items():
        if held is not None:
            said[held].append(SAID[name])
    return BranchShown(
        answer,
        f"{plan.source}: {plan.treatment}{', repeated at every step of the window' if plan.clamp else ''}",
        _words(answer, count),
        [(NAMES[name], _panel(answer, name)) for name in metrics],
        course(curve) if len(answer.steps) > 1 else None,
        ["read-out", "mean", "95 % interval", "p, sign flips", "bootstrap"],
        [_row(answer, name) for name in metrics],
        said[False],
        said[True],
    )


def _words(answer: KeptEffect, count: int) -> str:
    plan, of = answer.plan, answer.effects["loss"]
    judged = "" if plan.average is None else f", judged by the parameters' average ({plan.average})"
    begun = (
        f"Both arms are one up to step {plan.at}; the treatment acts in a window of {plan.window} steps, and training ends after "
        f"step {plan.horizon}. {count} seeds, each a random order{judged}."
    )
    if of.interval is None:
        return f"{begun} One seed has no interval."
    low, high = of.interval
    if low <= 0 <= high:
        return f"{begun} The interval of the loss holds 0: these seeds do not show an effect."
    return f"{begun} The treatment {'raises' if of.mean > 0 else 'lowers'} the loss at the end."


def _panel(answer: KeptEffect, name: str) -> Chart:
    of = answer.effects[name]
    estimated = answer.estimated[1] if answer.estimated is not None and name == "loss" else ()
    return pairs(Pairs(answer.deltas[name], of.mean, of.interval, answer.units[name], "Δ", estimated=estimated))


def _row(answer: KeptEffect, name: str) -> list[str]:
    of = answer.effects[name]
    ends = ["none" if e is None else minus(f"{e[0]:+.2g} … {e[1]:+.2g}") for e in (of.interval, of.bootstrap)]
    title = f"{labelled(NAMES[name], answer.units[name])}, {BETTER[name]}" if name in BETTER else NAMES[name]
    return [title, minus(f"{of.mean:+.2g}"), ends[0], number(of.p_value, ".3f"), ends[1]]


SECTION = Section(
    "branch",
    "Training's memory",
    "branch.html.j2",
    gather,
    (answered(QUESTION, "branch", "branch", OPTIONS),),
    heading=QUESTION,
)
