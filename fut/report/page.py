"""The page, put together: what its sections gather from a run, as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as packaged
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from fut.display.format import amount, loss
from fut.display.scale import better, minus, shown_unit
from fut.errors import UsageError
from fut.methods.registry import method_of, require_movable
from fut.readouts.readout import PROBE
from fut.report.board.tables import Board
from fut.report.charts.heatmap import DARK, LIGHT, key_picture
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Sampling, Section, read_record
from fut.report.sections import SECTIONS, checklist
from fut.report.sections.about import describe_run
from fut.report.shared import page_board, page_readout
from fut.report.words import code
from fut.version import __version__

if TYPE_CHECKING:
    from fut.methods.context import Context


SCRIPTS = ("estimate.js", "dragging.js", "board.js", "hover.js")
UNTITLED = ("short",)
"""Sections without a line in the navigation: it stands above them."""


@dataclass(frozen=True)
class Page:
    """What was written.

    Args:
        html: the whole file.
        missing: what it could not show, with the command that would change that.
    """

    html: bytes
    missing: dict[str, str]


def make_page(run: Context, samples: int, estimator: str, sections: Sequence[Section] | None = None) -> Page:
    """Everything that the run's directory says, as a page.

    Args:
        run: the opened run.
        samples: random orders to estimate, 0 for none.
        estimator: the method that estimates them.
        sections: those of the page; by default all.

    Raises:
        UsageError: for a negative number of samples, or an estimator that trains or does not move items.
    """
    _check(samples, estimator)
    sections = SECTIONS if sections is None else tuple(sections)
    gathered = []
    with run.progress("report", len(sections) + 1) as tick:
        record = read_record(run, Sampling(samples, estimator), sections)
        tick()
        for section in sections:
            gathered.append((section, section.gather(record)))
            tick()
    common = _words(record)
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            common
            | _look()
            | {
                "about": describe_run(run),
                "version": __version__,
                "command": command(run.path, "report"),
                "links": [(section.name, section.title) for section in sections if section.name not in UNTITLED],
                "parts": [_part(section, data, record, common) for section, data in gathered],
            }
        )
    )
    missing = {row.question: row.command for row in checklist.gather(record) if not row.done}
    return Page(html.encode("utf-8", "replace"), missing)


def _check(samples: int, estimator: str) -> None:
    """UsageError for what cannot be meant."""
    if samples < 0:
        raise UsageError(f"report: expected --samples of 0 or more, got {samples}; 512 is a good number")
    if method_of(estimator).capabilities.trains:
        raise UsageError(
            "report: expected an estimator that does not train, got `retrain`; `fut verify` retrains random orders"
        )
    require_movable("report", [estimator])


def _part(section: Section, data: Any, record: RunRecord, common: dict[str, Any]) -> Markup:
    """A section as HTML."""
    missing = data if isinstance(data, Missing) else None
    template = "section.html.j2" if missing else section.template
    values = {"section": section, "record": record, "data": data, "nothing": missing}
    return Markup(_environment().get_template(template).render(common | values))


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
    }


def _words(record: RunRecord) -> dict[str, Any]:
    """What several templates say, and how they write numbers."""
    readout = record.once(page_readout)
    unit = record.run.readouts.get(readout).unit
    return {
        "unit": unit,
        "sign": better(unit),
        "better": better,
        "readout_words": "loss on the probe set" if readout == PROBE else f"read-out {readout}",
        "has_board": isinstance(record.once(page_board), Board),
        "plain": lambda value, unit: minus(amount(value, unit)),
        "amount": lambda value: minus(amount(value, unit)),
        "small": lambda value: minus(amount(value, unit, ".2g")),
        "loss": loss,
        "shown_unit": shown_unit,
        "exp": math.exp,
        "keys": {"light": key_picture(LIGHT), "dark": key_picture(DARK)},
    }


@cache
def _environment() -> jinja2.Environment:
    """Everything that a template writes is escaped; JSON in script elements too, `<` among all."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("fut.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    made.filters["code"] = code
    return made
