"""The page, put together: what the run says, as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files as packaged
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..errors import NotCachedError, UsageError
from ..present import amount, loss
from ..readouts import PROBE
from .about import describe_run
from .asked import ORDERS, what_was_asked
from .board import Board, make_board
from .charts import Scale, minus
from .comparisons import compared
from .drawings import gauge, spread
from .effects import Effects, gather_effects
from .embedding import embedded
from .heatmaps import DARK, LIGHT, Heatmap, heatmap, key_picture
from .missing import Missing, command
from .short import tiles
from .state import read_state
from .texts import held

if TYPE_CHECKING:
    from ..run import Run

SCRIPTS = ("estimate.js", "dragging.js", "board.js", "hover.js")
SECTIONS = [
    ("board", "What if?"),
    ("effect", "How much does order matter?"),
    ("accuracy", "How good are the estimates?"),
    ("positions", "Batches and steps"),
    ("asked", "Asked and missing"),
    ("run", "What was run"),
]


@dataclass(frozen=True)
class Page:
    """html: the whole file. shown, missing: names of its sections; the latter with the command that would fill each."""

    html: bytes
    shown: list[str]
    missing: dict[str, str]


def make_page(run: Run, samples: int, estimator: str) -> Page:
    """Everything that the run's directory says, as a page. samples: random orders to estimate by `estimator`, 0 for none."""
    if samples < 0:
        raise UsageError(f"report: expected --samples of 0 or more, got {samples}; 512 is a good number")
    state = read_state(run.path)
    board = _board(run)
    readout = board.tables[0].readout if isinstance(board, Board) else PROBE
    verified = [v for v in state.verified if v.readout == readout]
    effects = gather_effects(run, readout, state.verified, samples if isinstance(board, Board) else 0, estimator)
    asked = what_was_asked(run, state, readout)
    context = _common(run, effects) | {
        "tiles": tiles(run, effects, verified, board if isinstance(board, Board) else None),
        "verified": [compared(v, i == 0) for i, v in enumerate([*verified, *_others(state.verified, readout)])],
        "accuracy_missing": Missing(
            "no estimate has been compared with retraining", command(run.path, "verify", f"--orders {ORDERS}")
        ),
        "asked": asked,
        "unreadable": state.unreadable,
        **_effect_context(run, effects),
        **_board_context(run, board, effects, verified),
    }
    html = _environment().get_template("report.html.j2").render(context)
    return Page(html.encode("utf-8", "replace"), [], {a.question: a.command for a in asked if not a.done})


def _others(verified: list[Any], readout: str) -> list[Any]:
    return [v for v in verified if v.readout != readout]


def _board(run: Run) -> Board | Missing:
    if not run.problem.rule.smooth:
        return Missing(f"the update rule {run.config.rule.name} has no derivative, which the board's table needs")
    try:
        return make_board(run)
    except NotCachedError:
        return Missing("what the board predicts from is not cached", command(run.path, "cache", "--terms adjoint"))


def _common(run: Run, effects: Effects) -> dict[str, Any]:
    style = packaged("fut.report").joinpath("static/style.css").read_text(encoding="utf-8")
    script = "\n".join(packaged("fut.report").joinpath(f"static/{n}").read_text(encoding="utf-8") for n in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    unit, about = effects.unit, describe_run(run)
    return {
        "about": about,
        "sections": SECTIONS,
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "version": _version(),
        "command": command(run.path, "report"),
        "commands": {
            "estimate": command(run.path, "estimate", "--estimator positions"),
            "calibrate": command(run.path, "calibrate", "--estimator positions"),
            "items": command(run.path, "cache", "--terms adjoint --readouts probe,items"),
        },
        "adjoint": str(run.path / "adjoint"),
        "effects": effects,
        "unit": unit,
        "lower_is_better": unit == "nats/token",
        "readout_words": "loss on the probe set" if effects.readout == PROBE else f"read-out {effects.readout}",
        "amount": lambda v: minus(amount(v, unit)),
        "small": lambda v: minus(amount(v, unit, ".2g")),
        "loss": loss,
        "exp": math.exp,
        "keys": {"light": key_picture(LIGHT), "dark": key_picture(DARK)},
    }


def _effect_context(run: Run, effects: Effects) -> dict[str, Any]:
    return {
        "effect_missing": Missing(
            "fewer than two random orders have been retrained", command(run.path, "verify", f"--orders {ORDERS}")
        ),
        "spread": spread(effects),
        "chosen_count": sum(not t.random for t in effects.trained),
    }


def _board_context(run: Run, board: Board | Missing, effects: Effects, verified: list[Any]) -> dict[str, Any]:
    if isinstance(board, Missing):
        return {"board": None, "board_missing": board, "positions": None}
    main = board.tables[0]
    ends = [float(main.worth[range(board.steps), a.cards].sum()) for a in board.arrangements]
    fit = main.calibrated.fit if main.calibrated else None
    values = [main.reference + e if fit is None else fit.correct(main.reference + e) for e in ends]
    shown = embedded(run, board, held(run))
    return {
        "board": board,
        "gauge": gauge(effects, values),
        "embedded": shown,
        "board_scale": Scale.of([shown["limit"]], main.unit).label or "its own unit",
        "board_trust": _trust(verified),
        "items_together": any(len(step) > 1 for step in board.items),
        "positions": _map(board, effects.unit),
    }


def _trust(verified: list[Any]) -> str:
    row = next((v.estimators["positions"] for v in verified if "positions" in v.estimators), None)
    if row is None or row.get("spearman") is None:
        return "How good it is on this run has not been measured."
    count = next(len(v.orders) for v in verified if "positions" in v.estimators)
    return (
        f"On {count} retrained random orders of this run it ranks them with Spearman {row['spearman']:.2f} and skill "
        f"{minus(format(row['skill'], '+.2f'))}."
    )


def _map(board: Board, unit: str) -> Heatmap:
    """What a batch is worth at a step beyond the averages of both, batches as rows."""
    worth = board.tables[0].worth
    cells = worth - worth.mean(axis=0) - worth.mean(axis=1, keepdims=True) + worth.mean()
    best = next(a.cards for a in board.arrangements if a.name == "lowest prediction")
    marks = [(card, step) for step, card in enumerate(best)] if board.steps <= 64 else []
    about = f"Heatmap of what each of {board.steps} batches is worth at each of {board.steps} steps"
    return heatmap("positions-data", np.ascontiguousarray(cells.T), unit, about, "worth", marks=marks)


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("fut.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    return found


def _version() -> str:
    try:
        return version("fut")
    except PackageNotFoundError:
        from .. import __version__

        return __version__
