"""How much the order matters: random orders that were retrained, and estimates of some hundreds more."""

from __future__ import annotations

from dataclasses import dataclass

from fut.display.numbers import perplexity
from fut.report.charts.scatter import spread
from fut.report.charts.svg import Chart
from fut.report.effects import Effects, page_effects
from fut.report.entries import Tile
from fut.report.missing import Missing, command
from fut.report.record import RunRecord
from fut.report.section import Section
from fut.report.sections.accuracy import ORDERS
from fut.report.shared import distrusted
from fut.report.words import bare


@dataclass(frozen=True)
class OrderEffects:
    """The section's data.

    Args:
        effects: what is known of the order effect.
        chart: all orders on one line; None where there are none.
        chosen: retrained orders that a question chose.
        distrusted: whether no random orders are estimated because their estimator misleads here.
        missing: what is said where too few random orders were retrained.
    """

    effects: Effects
    chart: Chart | None
    chosen: int
    distrusted: bool
    missing: Missing


def gather(record: RunRecord) -> OrderEffects:
    """The order effect on the page's read-out."""
    effects = record.once(page_effects)
    return OrderEffects(
        effects,
        spread(effects) if effects.trained or effects.estimated else None,
        sum(not t.random for t in effects.trained),
        record.once(distrusted) and record.sampling.count > 0,
        Missing("fewer than two random orders have been retrained", _verify(record)),
    )


def _verify(record: RunRecord) -> str:
    return command(record.run.path, "verify", f"--orders {ORDERS}")


def tiles(record: RunRecord) -> list[Tile]:
    """How far random orders spread."""
    question, effects = "Does the order matter?", record.once(page_effects)
    known, unit = effects.retrained, effects.unit
    if known is None:
        words = "Not known: fewer than two random orders have been retrained."
        return [Tile(question, words, missing=_verify(record))]
    share = f"{100 * known.better:.0f} % of them end below the reference order."
    if unit == "nats/token":
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
