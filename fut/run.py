"""An opened run directory: the one object a user holds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from estimators.errors import OrderError
from estimators.order import Order, named_order
from estimators.replay import Listener
from estimators.state import State
from storage import CheckpointStore, Damage, IdentityError, Manifest, MemoryTerms, TermStore, require_free, require_same

from . import answering, inspection
from . import layout as files
from .answers import Endpoint, Estimate
from .caching import CachePlan, fill, known_terms, plan_cache
from .calibration import SEED, Calibrated, calibrate_run
from .config import AdjointConfig, CacheConfig, Config
from .data import Dataset
from .device import choose_device, environment
from .endpoint import write_endpoint
from .errors import ModelError
from .estimation import make_estimator
from .estimator import Estimator, Reference
from .expansion import Expansion
from .fitting import require_expansion, require_pairwise, require_tables
from .footprint import Footprint, footprint_of
from .models import Loss
from .planning import Plan, plan_problem
from .problem import Problem, build_problem
from .progress import Progress, silent
from .questions.verify import Verification
from .retrained import RetrainedOrders
from .terms import TermLayout, TermTables
from .training import Retrained, read_state, train_order
from .verification import verify_run

OrderLike = Order | str | Path | Iterable[Any]
DEFAULT_ESTIMATOR = "adjoint"


class Run:
    """A reference run and everything cached about it. Open one with `fut.open(path)`.

    Orders are given as `Order`, as a list of item numbers (one entry per step), as a name (`reverse`, `random:7`,
    `swap:3,7`, …) or as a path to a JSON list.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        module: nn.Module | None = None,
        loss: Loss | None = None,
        data: Dataset | None = None,
        progress: Progress = silent,
    ) -> None:
        self.path, self.progress = Path(path), progress
        self.manifest: Manifest = files.read_manifest(self.path)
        self.config: Config = files.read_config(self.path)
        self._device_name, self._module, self._loss, self._data = device, copy.deepcopy(module), loss, data
        self.checkpoints = CheckpointStore(self.path / files.CHECKPOINTS)
        self.summary: dict[str, Any] = files.read_summary(self.path)

    @cached_property
    def problem(self) -> Problem:
        """Model, data and rule, rebuilt and compared field by field with what the run was made with."""
        data = self._data or files.read_dataset(self.path)
        device = choose_device(self._device_name)
        problem = build_problem(self.config, device, module=self._module, loss=self._loss, data=data)
        require_same(self.manifest.identity, problem.identity, f"run {self.path}")
        self._require_same_function(problem)
        return problem

    def _require_same_function(self, problem: Problem) -> None:
        """The same parameters must give the same loss: catches a changed forward pass or loss under the same names."""
        found = problem.probe_loss(read_state(self.checkpoints, self.steps, problem.device).theta)
        if abs(found - self.reference_loss) > 1e-4 * abs(self.reference_loss):
            raise ModelError(
                f"run {self.path}: expected the probe loss {self.reference_loss:.6f} nats/token at the reference "
                f"endpoint, got {found:.6f}; the model's forward pass or its loss is not the one the run was trained with"
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
        return Order.of(list(range(self.items)) * self.config.data.epochs)

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
        listed = files.listed_order(spec)
        if listed is not None:
            return Order.of(listed).check(self.items, self.steps, partial)
        return named_order(str(spec), self.reference).check(self.items, self.steps, partial=True)

    # --- terms

    @property
    def layout(self) -> TermLayout:
        """The layout of the terms in the store; the configuration's where nothing is cached yet."""
        return TermLayout.of(self.problem, self.cache_config)

    @property
    def cache_config(self) -> CacheConfig:
        if files.has_terms(self.path):
            stored = Manifest.read(self.path / files.TERMS / files.MANIFEST).identity["identity"]
            return CacheConfig.model_validate(stored["cache"])
        return self.config.cache

    def terms(self, config: CacheConfig | None = None) -> TermStore:
        """The term store, created if absent; IdentityError if it was made with another cache configuration."""
        layout = TermLayout.of(self.problem, config or self.cache_config)
        try:
            return TermStore.create_or_open(
                self.path / files.TERMS, layout.specs(), layout.identity(self.problem), layout.config.item_block
            )
        except IdentityError as error:
            raise IdentityError(f"{error}; or remove {self.path / files.TERMS} to cache anew") from error

    def plan(self) -> Plan:
        """What every stage costs, from the reference run to a thousand queries: see `fut.planning`."""
        return plan_problem(self.problem, self.expansion().config, self.cache_config, self.progress)

    def _footprint(self, config: AdjointConfig | None = None, cache: CacheConfig | None = None) -> Footprint:
        return footprint_of(self.problem, config or self.expansion().config, cache or self.cache_config)

    def plan_cache(self, names: Sequence[str] | None = None, config: CacheConfig | None = None) -> CachePlan:
        """What `cache` would still cost."""
        pairwise, adjoint = self._split(names)
        layout = TermLayout.of(self.problem, config or self.cache_config)
        terms = self.terms(config) if pairwise else MemoryTerms(layout.specs(), {}, layout.config.item_block)
        expansion = self.expansion() if adjoint else None
        return plan_cache(self.problem, layout, terms, known_terms(layout, pairwise), self.state(0), expansion)

    def cache(self, names: Sequence[str] | None = None, config: CacheConfig | None = None) -> None:
        """Compute what is missing of the named terms; resumes where an interrupted call stopped.

        names: `adjoint` for the expansion that the adjoint estimator reads (a few training runs), and terms of every pair
        by name (`gradient`, `norm`, `update`, `jvp`, `second`: T training runs and more); all of them for None.
        """
        files.require_same_environment(self.manifest, environment(self.problem.device), self.path)
        pairwise, adjoint = self._split(names)
        if adjoint:
            self.expand()
        if pairwise:
            terms = self.terms(config)
            wanted = known_terms(self.layout, pairwise)
            files.require_space(self.path, self.layout, terms, wanted)
            if terms.missing(wanted):
                require_pairwise(self._footprint(cache=config), wanted)
            fill(self.problem, self.layout, terms, self.state, wanted, self.progress)

    def _split(self, names: Sequence[str] | None) -> tuple[list[str], bool]:
        """Requested terms of every pair, and whether the expansion is requested."""
        if names is None:
            return self.layout.names, self.problem.rule.smooth
        return [n for n in names if n != "adjoint"], "adjoint" in names

    def expansion(self, config: AdjointConfig | None = None) -> Expansion:
        """The expansion about the centre, as it is stored; with the run's own configuration where there is none yet."""
        if config is None and files.has_expansion(self.path):
            config = files.read_expansion_config(self.path)
        return Expansion(self.path / files.ADJOINT, self.problem, config or self.config.adjoint, lambda: self.state(0))

    def expand(self, config: AdjointConfig | None = None) -> None:
        """Compute what the adjoint estimator reads; resumes where an interrupted call stopped."""
        files.require_same_environment(self.manifest, environment(self.problem.device), self.path)
        expansion = self.expansion(config)
        if not expansion.complete():
            require_expansion(self._footprint(expansion.config))
            require_free(self.path, expansion.scratch_bytes() + expansion.nbytes(), "the expansion and its scratch")
        files.claim_expansion(self.path, expansion)
        expansion.build(self.progress)

    def repair(self) -> int:
        """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
        files.sweep(self.path)
        found = 0
        if files.has_terms(self.path):
            files.renew_term_metadata(self.path)
            found = len(self.terms().repair())
        expansion = self.expansion() if files.has_expansion(self.path) else None
        return found + (expansion.repair() if expansion is not None else 0)

    # --- answers

    @property
    def default_estimator(self) -> str:
        """The estimator that answers when none is named: `adjoint`, or `replay` for a rule without a derivative."""
        return DEFAULT_ESTIMATOR if self.problem.rule.smooth else "replay"

    def estimator(self, name: str, **options: str) -> Estimator:
        """An estimator of this run by name; options as in `fut.estimation`."""
        stored = TermStore.open(self.path / files.TERMS) if files.has_terms(self.path) else None
        tables = TermTables(stored, self.problem.device)
        expansion = self.expansion() if files.has_expansion(self.path) else None
        reference = Reference(self.problem, self.layout, self.state, self.reference_loss, tables, expansion)
        made = make_estimator(name, reference, **options)
        require_tables(self._footprint(), made)
        return made

    def estimate(
        self,
        orders: Iterable[OrderLike],
        estimator: str | None = None,
        *,
        known: bool = True,
        calibrated: bool = True,
        **options: str,
    ) -> list[Estimate]:
        """The probe loss under each order, without training.

        known: answer orders that have really been trained on this run by their truth. calibrated: apply the estimator's
        calibration, if there is one (`calibrate`). `estimator="retrain"` trains every order that has not been trained yet.
        """
        if isinstance(orders, (str, Path, Order)):
            raise OrderError(f"estimate: expected a list of orders, got one, {orders!r}; write [{orders!r}]")
        checked = [self.order(o) for o in orders]
        return answering.estimate(self, checked, estimator or self.default_estimator, known, calibrated, **options)

    def calibrate(self, orders: int = 8, seed: int = SEED, estimator: str | None = None) -> Calibrated:
        """Retrain a few random orders and fit the estimator to them; every later estimate carries a 90 % interval."""
        return calibrate_run(self, orders, seed, estimator or self.default_estimator)

    @cached_property
    def retrained(self) -> RetrainedOrders:
        """Every order that has really been trained on this run."""
        return RetrainedOrders(self.path / files.RETRAINED, self.problem.device)

    def retrain(self, order: OrderLike, listener: Listener | None = None) -> Retrained:
        """The truth: really train in this order, or recall the result if that has been done before."""
        checked = self.order(order)
        found = self.retrained.find(checked)
        if found is None:
            found = train_order(self.problem, self.state(0), checked, listener)
            self.retrained.keep(checked, found)
        return found

    def verify(self, orders: int = 32, seed: int = 0, estimators: Sequence[str] | None = None) -> Verification:
        """Retrain random orders and compare every estimator with them: see `fut.questions.verify`."""
        return verify_run(self, orders, seed, estimators)

    def endpoint(
        self, order: OrderLike, estimator: str = "replay-exact", out: Path | str | None = None, **options: str
    ) -> Endpoint:
        """Parameters at the end of an order, written to a safetensors file that loads back into the model.

        estimator: one that rebuilds parameters (not `adjoint`, which estimates the read-out alone).

        out: defaults to a name made of the estimator and the order, inside the run.
        """
        checked = self.order(order)
        target = Path(out) if out else self.path / files.ENDPOINTS / f"{estimator}-{checked.digest[:16]}.safetensors"
        return write_endpoint(self, checked, estimator, target, **options)

    def info(self) -> dict[str, Any]:
        """What the run is, and what each estimator costs: see `fut.inspection.info`."""
        return inspection.info(self)

    def check(self) -> list[Damage]:
        """Verify every checksum of the run; what is damaged, by file."""
        return inspection.check_path(self.path)
