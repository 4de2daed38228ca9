"""Figures of documents, and the records that they are of: every text here is made from records and must stand in its document.

A figure is a decimal number, a share in per cent, or a time. `test_figures.py` holds each document to them: what is claimed
stands there as it is made here, beside the names of its records; and no other figure stands there, but for what `UNMEASURED`
says is no measurement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from adjoint_table import resplit
from documents import ROOT

RECORDS = ROOT / "benchmarks" / "records"
Row = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A part of a document as its records have it, its white space aside."""

    document: str
    text: str
    records: tuple[str, ...]


Make = Callable[[], Iterable[tuple[str, str]]]
CLAIMS: list[tuple[str, Make]] = []
"""Documents, and functions that give names of records and a text of theirs, again and again."""


def of(document: str) -> Callable[[Make], Make]:
    """Register such a function."""

    def register(make: Make) -> Make:
        CLAIMS.append((document, make))
        return make

    return register


@cache
def claims(document: str) -> list[Claim]:
    """All that is claimed of a document."""
    made = [pair for of, make in CLAIMS if of == document for pair in make()]
    return [Claim(document, text, tuple(names.split())) for names, text in made]


@cache
def results(name: str) -> Any:
    """The results of a record."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def row(name: str, **where: Any) -> Row:
    """The one row of a record with these settings."""
    found: list[Row] = [one for one in results(name) if where.items() <= one.items()]
    assert len(found) == 1, (name, where, len(found))
    return found[0]


def adjoint(name: str, **where: Any) -> Row:
    return row(f"adjoint-accuracy-{name}", **where)


def signed(text: str) -> str:
    """With signs of minus as documents have them."""
    return re.sub(r"-(?=[\d.])", "−", text)


def plain(value: float, digits: int) -> str:
    """Without the zero before the point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1)


def spanned(values: Sequence[float], shown: str = ".3f") -> str:
    """The least and the largest of several values."""
    return signed(f"{min(values):{shown}} to {max(values):{shown}}")


def accuracy(found: Row, digits: int = 3, interval: bool = False) -> str:
    """Spearman, its interval where asked for, and the skill of many calibrations."""
    a = found["accuracy"]
    low, high = a["spearman_interval"]
    between = f" [{low:.2f}, {high:.2f}]" if interval else ""
    return signed(f"{a['spearman']:.{digits}f}{between} / {resplit(found)['skill']:.2f}")


def runs(found: Row) -> str:
    return f"{found['precompute_training_runs']:.0f}"


def draws(name: str, **where: Any) -> list[float]:
    """Spearman of every draw of a setting."""
    return [one["accuracy"]["spearman"] for one in results(name) if where.items() <= one.items()]


# README.md and docs/choosing.md: the demo


def demo() -> dict[str, Row]:
    found: dict[str, Row] = results("demo")[0]["estimators"]
    return found


def milliseconds(name: str, digits: int = 0) -> str:
    return f"{1000 * demo()[name]['seconds_per_order']:.{digits}f} ms"


@of("README.md")
def readme() -> Iterable[tuple[str, str]]:
    a, e, trained = demo()["adjoint"], demo()["replay-exact"], results("demo")[0]["retrain_seconds"]
    yield (
        "demo",
        f"| `adjoint` | {a['precompute_gradients']}, about {a['precompute_gradients'] / 32:.0f} training runs | "
        f"{milliseconds('adjoint', 1)} | {a['spearman']:.3f} | {a['skill']:.2f} "
        f"({a['skill_uncalibrated']:.2f} before calibration) |",
    )
    yield (
        "demo",
        f"{e['seconds_per_order']:.1f} s, {e['query_gradients']} gradients | {e['spearman']:.3f} | "
        f"{e['skill']:.2f} (not calibrated)",
    )
    yield "demo", f"| `retrain` | none | {trained:.2f} s, 32 gradients |"
    found = [adjoint("1m-balanced", steps=steps)["accuracy"]["spearman"] for steps in (32, 64)]
    yield "adjoint-accuracy-1m-balanced", f"Spearman is {found[0]:.2f} over 32 steps and {found[1]:.2f} over 64"
    tuned = row("pretrained", rate=2e-4, warmup=20, items="iid", steps=16)
    yield "pretrained", f"of SmolLM2-135M: Spearman {tuned['accuracy']['spearman']:.3f}"


