"""An opened run directory: the one object a user holds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from estimators.errors import OrderError
from estimators.orders.order import Order, named_order
from estimators.replay import Listener
from estimators.state import State
from fut.api import info
from fut.api import integrity as inspection
from fut.api.questions import Asking, Names
from fut.artifacts import dataset as dataset_file
from fut.artifacts import directory as files
from fut.data.dataset import Dataset
from fut.estimation.endpoint import write_endpoint
from fut.estimation.results import Endpoint, Estimates
from fut.estimation.service import Answering
from fut.methods import build as preparation
from fut.methods import settings_file
from fut.methods.adjoint import identity
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.base import Estimator
from fut.methods.context import RunReadOuts
from fut.methods.footprint import footprint_of
from fut.methods.limits import require_tables
from fut.methods.lowrank.config import CurvedConfig
from fut.methods.lowrank.terms import DIRECTORY as BASE
from fut.methods.lowrank.terms import Base, has_base, read_configs
from fut.methods.pairwise import store as pairwise_store
from fut.methods.pairwise.compute import CachePlan
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.terms import TermLayout
from fut.methods.registry import make_estimator
from fut.methods.reweighting.config import ReweightingConfig
from fut.methods.reweighting.terms import DIRECTORY, Sensitivities, stored_config
from fut.methods.settings import Config
from fut.models.objective import Loss
from fut.models.transformer import Transformer
from fut.orders import parsing
from fut.orders.editing import only_edit
from fut.orders.parsing import sorted_order
from fut.planning import Plan, plan_problem
from fut.progress import Progress, silent
from fut.readouts.readout import PROBE, UserFunction
from fut.resources.device import choose_device
from fut.training.checkpoints import read_state
from fut.training.fidelity import require_same_loss, require_same_training
from fut.training.problem import Problem, build_problem, reference_order
from fut.training.retrained import RetrainedOrders
from fut.training.trainer import Retrained, train_order
from storage import CheckpointStore, Damage, IdentityError, Manifest, TermStore, require_same

OrderLike = Order | str | Path | Iterable[Any]
DEFAULT_ESTIMATOR = "adjoint"


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
        self.path, self.progress = Path(path), progress
        self.manifest: Manifest = files.read_manifest(self.path)
        self.config: Config = settings_file.read_config(self.path)
        self._device_name, self._module, self._loss, self._data = device, copy.deepcopy(module), loss, data
        self.checkpoints = CheckpointStore(self.path / files.CHECKPOINTS)
        self.summary: dict[str, Any] = files.read_summary(self.path)
        self.readouts = RunReadOuts(self, readouts)

    @cached_property
    def problem(self) -> Problem:
        """Model, data and rule, rebuilt and compared field by field with what the run was made with."""
        data = self._data or dataset_file.read_dataset(self.path)
        device = choose_device(self._device_name)
        self._require_module()
        problem = build_problem(self.config, device, module=self._module, loss=self._loss, data=data)
        require_same(self.manifest.identity, problem.identity, f"run {self.path}")
        end = read_state(self.checkpoints, self.steps, problem.device).theta
        require_same_loss(problem, end, self.reference_loss, f"run {self.path}")
        require_same_training(problem, self.checkpoints, self.steps, f"run {self.path}")
        return problem

    def _require_module(self) -> None:
        """IdentityError for a run whose module came as an object, and is not given again."""
        held, built = self.manifest.identity["model"]["class"], f"{Transformer.__module__}.{Transformer.__qualname__}"
        if self._module is None and not self.config.model.factory and held != built:
            raise IdentityError(
                f"run {self.path}: expected the module that it was trained with, an object of `{held}`, got none; pass it: "
                "fut.open(path, module=…, loss=…). On the command line a run can be opened whose configuration names them: "
                "model.factory and model.loss, as `package.module:name`"
            )

    @property
    def steps(self) -> int:
        """T, steps of the window."""
        return self.config.steps

    @property
    def items(self) -> int:
        return self.config.data.items

    @property
    def reference_loss(self) -> float:
        """Probe loss at the end of the reference run [nats/token]."""
        return self.summary["reference_loss"]

    @property
    def parameters(self) -> int:
        """D, number of trained parameters."""
        return self.summary["parameters"]

    @cached_property
    def reference(self) -> Order:
        return reference_order(self.config)

    def state(self, step: int) -> State:
        """Lifted state [D] of the reference run before step `step` (after the last for `steps`)."""
        return read_state(self.checkpoints, step, self.problem.device)

    def order(self, spec: OrderLike, partial: bool = False) -> Order:
        """A checked order; `partial` accepts lists of fewer steps than the window."""
        if isinstance(spec, Order):
            return spec.check(self.items, self.steps, partial=True)
        if not isinstance(spec, (str, Path, Iterable)):
            raise OrderError(
                f"order: expected a name, a path, a list of items or an Order, got {spec!r}; write [3, 1, 2, 0] or `reverse`"
            )
        if not isinstance(spec, (str, Path)):
            return Order.of(cast("Iterable[Any]", spec)).check(self.items, self.steps, partial)
        listed = parsing.listed_order(spec)
        if listed is not None:
            return Order.of(listed).check(self.items, self.steps, partial)
        found = sorted_order(self, str(spec)) or named_order(str(spec), self.reference)
        return found.check(self.items, self.steps, partial=True)

    # --- terms

    @property
    def layout(self) -> TermLayout:
        """The layout of the terms in the store; the configuration's where nothing is cached yet."""
        return TermLayout.of(self.problem, self.cache_config)

    @property
    def cache_config(self) -> CacheConfig:
        if pairwise_store.has_terms(self.path):
            stored = Manifest.read(self.path / files.TERMS / files.MANIFEST).identity["identity"]
            return CacheConfig.model_validate(stored["cache"])
        return self.config.cache

    def terms(self, config: CacheConfig | None = None) -> TermStore:
        """The term store, created if absent; IdentityError if it was made with another cache configuration."""
        return preparation.open_terms(self, config)

    def plan(self, adjoint: AdjointConfig | None = None) -> Plan:
        """What every stage costs, from the reference run to a thousand queries: see `fut.planning`.

        adjoint: how an expansion would be made, in place of the stored or the configured one.
        """
        chosen = adjoint or self.expansion().config
        return plan_problem(self.problem, chosen, self.cache_config, self.progress, self.base().config)

    def plan_cache(
        self,
        names: Names = None,
        config: CacheConfig | None = None,
        readouts: Names = None,
        adjoint: AdjointConfig | None = None,
    ) -> CachePlan:
        """What `cache` would still cost."""
        return preparation.plan(self, names, config, readouts, adjoint)

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
        preparation.cache(self, names, config, readouts, adjoint)

    def expansion(self, config: AdjointConfig | None = None, part: str = files.ADJOINT) -> Expansion:
        """The expansion about the centre, as it is stored; with the run's own configuration where there is none yet.

        part: the directory of the run that holds it; `adjoint`, or `memorization` for that of `memorize`.
        """
        if config is None and identity.has_expansion(self.path, part):
            config = identity.read_expansion_config(self.path, part)
        chosen, directory = config or self.config.adjoint, self.path / part
        user, end = self.readouts.user, lambda: self.state(self.steps).theta
        return Expansion(directory, self.problem, chosen, lambda: self.state(0), user, end)

    def sensitivities(self, config: ReweightingConfig | None = None) -> Sensitivities:
        """The expansion about the reference run, as it is stored; with the run's own configuration where there is none."""
        chosen = config or stored_config(self.path) or self.config.reweighting
        return Sensitivities(self.path / DIRECTORY, self.problem, chosen, self.state, self.readouts.user)

    def expand(self, config: AdjointConfig | None = None) -> None:
        """Compute what the adjoint estimator reads; resumes where an interrupted call stopped."""
        preparation.expand(self, config)

    def base(self, config: CurvedConfig | None = None) -> Base:
        """Low-rank curvature and all else that the curved estimator reads, as it is stored; as configured where it is not."""
        stored = read_configs(self.path) if has_base(self.path) else None
        adjoint = stored[1] if stored else self.expansion().config
        chosen = config or (stored[0] if stored else self.config.curved)
        donor = self.expansion() if identity.has_expansion(self.path) else None
        return Base(self.path / BASE, self.problem, chosen, adjoint, lambda: self.state(0), donor)

    def curve(self, config: CurvedConfig | None = None) -> None:
        """Compute what the curved estimator reads; resumes where an interrupted call stopped."""
        preparation.curve(self, config)

    def repair(self) -> int:
        """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
        return preparation.repair(self)

    # --- answers

    @property
    def default_estimator(self) -> str:
        """The estimator that answers when none is named: `adjoint`, or `replay` for a rule without a derivative."""
        return DEFAULT_ESTIMATOR if self.problem.rule.smooth else "replay"

    def estimator(self, name: str, *, readout: str = PROBE, **options: str) -> Estimator:
        """An estimator of one read-out of this run by name; options as in `fut.estimation`."""
        made = make_estimator(name, self.readouts.reference(readout), **options)
        require_tables(footprint_of(self.problem, self.expansion().resolved, self.cache_config), made)
        return made

    def estimate(
        self,
        orders: Iterable[OrderLike],
        estimator: str | None = None,
        *,
        known: bool = True,
        calibrated: bool = True,
        readout: str = PROBE,
        **options: str,
    ) -> Estimates:
        """A read-out under each order, by default the probe loss, without training.

        readout: `probe`, `accuracy`, `item:3`, or a function of your own; see `fut.readouts`.
        known: answer orders that have really been trained on this run by their truth. calibrated: apply the estimator's
        calibration, if there is one (`calibrate`). `estimator="retrain"` trains every order that has not been trained yet.
        """
        if isinstance(orders, (str, Path, Order)):
            raise OrderError(f"estimate: expected a list of orders, got one, {orders!r}; write [{orders!r}]")
        asked = list(orders)
        asker = Answering(self, estimator or self.default_estimator, readout, known, calibrated, **options)
        return Estimates(asker.edited([self.order(o) for o in asked], [only_edit(o, ()) for o in asked]))

    @cached_property
    def retrained(self) -> RetrainedOrders:
        """Every order that has really been trained on this run."""
        return RetrainedOrders(self.path / files.RETRAINED, self.problem.device, self.problem.canonical)

    def retrain(self, order: OrderLike, listener: Listener | None = None) -> Retrained:
        """The truth: really train in this order, or recall the result if that has been done before."""
        checked = self.order(order)
        found = self.retrained.find(checked)
        if found is None:
            found = train_order(self.problem, self.state(0), checked, listener)
            self.retrained.keep(checked, found)
        return found

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
        return write_endpoint(self, checked, name, target, **options)

    def info(self) -> dict[str, Any]:
        """What the run is, and what each estimator costs: see `fut.inspection.info`."""
        return info.info(self)

    def check(self) -> list[Damage]:
        """Verify every checksum of the run; what is damaged, by file."""
        return inspection.check_path(self.path)
