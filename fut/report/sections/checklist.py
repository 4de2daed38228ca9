"""What has been asked of the run and what is missing, with the command that would compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fut.estimation.calibration import read_calibration
from fut.methods.adjoint import identity
from fut.methods.adjoint.identity import open_expansion
from fut.methods.lowrank.terms import has_base
from fut.methods.registry import default_estimator
from fut.methods.reweighting.terms import stored_config
from fut.readouts.readout import shortened
from fut.report.missing import command
from fut.report.sections.board import EDITS
from fut.report.state import State, calibrations

if TYPE_CHECKING:
    from fut.methods.context import Context


ORDERS = 32
"""Orders that a first verification should retrain."""


@dataclass(frozen=True)
class Asked:
    """question: in words. state: what there is. command: what would compute it, or more of it."""

    question: str
    done: bool
    state: str
    command: str


def what_was_asked(run: Context, state: State, readout: str) -> list[Asked]:
    """Every kind of question, answered or not."""
    path = run.path
    fitted = {fit.estimator: fit.fit.count for fit in calibrations(run, readout)}
    default = default_estimator(run)
    return [
        _terms(run),
        _calibrated("Intervals for estimates", default, fitted, command(path, "calibrate")),
        _calibrated("Intervals on the board", "positions", fitted, command(path, "calibrate", "--estimator positions")),
        _nearby(run, readout),
        _counted(
            "How good are the estimates?",
            [len(v.orders) for v in state.verified],
            "random orders retrained and compared",
            command(path, "verify", f"--orders {ORDERS}"),
        ),
        _leaving_out(run, state),
        *(_answered(run, state, *question) for question in QUESTIONS),
        Asked(
            "Parameters after another order",
            has_base(path),
            "terms cached" if has_base(path) else "only by training or the oracle",
            command(path, "endpoint", "--order reverse --out reverse.safetensors")
            if has_base(path)
            else command(path, "cache", "--terms curved"),
        ),
    ]


QUESTIONS = [
    ("Which order is best?", "search", "search", "--budget 60"),
    ("What is remembered of a batch?", "memorization", "memorize", "--calibrate 16 --verify 64"),
    ("Which domain first?", "domains", "domains", "--labels loss:3"),
    ("What if …?", "whatif", "whatif", "--swap 3,7"),
]
"""Question, the kind of its answers, and the command that asks it."""


def _terms(run: Context) -> Asked:
    done = identity.has_expansion(run.path) and open_expansion(run).complete()
    names = open_expansion(run).names
    state = f"cached for {shortened(names)}" if done else "not cached"
    return Asked("Estimates of any order", done, state, "" if done else command(run.path, "cache", "--terms adjoint"))


def _calibrated(question: str, estimator: str, fitted: dict[str, int], asked: str) -> Asked:
    count = fitted.get(estimator)
    state = f"{estimator}: calibrated on {count} retrained orders" if count else f"{estimator}: not calibrated"
    return Asked(question, bool(count), state, "" if count else asked)


def _nearby(run: Context, readout: str) -> Asked:
    """Whether the board's estimator is calibrated on single edits of the reference order."""
    held = {edit: read_calibration(run, "positions", readout, edit) for edit in EDITS}
    found = [edit for edit, fit in held.items() if fit is not None]
    state = (
        f"positions: calibrated on single {'s and '.join(found)}s"
        if found
        else "positions: not calibrated on single edits"
    )
    asked = next((edit for edit in EDITS if edit not in found), "")
    options = f"--estimator positions --edit {asked}"
    return Asked(
        "Intervals after a single swap or move",
        bool(found),
        state,
        command(run.path, "calibrate", options) if asked else "",
    )


def _counted(question: str, counts: Sequence[int], what: str, asked: str) -> Asked:
    state = f"{' and '.join(map(str, counts))} {what}" if counts else "not asked yet"
    return Asked(question, bool(counts), state, "" if counts else asked)


def _leaving_out(run: Context, state: State) -> Asked:
    path, counts = run.path, [len(d.subsets) for d in state.left_out]
    cached = stored_config(path) is not None
    asked = command(path, "lds") if cached else command(path, "cache", "--terms reweighting")
    found = _counted("What if items are left out?", counts, "subsets left out, retrained and compared", asked)
    if counts or not cached:
        return found
    return Asked(found.question, False, "terms cached, not compared with the truth yet", asked)


def _answered(run: Context, state: State, question: str, kind: str, name: str, options: str) -> Asked:
    count = state.answers[kind]
    said = f"{count} answer{'s' if count > 1 else ''} kept" if count else "not asked yet"
    return Asked(question, bool(count), said, command(run.path, name, options))
