"""`lds`, the linear datamodeling score: do estimates rank retrained subsets of the items as retraining does?

Random subsets are left out in place, every other item staying in its step; the score (LDS) is Spearman's correlation
of estimated with retrained values (Park et al. 2023, TRAK, arXiv 2303.14186; Ilyas & Engstrom 2025, MAGIC, arXiv 2504.16430).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fut.display.format import columns, number
from fut.display.numbers import from_fields
from fut.display.scale import shown_unit
from fut.errors import NotCachedError, UsageError
from fut.methods.baseline import REFERENCE
from fut.methods.registry import method_of
from fut.questions.accuracy.ask import compare, with_baseline
from fut.questions.accuracy.render import COLUMNS, in_order, remarks, title
from fut.questions.accuracy.result import Verification
from fut.questions.context import QuestionContext
from fut.questions.question import READOUT_HELP, Question, Request, names_if_any, option
from fut.readouts.readout import PROBE, suffix

READINGS = ("reweighting:reading=replayed", "reweighting:reading=linear")
DEFAULT = (*READINGS, "adjoint")
"""Methods that are compared where none are named, those of them that are cached."""


def random_subsets(items: int, count: int, share: float, seed: int) -> list[list[int]]:
    """`count` sets of items to leave out, each of round(share * items), at least one, drawn uniformly.

    Set i depends on (seed, i) alone. Raises ValueError for a share that leaves out nothing or everything.
    """
    size = max(1, round(share * items))
    if not 0 < share < 1 or size >= items:
        raise ValueError(f"subsets: expected a share between 0 and 1 of {items} items that leaves one, got {share}")
    draws = (np.random.default_rng([seed, 31, i]) for i in range(count))
    return [sorted(draw.choice(items, size, replace=False).tolist()) for draw in draws]


@dataclass(frozen=True, kw_only=True)
class Datamodel(Verification):
    """Estimators against subsets that have really been left out; the Spearman correlation of each is its LDS.

    Args:
        subsets: the items left out of each.
        share: of all items.
        seed: of the draw.
    """

    subsets: list[list[int]]
    share: float
    seed: int

    @property
    def scores(self) -> dict[str, float | None]:
        """LDS by estimator."""
        return {name: row["spearman"] for name, row in self.estimators.items()}

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in super().as_dict().items() if k != "orders"} | {"lds": self.scores}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Datamodel:
        """From `as_dict`."""
        return from_fields(cls, {"orders": [], **content})

    def title(self) -> str:
        return f"{self.readout}: {len(self.subsets)} subsets of {self.share:g} of the items left out in place"

    def rows(self) -> list[dict[str, Any]]:
        """A row per estimator; `lds` is its Spearman correlation over the subsets."""
        renamed = {"spearman": "lds"}
        return [{renamed.get(k, k): v for k, v in row.items() if k != "coverage"} for row in super().rows()]

    def notes(self) -> list[str]:
        return ["low … high: 90 % bootstrap interval of lds; skill: 1 − mae / mae of `reference`", *self.remarks]


@dataclass(frozen=True)
class LdsRequest(Request[Datamodel]):
    """A comparison of methods with training without random subsets of the items.

    Args:
        subsets: how many, at least 2.
        share: of all items that each leaves out, in place; between 0 and 1.
        seed: of the draw.
        estimators: methods to compare, `reference` always among them; None for `DEFAULT`, where they are cached.
        readout: what is compared.

    Raises:
        UsageError: for fewer than 2 subsets or a negative seed.
    """

    subsets: int = option(48, help="random subsets to leave out and retrain without")
    share: float = option(0.1, help="share of all items that each leaves out, in place")
    seed: int = option(0, help="seed of the subsets")
    estimators: Sequence[str] | None = option(
        None, help="comma-separated names; default: reweighting and adjoint where they are cached", read=names_if_any
    )
    readout: str = option(PROBE, help=READOUT_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("estimators")
        if self.subsets < 2:
            raise UsageError(
                f"lds: expected at least 2 subsets, got {self.subsets}; a correlation needs more, 48 is a good number"
            )
        if self.seed < 0:
            raise UsageError(f"lds: expected a seed of 0 or more, got {self.seed}; correct --seed")


def ask(request: LdsRequest, context: QuestionContext) -> Datamodel:
    """Retrain and compare; the result is kept in the run, and every retrained endpoint is, which later calls reuse."""
    service, run = context.service, context.run
    try:
        subsets = random_subsets(run.items, request.subsets, request.share, request.seed)
    except ValueError as error:
        raise UsageError(f"lds: {error}; correct --share") from error
    truths = service.truths(request.readout)
    readout = truths.readout
    methods = {name: service.measured(name, readout, calibrated=False) for name in _methods(request, context, readout)}
    orders = [run.reference.without(left_out) for left_out in subsets]
    compared = compare(context, truths, methods, lambda: orders)
    kept = [
        left_out for left_out, order in zip(subsets, orders, strict=True) if order.tolist() not in compared.diverged
    ]
    result = Datamodel(**vars(compared), subsets=kept, share=request.share, seed=request.seed)
    key = f"{request.subsets}-share-{request.share:g}-seed-{request.seed}{suffix(readout)}"
    context.archive.keep("lds", key, result)
    return result


def _methods(request: LdsRequest, context: QuestionContext, readout: str) -> list[str]:
    """The methods to compare; without names, those of the default that the run's store can serve."""
    if request.estimators is not None:
        known = [name for name in context.run.methods if not method_of(name).capabilities.trains]
        return with_baseline("lds", request.estimators, known)
    able = [name for name in DEFAULT if context.service.is_ready(name, readout)]
    if not able:
        raise NotCachedError(
            "lds: expected what an estimator of leave-out effects reads, got none; run "
            "`fut cache RUN --terms reweighting`, or name --estimators"
        )
    return [REFERENCE.name, *able]


def _costs(request: LdsRequest, context: QuestionContext) -> Sequence[str]:
    gradients = request.subsets * context.run.consumed
    return [f"retraining at most {request.subsets} subsets of {context.run.steps} steps, at most {gradients} gradients"]


def datamodel(result: Datamodel) -> str:
    """The table of an LDS, the baseline first; the column Spearman is the score."""
    names = in_order(result.estimators)
    shown = {n: c for n, c in COLUMNS.items() if n not in ("uncalibrated", "coverage", "endpoint error")}
    rows = [[name, *(cell(result.estimators[name]) for cell in shown.values())] for name in names]
    header = ["estimator", *("LDS" if c == "Spearman" else "s/subset" if c == "s/order" else c for c in shown)]
    spread = number(result.as_dict()["true_sd"], ".2g")
    return (
        f"{len(result.subsets)} random subsets of {len(result.subsets[0])} items ({result.share:g} of all) left out in place, "
        f"retrained ({result.retrain_seconds:.2g} s each): {title(result)} "
        f"{number(sum(result.true_losses) / len(result.subsets), '.5f')} ± {f'{spread} {shown_unit(result.unit)}'.rstrip()}; "
        f"reference order {result.reference_loss:.5f}\n"
        f"LDS: Spearman correlation over subsets; MAE in {result.unit or 'the unit of the read-out'}\n\n"
        + columns([header, *rows])
        + remarks(result)
    )


LDS = Question(
    "lds",
    LdsRequest,
    ask,
    datamodel,
    "Retrain without random subsets of the items and score how estimators rank them (LDS).",
    _costs,
    retrains=True,
)
