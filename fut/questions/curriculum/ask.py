"""`search` on a run: which estimator is asked, how the found order is judged, what is retrained, and what is kept."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.errors import EstimatorError, OrderError
from estimators.orders.order import Order, random_orders
from fut.artifacts import directory as files
from fut.errors import FutError, NotCachedError, UsageError
from fut.methods import costs
from fut.methods.adjoint.positions import position_table
from fut.methods.base import Estimator
from fut.methods.batching import raw_estimates
from fut.methods.registry import default_estimator, method_of
from fut.orders.parsing import named_orders, order_of
from fut.questions.curriculum.arrangements import Arrangements
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.evaluator import Budget
from fut.questions.curriculum.reevaluate import guide_and_judge, judged
from fut.questions.curriculum.result import Curriculum
from fut.questions.curriculum.search import METHODS, Found, comparable, search
from fut.readouts.readout import PROBE, ReadOut
from storage import write_json

if TYPE_CHECKING:
    from fut.methods.context import Context


EVALUATIONS = 600
"""Orders that are estimated where no budget is named."""


@dataclass(frozen=True)
class Request:
    """What is asked of a search; see `Asking.search`."""

    seconds: float | None = None
    evaluations: int | None = None
    start: str | Order | None = None
    method: str = "local"
    verify: int = 16
    finalists: int = 4
    heuristics: Sequence[str] | None = None
    seed: int = 0
    constraints: Constraints = field(default_factory=Constraints)
    estimator: str | None = None
    readout: str = PROBE
    maximize: bool = False
    also: Sequence[str] = ()

    def check(self) -> Request:
        """This request, if it can be meant; else a UsageError."""
        counts = {"verify": self.verify, "seed": self.seed, "finalists": self.finalists - 1}
        counts["evaluations"] = 0 if self.evaluations is None else self.evaluations - 1
        for name, least in counts.items():
            if least < 0:
                wanted = "at least 1" if name in ("finalists", "evaluations") else "0 or more"
                raise UsageError(f"search: expected {wanted} for --{name}, got {getattr(self, name)}; raise it")
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
        return self

    @property
    def budget(self) -> Budget:
        none = self.seconds is None and self.evaluations is None
        return Budget(EVALUATIONS if none else self.evaluations, self.seconds)

    def described(self) -> dict[str, Any]:
        """What of it stands in the answer."""
        budget = self.budget
        return {
            "method": self.method,
            "seed": self.seed,
            "start": self.start if isinstance(self.start, (str, type(None))) else self.start.tolist(),
            "budget": {"evaluations": budget.evaluations, "seconds": budget.seconds},
            "constraints": self.constraints.as_dict(),
            "maximize": self.maximize,
            "readout": self.readout,
        }

    @property
    def key(self) -> str:
        """Names the answer's file: equal for equal requests."""
        start = self.start.tolist() if isinstance(self.start, Order) else self.start
        content = asdict(self) | {"start": start}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:16]


def search_run(run: Context, request: Request) -> Curriculum:
    """Search, retrain, compare; the answer is kept in the run (`answers/`), and every retrained order is.

    Where the adjoint samples coordinates, the search asks one of two independent halves of them and the other half judges
    the found order.
    """
    asked, name = run.readouts.get(request.check().readout), request.estimator or default_estimator(run)
    guide, judge = guide_and_judge(run, name, asked)
    start = _start(run, request)
    space = Arrangements(start, request.constraints)
    others = [run.readouts.get(other) for other in request.also]
    rivals = _rivals(run, request, space)  # what cannot be meant is refused before anything is spent
    found = _searched(run, request, start, guide)
    finalists = [order for order, _ in found.finalists]
    chosen = [*finalists, *rivals.randoms, *rivals.named.values()] if request.verify else []
    truths = _retrained(run, [asked, *others], chosen)
    sign = -1.0 if request.maximize else 1.0
    order = min(finalists, key=lambda o: sign * truths[o].value) if truths else found.best
    gradients = costs.costs(run, name)["precompute_gradients"]
    result = Curriculum(
        order=order.tolist(),
        **judged(run, judge, name, asked, order),
        **_told(found, order, rivals, truths),
        reference_loss=run.readouts.at_reference(asked),
        also={o.name: _elsewhere(run, o, i, truths, order, rivals.randoms) for i, o in enumerate(others, 1)},
        precompute_gradients=gradients,
        precompute_training_runs=gradients / run.config.consumed,
        estimator=name,
        **request.described(),
        unit=asked.unit,
    )
    path = run.path / files.ANSWERS / f"search-{request.key}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result.as_dict())
    return result


