"""The page's first words: one answer per question, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..answers import perplexity
from ..present import amount
from ..questions.verify import Verification
from .asked import ORDERS
from .charts import minus
from .effects import Effects
from .missing import command
from .remembered import Remembered
from .searches import Search

if TYPE_CHECKING:
    from ..run import Run


@dataclass(frozen=True)
class Tile:
    """question, and its answer: a figure and words. missing: the command that would give one. link: the section with more."""

    question: str
    words: str
    figure: str = ""
    missing: str = ""
    link: str = ""


def tiles(
    run: Run,
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


def _best(run: Run, effects: Effects, found: Sequence[Search]) -> Tile:
    question = "Which order is best?"
    asked = [s for s in found if s.found.readout == effects.readout]
    if not asked:
        return Tile(question, "Not searched for yet.", missing=command(run.path, "search", "--budget 60"))
    best = asked[0].found
    if best.retrained_loss is None:
        change = minus(amount(best.estimated_loss - best.reference_loss, best.unit, "+.5f"))
        return Tile(
            question,
            "against the reference order is estimated for the best order found; not retrained.",
            change,
            link="search",
        )
    change = minus(amount(best.retrained_loss - best.reference_loss, best.unit, "+.5f"))
    words = "against the reference order, really retrained, for the best order found"
    if best.best_random_loss is not None:
        beyond = minus(_bare(best.retrained_loss - best.best_random_loss, best.unit))
        words += f"; {beyond} against the best of {len(best.random_losses)} random orders"
    if best.best_heuristic_loss is not None:
        beyond = minus(_bare(best.retrained_loss - best.best_heuristic_loss, best.unit))
        words += f", {beyond} against the best of {len(best.heuristics)} named ones"
    return Tile(question, words + ".", change, link="search")


def _remembered(found: Remembered) -> Tile:
    others = ", ".join(f"{by} on {whose}" for whose, by in found.helped[1:3])
    words = f"is what having a batch takes off the loss on that batch at the end, on average; {others}."
    return Tile("What is remembered of a batch?", words, minus(amount(found.own, found.unit)), link="memorization")


def _bare(value: float, unit: str) -> str:
    """A signed difference, as `amount` writes it, without its unit."""
    return amount(value, unit, "+.5f").removesuffix(unit).rstrip()


def _matters(run: Run, effects: Effects) -> Tile:
    question, found = "Does the order matter?", effects.retrained
    if found is None:
        asked = command(run.path, "verify", f"--orders {ORDERS}")
        return Tile(question, "Not known: no random orders have been retrained.", missing=asked)
    share = f"{100 * found.better:.0f} % of them end below the reference order"
    if effects.unit == "nats/token":
        low, high = (perplexity(found.mean + s * found.sd) for s in (-1, 1))
        share += f". In perplexity, mean ± standard deviation is {low:.3f} to {high:.3f}"
    spread = f"± {amount(found.sd, effects.unit, '.2g')}"
    return Tile(
        question,
        f"is the standard deviation over {found.count} retrained random orders; {share}.",
        spread,
        link="effect",
    )


def _trusted(run: Run, verified: Sequence[Verification]) -> Tile:
    question = "Can the estimates be trusted?"
    if not verified:
        asked = command(run.path, "verify", f"--orders {ORDERS}")
        return Tile(question, "Not known: they have not been compared with retraining.", missing=asked)
    found = verified[0]
    rows = {n: r for n, r in found.estimators.items() if n not in ("reference", "retrain", "replay-exact")}
    if not rows:
        return Tile(question, "Only the baseline has been compared with retraining.", link="accuracy")
    best = max(rows, key=lambda n: rows[n].get("skill") or -math.inf)
    row = rows[best]
    words = (
        f"less error than the answer “the order does not matter”: {best} is off by {amount(row['mae'], '', '.2g')} on average, "
        f"that answer by {amount(row['mae_reference'], found.unit, '.2g')}, on {len(found.orders)} retrained random orders"
    )
    if row.get("spearman") is not None:
        words += f". It ranks them with Spearman {row['spearman']:.2f}"
    if row.get("skill", 0) <= 0:
        return Tile(
            question, f"No estimator beats the baseline on {len(found.orders)} retrained orders.", link="accuracy"
        )
    return Tile(question, words + ".", minus(f"{100 * row['skill']:.0f} %"), link="accuracy")
