"""What a run gives to questions, and what is grouped in its facade: its orders, and its methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from estimators.errors import OrderError
from estimators.orders.families import arranged
from estimators.orders.order import Order
from estimators.position_table import best_assignment
from fut.artifacts.archive import RunArchive
from fut.errors import UsageError
from fut.estimation.attributions import Attributions, attributions
from fut.estimation.facts import ContextFacts
from fut.estimation.order_noise import local_noise
from fut.estimation.own_window import ModelWindow, own_window
from fut.estimation.service import EstimationService
from fut.methods import build
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.positions import position_table
from fut.methods.base import Estimator
from fut.methods.build import CachePlan
from fut.methods.context import Context
from fut.methods.pairwise.config import CacheConfig
from fut.methods.registry import default_estimator, open_estimator
from fut.methods.stages import Request
from fut.orders.checking import Obedience, check_log
from fut.orders.files import write_order_file
from fut.orders.parsing import OrderLike, named_orders, order_of
from fut.orders.scores import Difficulty, difficulty
from fut.questions.bank import BANK, Bank, BankRequest
from fut.questions.context import QuestionContext
from fut.questions.question import Question
from fut.questions.question import Request as Asked
from fut.questions.registry import question_of
from fut.readouts.readout import PROBE
from fut.resources.device import computes, environment
from fut.studies.base import Study, StudyContext
from fut.studies.noise.slopes import SlopesRequest
from fut.studies.registry import study_of
from fut.training.branching import TrainedBranches
from fut.training.other_rules import TrainedRules
from fut.training.redraw import Redrawn, redrawn
from fut.version import __version__

Names = Sequence[str] | None
"""Names, or one alone as a string; None for what is usual."""


def question_context(context: Context) -> QuestionContext:
    """What questions about an opened run are asked of."""
    return QuestionContext(
        ContextFacts(context), EstimationService(context), RunArchive(context.path, context.owner), context.progress
    )


def asked_of(request: Asked[Any], context: Context) -> tuple[Question[Any, Any] | Study[Any, Any], Any]:
    """The question or the study that a request is of, and what it is asked of; UsageError for neither."""
    if (study := study_of(request)) is not None:
        return study, study_context(context, getattr(request, "readout", PROBE))
    return question_of(request), question_context(context)


def study_context(context: Context, readout: str = PROBE) -> StudyContext:
    """What studies of an opened run are asked of, about one read-out."""
    context.readouts.admit([readout])
    service, method = EstimationService(context), default_estimator(context)
    truths = service.truths(readout)
    ready = service.is_ready(method, truths.readout)
    about = environment(context.device) | {"fut": __version__}
    return StudyContext(
        context.reference,
        truths,
        RunArchive(context.path, context.owner),
        context.progress,
        TrainedBranches(context.problem, context.state(0), truths.unit, about),
        service.estimates(method, truths.readout, known=False) if ready else None,
        local_noise(context, truths.readout),
        TrainedRules(context.problem, context.state(0).theta, context.readouts.get(truths.readout).value),
    )


def slopes_window(context: Context, request: SlopesRequest) -> tuple[ModelWindow, RunArchive]:
    """The window of an opened run on which exponents are taken, and where the answer is kept."""
    window = own_window(context, request.steps, request.precision, request.permutations)
    return window, RunArchive(context.path, context.owner)


@computes
class RunOrders:
    """Orders of a run's items: those that have names, those by a score, and the best under a table."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def named(self) -> dict[str, Order]:
        """Every named order that needs no choice: what a found order is compared with."""
        return named_orders(self.context)

    def difficulty(self, key: str) -> Difficulty:
        """A score per item: `length`, `loss`, `gradient-norm` or `perplexity-drop`; see `fut.orders.scores`."""
        return difficulty(self.context, key)

    def arranged(
        self, scores: Sequence[float], family: str = "sort", number: int | None = None, descending: bool = False
    ) -> Order:
        """The order of a family by scores of your own, one per item: see `estimators.orders.families`."""
        if len(scores) != self.context.items:
            raise OrderError(
                f"arranged: expected {self.context.items} scores, one per item, got {len(scores)}; give them in the items' order"
            )
        return arranged(self.context.reference, scores, family, number, descending)

    def positions(self, readout: str = PROBE) -> np.ndarray:
        """What putting an item at a step does to a read-out, to first order: [T, items], in its unit; entries of one step compare
        with one another."""
        self.context.readouts.admit([readout])
        return position_table(self.context, readout)

    def write(self, order: OrderLike, path: Path | str, samples: int = 1) -> Path:
        """Write an order to a file that `run.order` and the command line read: see `fut.orders.files.write_order_file`."""
        return write_order_file(Path(path), order_of(self.context, order), samples)

    def check(
        self, log: Path | str, order: OrderLike = "identity", samples: int = 1, start: int = 0, later: bool = True
    ) -> Obedience:
        """Whether a training obeyed an order, by its log of what was consumed: see `fut.orders.checking.check_log`."""
        return check_log(Path(log), order_of(self.context, order, partial=True), samples, start, later)

    def bank(
        self,
        orders: int = 0,
        seed: int = 0,
        *,
        file: Path | str | None = None,
        part: str | None = None,
        readout: str = PROBE,
        source: Path | str | None = None,
    ) -> Bank:
        """Retrain orders and keep them for every later question, or list what is kept: fields of
        `fut.questions.bank.BankRequest`."""
        self.context.readouts.admit([readout])
        return BANK.ask(BankRequest(orders, seed, file, part, readout, source), question_context(self.context))

    def redraw(self, draws: int = 4, readout: str = PROBE) -> Redrawn:
        """What other random numbers in forward passes change (dropout): the reference order, trained again with them.

        Orders whose estimates differ by less than this differ by less than two seeds of one order do.

        Args:
            draws: trainings, each of the window.
            readout: as in `estimate`.

        Raises:
            UsageError: for a model that draws no random numbers.
        """
        if draws < 1:
            raise UsageError(f"redraw: expected draws >= 1, got {draws}; correct it")
        context, found = self.context, self.context.readouts.get(readout)
        with context.progress("other draws", draws * context.steps) as tick:
            values = redrawn(context.problem, context.state(0), range(1, draws + 1), found.value, tick)
        return Redrawn(context.readouts.at_reference(found), tuple(values), found.unit)

    def best(self, readout: str = PROBE) -> Order:
        """The order of every item once with the least sum in the table of positions: a start for a search, not its end."""
        return best_assignment(self.positions(readout))