def _start(run: Context, request: Request) -> Order:
    """The order whose items are arranged, and where the search begins if one was asked for."""
    start = run.reference if request.start is None else order_of(run, request.start)
    if len(start) != run.steps:
        raise OrderError(
            f"search: expected a start order of {run.steps} steps, the length of the window, got {len(start)}; fill it, or "
            "begin at another"
        )
    return start


@dataclass(frozen=True)
class Truth:
    """Read-outs of a retrained order, the one that was asked for first, and the seconds that it took."""

    values: list[float]
    seconds: float

    @property
    def value(self) -> float:
        return self.values[0]


Truths = dict[Order, Truth]
"""By order; empty where nothing was retrained."""


def _told(found: Found, order: Order, rivals: Rivals, truths: Truths) -> dict[str, Any]:
    """What the search and the retraining say, as the answer has it."""
    finalists = [
        {"order": o.tolist(), "searched_loss": value, "retrained_loss": truths[o].value if truths else None}
        for o, value in found.finalists
    ]
    seconds = [truth.seconds for truth in truths.values()]
    return {
        "retrained_loss": truths[order].value if truths else None,
        "random_losses": [truths[o].value for o in rivals.randoms if truths],
        "heuristics": {n: truths[o].value for n, o in rivals.named.items() if truths},
        "finalists": finalists,
        "history": found.history,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "retrain_seconds": float(np.mean(seconds)) if seconds else None,
        "retraining_seconds": float(np.sum(seconds)),
    }


@dataclass(frozen=True)
class Rivals:
    """Orders that the found one is compared with."""

    randoms: list[Order]
    named: dict[str, Order]


def _rivals(run: Context, request: Request, space: Arrangements) -> Rivals:
    """Random orders of the start's items and named ones, all within the constraints; named ones that hold other items than
    the start are left out, unless they were asked for."""
    same = run.reference.multiset_digest == space.start.multiset_digest
    drawn = random_orders(run.reference if same else space.start, request.verify, request.seed)
    usual = named_orders(run) if request.heuristics is None and request.verify else {}
    named = usual if request.heuristics is None else {n: order_of(run, n) for n in request.heuristics}
    kept = comparable(space, named)
    if request.heuristics is not None and (left := sorted(set(named) - set(kept))):
        raise UsageError(
            f"search: expected heuristics that hold the start's items in steps of the same lengths, got {', '.join(left)}; "
            "name others"
        )
    return Rivals(list(comparable(space, {str(i): o for i, o in enumerate(drawn)}).values()), kept)


def _searched(run: Context, request: Request, start: Order, guide: Estimator) -> Found:
    """The search itself, with progress: by evaluations, or by seconds of a budget in seconds."""
    budget = request.budget
    total = budget.evaluations or math.ceil(budget.seconds or 0)
    table = _table(run, request.readout) if guide.problem.rule.smooth else None
    if request.method == "assignment" and table is None:
        raise NotCachedError(
            "search: expected a table of positions for the method `assignment`, got none; run `fut cache RUN --terms adjoint`"
        )
    with run.progress("searching", total) as tick:
        began, told = time.perf_counter(), [0]

        def tell(count: int) -> None:
            done = told[0] + count if budget.evaluations else int(time.perf_counter() - began)
            for _ in range(min(done, total) - told[0]):
                tick()
            told[0] = min(done, total)

        try:
            return search(
                lambda orders: raw_estimates(guide, orders)[0],
                start,
                table,
                method=request.method,
                budget=budget,
                seed=request.seed,
                constraints=request.constraints,
                from_start=request.start is not None,
                maximize=request.maximize,
                finalists=request.finalists if request.verify else 1,
                tick=tell,
            )
        except ValueError as error:
            raise error if isinstance(error, (FutError, EstimatorError)) else UsageError(str(error)) from error


def _table(run: Context, readout: str) -> np.ndarray | None:
    """The read-out's table of positions; None where it is not cached, and the search learns its own."""
    try:
        return position_table(run, readout)
    except NotCachedError:
        return None


def _retrained(run: Context, readouts: Sequence[ReadOut], orders: Sequence[Order]) -> Truths:
    """Read-outs of every order, really trained; what has been trained before is recalled."""
    found = {}
    with run.progress("retraining", len(set(orders)) * run.steps) as tick:
        for order in dict.fromkeys(orders):
            trained = run.retrain(order, lambda step, state: tick())
            found[order] = Truth([run.readouts.truth(asked, trained) for asked in readouts], trained.seconds)
    return found


def _elsewhere(
    run: Context, readout: ReadOut, place: int, truths: Truths, order: Order, randoms: Sequence[Order]
) -> dict[str, Any]:
    """Another read-out of the retrained orders, which the search did not seek; `place` among those that were taken."""
    return {
        "unit": readout.unit,
        "found": truths[order].values[place],
        "reference": run.readouts.at_reference(readout),
        "random": [truths[o].values[place] for o in randoms],
    }