@of("docs/choosing.md")
def choosing() -> Iterable[tuple[str, str]]:
    found, demonstrated = demo(), results("demo")[0]
    retrained = f"{1000 * demonstrated['retrain_seconds']:.0f} ms"
    exact = f"{found['replay-exact']['seconds_per_order']:.1f} s"
    yield "demo", f"a retraining takes {retrained} there"
    yield "demo", f"| {milliseconds('adjoint', 1)} | any order of T steps |"
    yield "demo", f"| {milliseconds('positions', 2)} | orders of T steps, none of them empty |"
    yield "demo", f"| T² | {milliseconds('replay')} |"
    yield "demo", f"| none | 3 T gradients, {exact} |"
    yield "demo", f"| {milliseconds('taylor1')}, {milliseconds('taylor2')} |"
    yield "demo", f"| T gradients, {retrained} |"
    losses = demonstrated["true_losses"]
    yield (
        "demo",
        f"{len(losses)} random orders, retrained: losses {np.mean(losses):.4f} ± {demonstrated['true_sd']:.4f}",
    )
    named = {name: name for name in ("taylor1", "taylor2", "replay", "replay-exact")}
    for name, key in named.items():
        one, digits = found[key], 3 if key == "replay-exact" else 2
        low, high = one["spearman_interval"]
        value = f"{one['spearman']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        yield "demo", signed(f"| `{name}` | {value} | {plain(one['mae'], 5)} | {one['skill']:.2f} | – |")
    one = found["adjoint"]
    low, high = one["spearman_interval"]
    skill = f"{one['skill']:.2f} ({one['skill_uncalibrated']:.2f} before)"
    yield (
        "demo",
        f"| `adjoint`, calibrated | {one['spearman']:.3f} [{low:.3f}, {high:.3f}] | {plain(one['mae'], 5)} | {skill} | "
        f"{one['coverage']:.2f} |",
    )
    one = found["positions"]
    low, high = one["spearman_interval"]
    yield (
        "demo",
        f"| `positions` | {one['spearman']:.3f} [{low:.2f}, {high:.2f}] | {plain(one['mae'], 5)} | {one['skill']:.2f} | – |",
    )
    yield "demo", f"| `reference` | – | {plain(found['reference']['mae'], 5)} | 0 | – |"


@of("docs/method.md")
def method() -> Iterable[tuple[str, str]]:
    ratios = sorted(one["own_error"] / one["accuracy"]["residual_sd"] for one in results("adjoint-accuracy-headline"))
    shown = [f"{ratio:.1f}" for ratio in ratios]
    yield "adjoint-accuracy-headline", f"it was {', '.join(shown[:3])} and {shown[3]} times the standard deviation"
    words = row("cold", vocabulary="words", warmup=100)["variants"]["default"]
    yield (
        "cold",
        f"Spearman is {words['positions, as it comes']['spearman']:.2f}, and {words['positions, held']['spearman']:.2f} bounded",
    )


# docs/limitations.md


@of("docs/method.md")
def steep_items() -> Iterable[tuple[str, str]]:
    """Medians over seeds."""
    far = [one for one in results("steep-items") if one["steepness"] == 100]
    skills = {i: float(np.median([one["skill"] for one in far if one["injections"] == i])) for i in ("own", "mean")}
    shown = {i: f"{skill:.2f}".replace("-", "−") for i, skill in skills.items()}
    yield "steep-items", f"skill is {shown['own']} with it and {shown['mean']} without"


@of("docs/method.md")
def unlike_injections() -> Iterable[tuple[str, str]]:
    found = row("pretrained-unlike", rate=1e-3, warmup=0)["accuracy"]["spearman"]
    yield "pretrained-unlike", f"from a cold start at 10⁻³ has Spearman {found:.3f} so"
