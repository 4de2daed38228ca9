"""How much the order matters: random orders that were retrained, and estimates of some hundreds more."""

from __future__ import annotations

from typing import Any

from fut.display.numbers import perplexity
from fut.display.scale import NATS
from fut.report.charts.scatter import spread
from fut.report.effects import page_effects
from fut.report.entries import Missing, Tile
from fut.report.section import RunRecord, Section
from fut.report.sections.accuracy import verify_command
from fut.report.shared import distrusted
from fut.report.words import bare


def gather(record: RunRecord) -> dict[str, Any]:
    """The order effect on the page's read-out: what is known of it, and all orders on one line, if there are any."""
    effects = record.once(page_effects)
    return {
        "effects": effects,
        "chart": spread(effects) if effects.trained or effects.estimated else None,
        "not_estimated": record.once(distrusted) and record.sampling.count > 0,
        "missing": Missing("fewer than two random orders have been retrained", verify_command(record)),
    }


def tiles(record: RunRecord) -> list[Tile]:
    """How far random orders spread."""
    question, effects = "Does the order matter?", record.once(page_effects)
    known, unit = effects.retrained, effects.unit
    if known is None:
        words = "Not known: fewer than two random orders have been retrained."
        return [Tile(question, words, missing=verify_command(record))]
    share = f"{100 * known.better:.0f} % of them end below the reference order."
    if unit == NATS:
        low, high = (perplexity(known.mean + s * known.sd) for s in (-1, 1))
        share += f" In perplexity, mean ± standard deviation is {low:.3f} to {high:.3f}."
    words = f"is the standard deviation over {known.count} retrained random orders; {share}"
    return [Tile(question, words, f"± {bare(known.sd, unit, '.2g')}", unit)]


SECTION = Section(
    "effect",
    "How much does order matter?",
    "effect.html.j2",
    gather,
    tiles=tiles,
    heading="How much does the order matter?",
)
