"""The page, put together: what the run says, as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as packaged
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from fut.display.format import amount, loss
from fut.errors import NotCachedError, UsageError
from fut.methods.registry import method_of, require_movable
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import PROBE
from fut.report.charts.heatmap import DARK, LIGHT, key_picture
from fut.report.charts.scatter import spread
from fut.report.charts.svg import minus
from fut.report.missing import Missing, command
from fut.report.sections.about import describe_run
from fut.report.sections.accuracy import compared, left_out
from fut.report.sections.board import Arrangement, Board, make_board
from fut.report.sections.board_view import board_context, measured_skill
from fut.report.sections.checklist import ORDERS, what_was_asked
from fut.report.sections.curriculum import Search, searches
from fut.report.sections.order_effect import Effects, gather_effects
from fut.report.sections.summary import tiles
from fut.report.sections.whatif import MOST
from fut.report.state import State, read_state
from fut.version import __version__

if TYPE_CHECKING:
    from fut.methods.context import Context


SCRIPTS = ("estimate.js", "dragging.js", "board.js", "hover.js")
SECTIONS = [
    ("board", "What if?"),
    ("search", "Which order is best?"),
    ("effect", "How much does order matter?"),
    ("accuracy", "How good are the estimates?"),
    ("positions", "Batches and steps"),
    ("memorization", "What is remembered?"),
    ("domains", "Which domain first?"),
    ("asked", "Asked and missing"),
    ("run", "What was run"),
]


@dataclass(frozen=True)
class Page:
    """html: the whole file. missing: what it could not show, with the command that would change that."""

    html: bytes
    missing: dict[str, str]


def make_page(run: Context, samples: int, estimator: str) -> Page:
    """Everything that the run's directory says, as a page. samples: random orders to estimate by `estimator`, 0 for none."""
    if samples < 0:
        raise UsageError(f"report: expected --samples of 0 or more, got {samples}; 512 is a good number")
    if method_of(estimator).capabilities.trains:
        raise UsageError(
            "report: expected an estimator that does not train, got `retrain`; `fut verify` retrains random orders"
        )
    require_movable("report", [estimator])
    state = read_state(run)
    found = searches(run, state.searched)
    board = _board(run, [s.arrangement for s in found if s.arrangement])
    readout = board.tables[0].readout if isinstance(board, Board) else PROBE
    verified = [v for v in state.verified if v.readout == readout]
    measured = measured_skill(verified, estimator)
    distrusted = measured is not None and measured[0] <= 0
    drawn = samples if isinstance(board, Board) and not distrusted else 0
    effects = gather_effects(run, readout, state, drawn, estimator)
    asked = what_was_asked(run, state, readout)
    context = {
        "tiles": tiles(run, effects, verified, found, state.remembered),
        "asked": asked,
        "distrusted": distrusted and samples > 0,
        "unreadable": state.unreadable,
        **_look(),
        **_words(run, effects),
        **_effect_context(run, effects),
        **_accuracy_context(run, state, readout),
        **_answers_context(run, state, found),
        **board_context(run, board, effects, verified),
    }
    html = _environment().get_template("report.html.j2").render(context)
    return Page(html.encode("utf-8", "replace"), {a.question: a.command for a in asked if not a.done})


def _board(run: Context, arrangements: list[Arrangement]) -> Board | Missing:
    """The board, with orders that searches found among its arrangements."""
    if not run.problem.rule.smooth:
        return Missing(f"the update rule {run.config.rule.name} has no derivative, which the board's table needs")
    try:
        return make_board(run, arrangements)
    except NotCachedError:
        return Missing("what the board predicts from is not cached", command(run.path, "cache", "--terms adjoint"))


def _look() -> dict[str, Any]:
    """The page's style and script, and the digest by which the browser tells that script from any other."""

    def read(name: str) -> str:
        return packaged("fut.report").joinpath(f"static/{name}").read_text(encoding="utf-8")

    script = "\n".join(read(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {
        "style": Markup(read("style.css")),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "keys": {"light": key_picture(LIGHT), "dark": key_picture(DARK)},
        "sections": SECTIONS,
    }


def _words(run: Context, effects: Effects) -> dict[str, Any]:
    """What is said in several sections, and how numbers are written."""

    unit = effects.unit
    return {
        "about": describe_run(run),
        "version": __version__,
        "command": command(run.path, "report"),
        "commands": {
            "estimate": command(run.path, "estimate", "--estimator positions"),
            "by_default": command(run.path, "estimate", "--order swap:3,7"),
            "calibrate": command(run.path, "calibrate", "--estimator positions"),
            "every_item": command(run.path, "cache", "--terms adjoint --readouts probe,items"),
        },
        "adjoint": str(run.path / "adjoint"),
        "effects": effects,
        "unit": unit,
        "lower_is_better": unit == "nats/token",
        "readout_words": "loss on the probe set" if effects.readout == PROBE else f"read-out {effects.readout}",
        "plain": lambda value, unit: minus(amount(value, unit)),
        "amount": lambda value: minus(amount(value, unit)),
        "small": lambda value: minus(amount(value, unit, ".2g")),
        "loss": loss,
        "exp": math.exp,
    }


def _effect_context(run: Context, effects: Effects) -> dict[str, Any]:
    asked = command(run.path, "verify", f"--orders {ORDERS}")
    return {
        "effect_missing": Missing("fewer than two random orders have been retrained", asked),
        "spread": spread(effects),
        "chosen_count": sum(not t.random for t in effects.trained),
    }


def _accuracy_context(run: Context, state: State, readout: str) -> dict[str, Any]:
    """The comparison of most orders of the page's read-out comes first, with its charts."""
    asked = command(run.path, "verify", f"--orders {ORDERS}")
    others: list[Verification] = [v for v in state.verified if v.readout != readout]
    first = [v for v in state.verified if v.readout == readout]
    return {
        "verified": [compared(v, i == 0) for i, v in enumerate([*first, *others])],
        "lds": [left_out(found, i == 0) for i, found in enumerate(state.left_out)],
        "accuracy_missing": Missing("no estimate has been compared with retraining", asked),
    }


def _answers_context(run: Context, state: State, found: list[Search]) -> dict[str, Any]:
    def missing(why: str, name: str, options: str = "") -> Missing:
        return Missing(why, command(run.path, name, options))

    return {
        "searches": found,
        "search_missing": missing("no order has been searched for", "search", "--budget 60"),
        "remembered": state.remembered,
        "remembered_missing": missing("no map of what is remembered has been made", "memorize"),
        "domains": state.domains,
        "domains_missing": missing("nothing has been asked about domains", "domains", "--labels loss:3"),
        "queries": state.queries[:MOST],
        "queries_left_out": len(state.queries[MOST:]),
    }


@cache
def _environment() -> jinja2.Environment:
    """Everything that a template writes is escaped; JSON in script elements too, `<` among all."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("fut.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    return found
