"""How difficult every item is, by what the reference run says of it: scores that orders are sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fut.artifacts.directory import DIFFICULTY, OWNER, require_owned
from fut.artifacts.kept import keeping
from fut.display.numbers import perplexity
from fut.errors import UsageError
from fut.models import autodiff as derivatives
from fut.training.problem import unit_of_loss
from storage import FORMAT, DamagedError, Manifest

if TYPE_CHECKING:
    from fut.methods.context import Context
    from fut.training.problem import Problem


@dataclass(frozen=True)
class Difficulty:
    """One score per item of a run [items], in `unit`; what it measures is said at `MEASURES`."""

    key: str
    unit: str
    scores: list[float]

    @property
    def varies(self) -> bool:
        """Whether two items differ, so that there is anything to sort by."""
        return len(set(self.scores)) > 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measure:
    """The unit, and how an item is scored: (problem, ends of the reference run, item) -> number."""

    unit: str
    score: Callable[[Problem, Ends, int], float]


class Ends:
    """The parameters before the window and after it, in the reference order; each read once, and only if asked for."""

    def __init__(self, run: Context) -> None:
        self._run = run

    @cached_property
    def first(self) -> Tensor:
        """theta_0 [D]."""
        return self._run.state(0).theta

    @cached_property
    def last(self) -> Tensor:
        """theta_T [D]."""
        return self._run.state(self._run.steps).theta


def _length(problem: Problem, ends: Ends, item: int) -> float:
    return float(problem.data.items[item][0].numel())


def _loss(problem: Problem, ends: Ends, item: int) -> float:
    return derivatives.evaluate(problem.objective, ends.first, [problem.data.items[item]])


def _gradient_norm(problem: Problem, ends: Ends, item: int) -> float:
    norm: float = problem.at(0).gradient(ends.first, item).double().norm().item()
    return norm


def _perplexity_drop(problem: Problem, ends: Ends, item: int) -> float:
    judged = [problem.data.items[item]]
    before, after = (derivatives.evaluate(problem.objective, theta, judged) for theta in (ends.first, ends.last))
    return perplexity(before) - perplexity(after)


OF_LOSS = "UNIT"
"""Stands for the unit of the loss in that of a measure."""
MEASURES: dict[str, Measure] = {
    "length": Measure("tokens", _length),
    "loss": Measure(OF_LOSS, _loss),
    "gradient-norm": Measure(f"{OF_LOSS} per unit of parameter", _gradient_norm),
    "perplexity-drop": Measure("perplexity", _perplexity_drop),
}
"""By name. length: numbers in the item's first tensor, for text its tokens. loss: the item's mean loss at theta_0, in
evaluation mode. gradient-norm: of that item's mean training loss at theta_0, over all parameters. perplexity-drop: the
item's perplexity at theta_0 minus that at theta_T of the reference run: what the run learnt of it."""


def difficulty(run: Context, key: str) -> Difficulty:
    """The score of every item, computed once and kept in the run (`difficulty/`).

    key: `length`, `loss`, `gradient-norm` or `perplexity-drop`. UsageError for another, or for a score that is not finite.
    """
    if key not in MEASURES:
        raise UsageError(f"difficulty: expected one of {', '.join(MEASURES)}, got `{key}`; correct the key")
    path = run.path / DIFFICULTY / f"{key}.json"
    if path.exists():
        kept = Manifest.read(path)
        require_owned(kept.environment.get(OWNER, ""), run.owner, path)
        return _kept(kept.identity, key, run.items, path)
    measured = _measured(run, key)
    with keeping(f"the {key} of the items", path):
        path.parent.mkdir(exist_ok=True)
        Manifest("difficulty", FORMAT, measured.as_dict(), {OWNER: run.owner}).write(path)
    return measured


def _kept(content: dict[str, Any], key: str, items: int, path: Path) -> Difficulty:
    try:
        kept = Difficulty(**content)
        if kept.key == key and len(kept.scores) == items and all(map(math.isfinite, kept.scores)):
            return kept
    except (TypeError, ValueError):
        pass
    raise DamagedError(f"{path}: expected {items} finite scores by {key}, got something else; remove the file")


def _measured(run: Context, key: str) -> Difficulty:
    measure, ends, scores = MEASURES[key], Ends(run), []
    with run.progress(f"{key} of the items", run.items) as tick:
        for item in range(run.items):
            score = measure.score(run.problem, ends, item)
            if not math.isfinite(score):
                raise UsageError(
                    f"difficulty: expected a finite {key} of item {item}, got {score}; sort by another key"
                )
            scores.append(score)
            tick()
    return Difficulty(key, measure.unit.replace(OF_LOSS, unit_of_loss(run.problem)), scores)
