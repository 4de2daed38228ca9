"""What is asked of a search."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fut.errors import UsageError
from fut.methods.registry import method_of
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.evaluator import Budget
from fut.questions.curriculum.result import Curriculum
from fut.questions.curriculum.search import METHODS
from fut.questions.question import ESTIMATOR, READOUT_HELP, Flag, Request, names, option
from fut.readouts.readout import PROBE

EVALUATIONS = 600
"""Orders that are estimated where no budget is named."""


def _items(flag: str, text: str) -> tuple[int, ...]:
    """Item numbers from `3,1,2`; UsageError for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag}: expected item numbers like 3,1,2, got `{text}`; correct them") from error


def _heuristics(flag: str, text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split())


def _constraints(parts: Mapping[str, Any]) -> Constraints:
    return Constraints.of(*(parts[name] or () for name in ("prefix", "suffix", "block", "before")))


LISTED = "I,J,…"
PARTS = {
    "prefix": Flag("items that stand first, in this order", read=_items, metavar=LISTED),
    "suffix": Flag("items that stand last, in this order", read=_items, metavar=LISTED),
    "block": Flag("items that stay together; repeat for more blocks", read=_items, metavar=LISTED, many=True),
    "before": Flag("item A before item B; repeat for more pairs", read=_items, metavar="A,B", many=True),
}
"""The flags of the constraints."""


@dataclass(frozen=True)
class SearchRequest(Request[Curriculum]):
    """The order that would have trained best, as far as a budget of estimates finds it; then the truth about it.

    Args:
        seconds: when the search ends, by the wall clock.
        evaluations: when it ends, by orders estimated; with these alone its result is always the same. None of both:
            `EVALUATIONS`.
        start: where it begins, in place of the best order under the table of positions; it arranges the start's
            items.
        method: `local`, `genetic` or `assignment`.
        verify: how many random orders are retrained beside the found one; 0 retrains nothing.
        finalists: good orders that differ, to retrain and choose the best of.
        heuristics: named orders that are retrained too; None for all of them.
        seed: of the search and of the random orders.
        constraints: what every order keeps to.
        estimator: the method's name; None for the default.
        readout: what is sought.
        maximize: seek the greatest value.
        also: other read-outs of the retrained orders, which were not sought.

    Raises:
        UsageError: for what cannot be meant.
    """

    seconds: float | None = option(None, name="--budget", help="seconds of searching, by the wall clock")
    evaluations: int | None = option(
        None, help=f"orders to estimate: the same result every time; default: {EVALUATIONS}", largest=10**9
    )
    start: Any = option(
        None, help="order to begin at; default: the best under the table of positions", read=lambda flag, text: text
    )
    method: str = option("local", help=f"one of {', '.join(METHODS)}")
    verify: int = option(
        16, help="random orders to retrain beside the found order and the named ones; 0: retrain nothing"
    )
    finalists: int = option(4, help="good orders that differ, to retrain and choose the best of")
    heuristics: Sequence[str] | None = option(
        None,
        help="named orders to retrain, separated by spaces; `none`; default: all there are",
        read=_heuristics,
    )
    seed: int = option(0, help="seed of the search and of the random orders")
    constraints: Constraints = option(Constraints(), parts=PARTS, join=_constraints)
    estimator: str | None = option(None, help=ESTIMATOR)
    readout: str = option(PROBE, help=READOUT_HELP)
    maximize: bool = option(False, help="seek the greatest value of the read-out")
    also: Sequence[str] = option(
        (), help="comma-separated: other read-outs of the retrained orders, not sought", read=names
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("heuristics", "also")
        if not isinstance(self.constraints, Constraints):  # as JSON has them, or None
            object.__setattr__(self, "constraints", Constraints.of(**(self.constraints or {})))
        self._check_counts()
        if self.seconds is not None and not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise UsageError(f"search: expected a budget of more than 0 seconds, got {self.seconds}; raise --budget")
        if self.method not in METHODS:
            raise UsageError(f"search: expected one of {', '.join(METHODS)}, got `{self.method}`; correct --method")
        if self.also and not self.verify:
            raise UsageError(
                "search: expected --verify 1 or more with --also, got 0: other read-outs are those of retraining"
            )
        if self.estimator is not None and not method_of(self.estimator).capabilities.calibrates:
            raise UsageError(
                f"search: expected an estimator that tells orders apart without training, got `{self.estimator}`; name another"
            )

    def _check_counts(self) -> None:
        counts = {"verify": self.verify, "seed": self.seed, "finalists": self.finalists - 1}
        counts["evaluations"] = 0 if self.evaluations is None else self.evaluations - 1
        for name, least in counts.items():
            if least < 0:
                wanted = "at least 1" if name in ("finalists", "evaluations") else "0 or more"
                raise UsageError(f"search: expected {wanted} for --{name}, got {getattr(self, name)}; raise it")

    @property
    def budget(self) -> Budget:
        """When the search ends."""
        none = self.seconds is None and self.evaluations is None
        return Budget(EVALUATIONS if none else self.evaluations, self.seconds)

    def described(self) -> dict[str, Any]:
        """What of it stands in the answer: fields of `SearchCourse`."""
        budget = self.budget
        return {
            "method": self.method,
            "seed": self.seed,
            "start": self.start if isinstance(self.start, (str, type(None))) else self.start.tolist(),
            "budget": {"evaluations": budget.evaluations, "seconds": budget.seconds},
            "constraints": self.constraints.as_dict(),
        }

    @property
    def key(self) -> str:
        """Names the answer's file: equal for equal requests."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
