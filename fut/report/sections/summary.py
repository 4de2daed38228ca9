"""The page's first words: one answer per question, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fut.display.format import amount
from fut.display.numbers import perplexity
from fut.methods.registry import base_name
from fut.questions.accuracy.result import Verification
from fut.report.charts.svg import minus
from fut.report.missing import command
from fut.report.sections.checklist import ORDERS
from fut.report.sections.curriculum import Search
from fut.report.sections.memorization import Remembered
from fut.report.sections.order_effect import Effects

if TYPE_CHECKING:
    from fut.methods.context import Context


@dataclass(frozen=True)
class Tile:
    """question, and its answer: a figure with its unit, and words. missing: the command that would give one, empty where it
    is given. link: the section with more."""

    question: str
    words: str
    figure: str = ""
    unit: str = ""
    missing: str = ""
    link: str = ""


def tiles(
    run: Context,
    effects: Effects,
    verified: Sequence[Verification],
    found: Sequence[Search],
    maps: Sequence[Remembered],
) -> list[Tile]:
    """The first words, the best order first."""
    return [
        _best(run, effects, found),
        _matters(run, effects),
        _trusted(run, verified),
        *(_remembered(m) for m in maps[:1]),
    ]


def _best(run: Context, effects: Effects, searched: Sequence[Search]) -> Tile:
    question = "Which order is best?"
    asked = [s.found for s in searched if s.found.readout == effects.readout]
    if not asked:
        return Tile(question, "Not searched for yet.", missing=command(run.path, "search", "--budget 60"))
    found = asked[0]
    if found.retrained_loss is None:
        words = "against the reference order is estimated for the best order found; it is not retrained."
        return Tile(
            question, words, _change(found.estimated_loss - found.reference_loss, found.unit), found.unit, link="search"
        )
    own, others = found.retrained_loss, []
    if found.best_random_loss is not None:
        others.append((found.best_random_loss, f"the best of {len(found.random_losses)} random orders"))
    if found.best_heuristic_loss is not None:
        others.append((found.best_heuristic_loss, f"the best of {len(found.heuristics)} named ones"))
    beside = "".join(f"; {_change(own - value, found.unit)} against {name}" for value, name in others)
    words = f"against the reference order, really retrained, for the best order found{beside}."
    return Tile(question, words, _change(own - found.reference_loss, found.unit), found.unit, link="search")


def _change(value: float, unit: str) -> str:
    """A signed difference as it is written everywhere, without its unit."""
    return _bare(value, unit, "+.5f")


def _bare(value: float, unit: str, form: str) -> str:
    return minus(amount(value, unit, form).removesuffix(unit).rstrip())


def _matters(run: Context, effects: Effects) -> Tile:
    question, found, unit = "Does the order matter?", effects.retrained, effects.unit
    if found is None:
        asked = command(run.path, "verify", f"--orders {ORDERS}")
        return Tile(question, "Not known: fewer than two random orders have been retrained.", missing=asked)
    share = f"{100 * found.better:.0f} % of them end below the reference order."
    if unit == "nats/token":
        low, high = (perplexity(found.mean + s * found.sd) for s in (-1, 1))
        share += f" In perplexity, mean ± standard deviation is {low:.3f} to {high:.3f}."
    words = f"is the standard deviation over {found.count} retrained random orders; {share}"
    return Tile(question, words, f"± {_bare(found.sd, unit, '.2g')}", unit, link="effect")


def _trusted(run: Context, verified: Sequence[Verification]) -> Tile:
    question = "Can the estimates be trusted?"
    if not verified:
        asked = command(run.path, "verify", f"--orders {ORDERS}")
        return Tile(question, "Not known: they have not been compared with retraining.", missing=asked)
    found, count = verified[0], len(verified[0].orders)
    rows = {n: r for n, r in found.estimators.items() if base_name(n) not in ("reference", "retrain", "replay-exact")}
    best = max(rows, key=lambda n: rows[n].get("skill") or -math.inf, default="")
    if not best or (rows[best].get("skill") or 0) <= 0:
        words = f"No cheap estimator beats the answer “the order does not matter” on {count} retrained orders."
        return Tile(question, words, link="accuracy")
    row = rows[best]
    own, baseline = (_bare(row[name], found.unit, ".2g") for name in ("mae", "mae_reference"))
    words = (
        f"less error than the answer “the order does not matter”: {best} is off by {own} on average, that answer by {baseline} "
        f"{found.unit}".rstrip()
        + f", on {count} retrained random orders."
    )
    if row.get("spearman") is not None:
        words += f" It ranks them with Spearman {row['spearman']:.3f}."
    return Tile(question, words, minus(f"{100 * row['skill']:.0f} %"), link="accuracy")


def _remembered(found: Remembered) -> Tile:
    others = ", ".join(f"{by.removesuffix(found.unit).rstrip()} on {whose}" for whose, by in found.helped[1:3])
    words = f"is what having {found.one} takes off the loss on it at the end, on average; {others}."
    return Tile(
        f"What is remembered of {found.one}?",
        words,
        _bare(found.own, found.unit, ".5f"),
        found.unit,
        link="memorization",
    )
