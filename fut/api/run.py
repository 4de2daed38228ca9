"""An opened run directory: the one object a user holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import nn

from estimators.orders.order import Order
from estimators.replay import Listener
from fut.api import info
from fut.api import integrity as inspection
from fut.api.questions import Names, RunMethods, RunOrders, asked_of
from fut.data.dataset import Dataset
from fut.estimation.results import Endpoint, Estimates
from fut.execution.engine import Engine
from fut.execution.inline import INLINE
from fut.execution.registry import engine_of
from fut.methods import build
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.context import Context
from fut.methods.pairwise.config import CacheConfig
from fut.methods.registry import preparations
from fut.methods.stages import Request as Preparing
from fut.models.objective import Loss
from fut.orders.parsing import OrderLike, order_of
from fut.planning import Plan, plan_problem
from fut.progress import Progress, terminal
from fut.questions.accuracy.ask import VerifyRequest
from fut.questions.accuracy.leave_out import LdsRequest
from fut.questions.calibrate import CalibrateRequest
from fut.questions.curriculum.request import SearchRequest
from fut.questions.domains.ask import DomainsRequest
from fut.questions.endpoint import EndpointRequest
from fut.questions.estimate import EstimateRequest
from fut.questions.memorization.ask import MemorizeRequest
from fut.questions.question import Request, require_list
from fut.questions.trust.ask import TrustRequest
from fut.questions.whatif.ask import WhatIfRequest
from fut.readouts.readout import PROBE, UserFunction
from fut.report import SAMPLES, Report, write_report
from fut.resources.device import computes
from fut.training.optimizers import AnyOptimizer, maker_of
from fut.training.trainer import Retrained
from storage import Damage, address

A = TypeVar("A")
P = ParamSpec("P")


def asks(request: Callable[P, Request[A]]) -> Callable[Concatenate[Run, P], A]:
    """A method that asks a question: its arguments are the fields of the request, and so is its documentation."""

    def method(run: Run, /, *values: P.args, **fields: P.kwargs) -> A:
        return run.ask(request(*values, **fields))

    method.__doc__ = request.__doc__
    of_request = inspect.signature(request).parameters.values()
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([first, *of_request])  # type: ignore[attr-defined]
    return method


def _named(request: Request[Any]) -> list[str]:
    """The read-outs that a request names: what the caller names may be imported."""
    given = [getattr(request, "readout", None), *(getattr(request, "readouts", None) or ())]
    return [name for name in given if isinstance(name, str)]


@computes
class Run:
    """A reference run and everything cached about it. Open one with `fut.open(path)`.

    Orders are given as `Order`, as a list with one entry per step (an item number, a list of them, or a dict of `items` and
    `weights`), as a name (`reverse`, `random:7`, `swap:3,7`, `sort:loss`, …) or as a path to a file of it.

    The methods that ask questions take the fields of a request; `ask` takes the request itself.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        module: nn.Module | None = None,
        loss: Loss | None = None,
        data: Dataset | None = None,
        optimizer: AnyOptimizer | None = None,
        readouts: Mapping[str, UserFunction] | None = None,
        progress: Progress = terminal,
        trust: bool = False,
        engine: Engine | str = INLINE,
    ) -> None:
        given: dict[str, Any] = {"module": module, "loss": loss, "data": data, "readouts": readouts}
        given |= {"optimizer": None if optimizer is None else maker_of(optimizer, module)}
        self.context = Context(path, device=device, progress=progress, trust=trust, engine=engine_of(engine), **given)

    def __dir__(self) -> list[str]:
        """Names for completion: those that are meant to be used."""
        return [name for name in super().__dir__() if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<Run {address(self.path)}: {self.steps} steps over {self.items} items, {self.context.parameters:,} parameters>"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.context.path

    @property
    def steps(self) -> int:
        """T, steps of the window."""
        return self.context.steps

    @property
    def items(self) -> int:
        """Number of items that it trains on."""
        return self.context.items

    @property
    def reference(self) -> Order:
        """The order of the reference run."""
        return self.context.reference

    @property
    def reference_loss(self) -> float:
        """Probe loss at the end of the reference run [nats/token]."""
        return self.context.reference_loss

    @property
    def orders(self) -> RunOrders:
        """Orders by name or by score, and the best under a table."""
        return RunOrders(self.context)

    @property
    def methods(self) -> RunMethods:
        """The methods that answer, and what they read: for those who compare methods."""
        return RunMethods(self.context)

    def order(self, spec: OrderLike, partial: bool = False) -> Order:
        """A checked order; `partial` accepts lists of fewer steps than the window."""
        return order_of(self.context, spec, partial)

    # --- what is computed before it answers

    def plan(self, adjoint: AdjointConfig | None = None) -> Plan:
        """What every stage costs, from the reference run to a thousand queries: see `fut.planning`.

        adjoint: how an expansion would be made, in place of the stored or the configured one.
        """
        context = self.context
        settings = {of.section: of.open(context).spec.config for of in preparations()}
        settings |= {} if adjoint is None else {"adjoint": adjoint}
        return plan_problem(context.problem, context.config.model_copy(update=settings), context.progress)

    def cache(
        self,
        names: Names = None,
        config: CacheConfig | None = None,
        readouts: Names = None,
        adjoint: AdjointConfig | None = None,
    ) -> None:
        """Compute what is missing of the named terms; resumes where an interrupted call stopped.

        names: `adjoint` for the expansion that the adjoint estimator reads (a few training runs), terms of every
        (checkpoint, item) pair by name (`gradient`, `norm`, `update`, `jvp`, `second`: T training runs and more),
        `all` for all of these; by name alone `lowrank` for what endpoints are rebuilt from, and `reweighting` for
        what that estimator reads. None for what the default estimator reads, and for what was begun. readouts: what
        the adjoint pass is computed for, in place of `adjoint.readouts`; those that the run's expansion lacks are
        added to it, by an adjoint pass for them alone. adjoint: how the expansion is made, in place of the run's own
        configuration; refused where the run has one that was made otherwise.
        """
        self.context.readouts.admit(readouts or ())
        build.cache(self.context, Preparing(names, readouts, adjoint, config))

    # --- answers

    def ask(self, request: Request[A], say: Callable[[str], object] | None = None) -> A:
        """Any question's answer, or any study's.

        Args:
            request: what is asked, as `fut.questions.whatif.ask.WhatIfRequest`, or `fut.studies.noise.study.NoiseRequest`.
            say: hears, before anything is computed, what it will cost.

        Returns:
            The answer; what was asked at some cost is kept in the run.

        Raises:
            UsageError: for a request of no question in `fut.questions.registry`, and of no study in `fut.studies.registry`.
        """
        question, context = asked_of(request, self.context)
        self.context.readouts.admit(_named(request))
        if say is not None:
            for line in question.costs(request, context):
                say(line)
        answer: A = question.ask(request, context)
        return answer

    def estimate(
        self,
        orders: Iterable[OrderLike],
        estimator: str | None = None,
        *,
        known: bool = True,
        calibrated: bool = True,
        readout: str = PROBE,
        partial: bool = False,
        curve: bool | Iterable[int] = False,
        **options: str,
    ) -> Estimates:
        """A read-out under each order, by default the probe loss, without training.

        Args:
            orders: a list of them.
            estimator: the method's name; None for the default, `retrain` trains every order that has not been yet.
            known: answer orders that have been retrained on this run by their truth.
            calibrated: apply the method's calibration, if there is one: that of single edits for an order that is one.
            readout: `probe`, `accuracy`, `item:3`, or a function of your own.
            partial: accept orders shorter than the window.
            curve: of one order, the read-out over the steps, as a `Curve`: after each step that the run has an adjoint pass of
                and at the end, or after these steps.
            options: of the method, by name.
        """
        require_list("estimate", orders)
        along = {"curve": curve} if isinstance(curve, bool) else {"curve_steps": tuple(curve)}
        fields: dict[str, Any] = {"known": known, "calibrated": calibrated, "partial": partial, **along}
        return self.ask(EstimateRequest(tuple(orders), estimator, readout=readout, options=options, **fields))

    trust = asks(TrustRequest)
    """Train three orders, and say how well estimates can be expected to rank orders. Fields of `TrustRequest`."""
    calibrate = asks(CalibrateRequest)
    """Retrain a few orders and fit a method to them: later estimates then carry 90 % intervals. Fields of `CalibrateRequest`."""
    verify = asks(VerifyRequest)
    """Retrain random orders and compare methods with them. Fields of `VerifyRequest`."""
    whatif = asks(WhatIfRequest)
    """What an edit of an order changes, per read-out. Fields of `WhatIfRequest`."""
    search = asks(SearchRequest)
    """The order that would have trained best, as far as a budget finds it, and the truth about it. Fields of `SearchRequest`."""
    memorize = asks(MemorizeRequest)
    """The loss on items, and on held-out text near and far, by the step an item stands at. Fields of `MemorizeRequest`."""
    domains = asks(DomainsRequest)
    """What the order of whole domains does, and the place of one of them or of one item. Fields of `DomainsRequest`."""
    lds = asks(LdsRequest)
    """Retrain without random subsets and score how methods rank them. Fields of `LdsRequest`."""

    def report(self, out: Path | str | None = None, samples: int = SAMPLES, estimator: str = "positions") -> Report:
        """Write all that has been asked of the run as one HTML page, with a what-if board: see `fut.report`."""
        return write_report(self.context, out, samples, estimator)

    def retrain(self, order: OrderLike, listener: Listener | None = None) -> Retrained:
        """The truth: retrain in this order, or recall the result if that has been done before.

        Its `loss` is the probe loss [nats/token], its `theta` the parameters [D], and `state_dict()` has these by name.
        """
        asked = self.order(order)
        with self.context.progress("retraining", len(asked)) as tick:
            return self.context.retrain(asked, listener or (lambda step, state: tick()))

    def endpoint(
        self, order: OrderLike, estimator: str | None = None, out: Path | str | None = None, **options: str
    ) -> Endpoint:
        """Parameters at the end of an order, written to a safetensors file that loads back into the model.

        Fields of `EndpointRequest`; options of the method by name.
        """
        return self.ask(EndpointRequest(order, estimator, out, options=options))

    def info(self) -> dict[str, Any]:
        """What the run is, and what each estimator costs: see `fut.api.info`."""
        return info.info(self.context)

    def check(self) -> list[Damage]:
        """Verify every checksum of the run; what is damaged, by file."""
        return inspection.check_path(self.path)
