"""An opened run directory: the one object a user holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.replay import Listener
from fut.api import info
from fut.api import integrity as inspection
from fut.api.questions import Asking, Names
from fut.artifacts import directory as files
from fut.data.dataset import Dataset
from fut.estimation.endpoint import write_endpoint
from fut.estimation.results import Endpoint, Estimates
from fut.estimation.service import Answering
from fut.methods import build as preparation
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.base import Estimator
from fut.methods.context import Context
from fut.methods.lowrank.terms import has_base, open_base
from fut.methods.pairwise.compute import CachePlan
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.store import pairwise_config
from fut.methods.registry import default_estimator, open_estimator
from fut.methods.settings import Config
from fut.models.objective import Loss
from fut.orders.editing import only_edit
from fut.orders.parsing import OrderLike, order_of
from fut.planning import Plan, plan_problem
from fut.progress import Progress, silent
from fut.readouts.readout import PROBE, UserFunction
from fut.resources.device import computes
from fut.training.trainer import Retrained
from storage import Damage


@computes
class Run(Asking):
    """A reference run and everything cached about it. Open one with `fut.open(path)`.

    Orders are given as `Order`, as a list with one entry per step (an item number, a list of them, or a dict of `items` and
    `weights`), as a name (`reverse`, `random:7`, `swap:3,7`, `sort:loss`, …) or as a path to a JSON list.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        module: nn.Module | None = None,
        loss: Loss | None = None,
        data: Dataset | None = None,
        readouts: Mapping[str, UserFunction] | None = None,
        progress: Progress = silent,
    ) -> None:
        self.context = Context(
            path, device=device, module=module, loss=loss, data=data, readouts=readouts, progress=progress
        )

    @property
    def device(self) -> torch.device:
        """Where its numbers are computed."""
        return self.context.device

    @property
    def path(self) -> Path:
        return self.context.path

    @property
    def config(self) -> Config:
        return self.context.config

    @property
    def steps(self) -> int:
        """T, steps of the window."""
        return self.context.steps

    @property
    def items(self) -> int:
        return self.context.items

    @property
    def parameters(self) -> int:
        """D, number of trained parameters."""
        return self.context.parameters

    @property
    def reference(self) -> Order:
        """The order of the reference run."""
        return self.context.reference

    @property
    def reference_loss(self) -> float:
        """Probe loss at the end of the reference run [nats/token]."""
        return self.context.reference_loss

    @property
    def default_estimator(self) -> str:
        return default_estimator(self.context)

    def order(self, spec: OrderLike, partial: bool = False) -> Order:
        """A checked order; `partial` accepts lists of fewer steps than the window."""
        return order_of(self.context, spec, partial)

    # --- terms

    def plan(self, adjoint: AdjointConfig | None = None) -> Plan:
        """What every stage costs, from the reference run to a thousand queries: see `fut.planning`.

        adjoint: how an expansion would be made, in place of the stored or the configured one.
        """
        context = self.context
        chosen = {
            "adjoint": adjoint or open_expansion(context).config,
            "cache": pairwise_config(context),
            "curved": open_base(context).config,
        }
        return plan_problem(context.problem, context.config.model_copy(update=chosen), context.progress)

    def plan_cache(
        self,
        names: Names = None,
        config: CacheConfig | None = None,
        readouts: Names = None,
        adjoint: AdjointConfig | None = None,
    ) -> CachePlan:
        """What `cache` would still cost."""
        return preparation.plan(self.context, names, config, readouts, adjoint)

    def cache(
        self,
        names: Names = None,
        config: CacheConfig | None = None,
        readouts: Names = None,
        adjoint: AdjointConfig | None = None,
    ) -> None:
        """Compute what is missing of the named terms; resumes where an interrupted call stopped.

        names: `adjoint` for the expansion that the adjoint estimator reads (a few training runs), terms of every
        (checkpoint, item) pair by name (`gradient`, `norm`, `update`, `jvp`, `second`: T training runs and more); all of
        these for None; and, on request alone, `curved` for what endpoints are rebuilt from (which None goes on with where it
        was begun) and `reweighting` for what that estimator reads. readouts: what the expansion is
        swept for, in place of `adjoint.readouts`; refused where the run has an expansion without them. adjoint: how the expansion
        is made, in place of the run's own configuration; refused where the run has one that was made otherwise.
        """
        preparation.cache(self.context, names, config, readouts, adjoint)

    def repair(self) -> int:
        """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
        return preparation.repair(self.context)

    # --- answers

    def estimator(self, name: str, *, readout: str = PROBE, **options: str) -> Estimator:
        """An estimator of one read-out of this run by name; options as in `fut.estimation`."""
        return open_estimator(self.context, name, readout, **options)

    def estimate(
        self,
        orders: Iterable[OrderLike],
        estimator: str | None = None,
        *,
        known: bool = True,
        calibrated: bool = True,
        readout: str = PROBE,
        partial: bool = False,
        **options: str,
    ) -> Estimates:
        """A read-out under each order, by default the probe loss, without training.

        readout: `probe`, `accuracy`, `item:3`, or a function of your own; see `fut.readouts`.
        known: answer orders that have really been trained on this run by their truth. calibrated: apply the estimator's
        calibration, if there is one (`calibrate`): that of single edits for an order named as one, `swap:3,7`. partial: as in
        `order`. `estimator="retrain"` trains every order that has not been trained yet.
        """
        if isinstance(orders, (str, Path, Order)):
            raise OrderError(f"estimate: expected a list of orders, got one, {orders!r}; write [{orders!r}]")
        asked = list(orders)
        asker = Answering(self.context, estimator or self.default_estimator, readout, known, calibrated, **options)
        return Estimates(asker.edited([self.order(o, partial) for o in asked], [only_edit(o, ()) for o in asked]))

    def retrain(self, order: OrderLike, listener: Listener | None = None) -> Retrained:
        """The truth: really train in this order, or recall the result if that has been done before."""
        return self.context.retrain(self.order(order), listener)

    def endpoint(
        self, order: OrderLike, estimator: str | None = None, out: Path | str | None = None, **options: str
    ) -> Endpoint:
        """Parameters at the end of an order, written to a safetensors file that loads back into the model.

        estimator: one that rebuilds parameters (not `adjoint`, which estimates the read-out alone); None for `curved` where
        its terms are cached, else `replay-exact`. out: defaults to a name made of the estimator and the order, inside the run.
        """
        checked = self.order(order)
        name = estimator or ("curved" if has_base(self.path) else "replay-exact")
        target = Path(out) if out else self.path / files.ENDPOINTS / f"{name}-{checked.digest[:16]}.safetensors"
        return write_endpoint(self.context, checked, name, target, **options)

    def info(self) -> dict[str, Any]:
        """What the run is, and what each estimator costs: see `fut.inspection.info`."""
        return info.info(self.context)

    def check(self) -> list[Damage]:
        """Verify every checksum of the run; what is damaged, by file."""
        return inspection.check_path(self.path)