@computes
class RunMethods:
    """The methods that answer about a run, and what they read."""

    def __init__(self, context: Context) -> None:
        self.context = context

    @property
    def default(self) -> str:
        """The method that answers where none is named."""
        return default_estimator(self.context)

    def open(self, name: str, *, readout: str = PROBE, **options: str) -> Estimator:
        """A method opened on this run for one read-out; options as in the name, after colons."""
        self.context.readouts.admit([readout])
        return open_estimator(self.context, name, readout, **options)

    def attributions(self, readout: str = PROBE) -> Attributions:
        """Derivative of a read-out by the weight of every item in every step [T, items per step], in its unit.

        Where every step has one item, whose weight changes nothing, the derivative is by a factor on the item's gradient. The
        result's `by` and `note` say which. In both cases leaving an item out changes the read-out by about minus this, summed
        over its steps: a negative number of a loss means that the item helps.
        """
        return attributions(self.context, readout)

    def plan_cache(
        self,
        names: Names = None,
        config: CacheConfig | None = None,
        readouts: Names = None,
        adjoint: AdjointConfig | None = None,
    ) -> CachePlan:
        """What `cache` would still cost."""
        self.context.readouts.admit(readouts or ())
        return build.plan(self.context, Request(names, readouts, adjoint, config))

    def repair(self) -> int:
        """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
        return build.repair(self.context)
