"""An opened run as methods and questions see it: its files, its problem, its checkpoints, its read-outs, its truths."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from estimators.replay import Listener
from estimators.rules.optimizer_rule import OptimizerRule
from estimators.state import State
from fut.artifacts import dataset as dataset_file
from fut.artifacts import directory as files
from fut.artifacts.identity import read_pins, require_same_run
from fut.artifacts.kept import keeping
from fut.artifacts.location import located
from fut.artifacts.trust import require_trust
from fut.data.dataset import Dataset
from fut.errors import ModelError, NoModuleError
from fut.execution.engine import Engine
from fut.execution.inline import INLINE
from fut.methods.settings import Config, read_config
from fut.models.deferred import DeferredObjective
from fut.models.lifting import copied
from fut.models.objective import Loss, Objective
from fut.models.structure import SHOWN, differences
from fut.models.transformer import Transformer
from fut.progress import Progress, terminal
from fut.readouts.readout import (
    PROBE,
    Functions,
    Readout,
    UserFunction,
    base_of,
    check_registered,
    is_built_in,
    make_readouts,
    one_readout,
    require_same_value,
)
from fut.resources.device import choose_device, computes, reproducible
from fut.training.checkpoints import read_state
from fut.training.fidelity import require_same_loss, require_same_training
from fut.training.optimizers import MakeOptimizer
from fut.training.problem import Problem, build_problem, kept_steps, reference_order, require_weights
from fut.training.retrained import RetrainedOrders
from fut.training.trainer import Retrained, train_order_at, trained_on
from storage import IdentityError, Manifest


@computes
class Context:
    """A reference run in its directory, opened once and given to everything that reads it.

    Args:
        path: the run directory.
        device: `auto`, `cpu` or `cuda[:N]`.
        module, loss, data, optimizer: what the run was trained with, where the configuration does not name them; checked.
        readouts: a user's own read-outs by name.
        progress: hears of long work.
        trust: whether code that the directory names (`model.factory`, `model.loss`, read-outs) may run.
        engine: where independent units of work are done.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        module: nn.Module | None = None,
        loss: Loss | None = None,
        data: Dataset | None = None,
        optimizer: MakeOptimizer | None = None,
        readouts: Mapping[str, UserFunction] | None = None,
        progress: Progress = terminal,
        trust: bool = False,
        engine: Engine = INLINE,
    ) -> None:
        self.path, self.progress, self.trust, self.engine = located(path), progress, trust, engine
        self.key = uuid.uuid4().hex  # tells it from others that processes of its engine have open
        self.manifest: Manifest = files.read_manifest(self.path)
        self.owner = files.owner_of(self.manifest)
        self.config: Config = read_config(self.path)
        self.device = choose_device(device)
        self._module, self._loss, self._data = None if module is None else copied(module)[0], loss, data
        self._optimizer = optimizer
        self._between: tuple[int, State | None] = (
            -1,
            None,
        )  # the state that was asked for last, of those that are not kept
        self.checkpoints = files.open_checkpoints(self.path, self.manifest)
        self.summary: dict[str, Any] = files.read_summary(self.path)
        self.readouts = RunReadouts(self, readouts, trust)
        if module is not None or optimizer is not None:  # what does not fit is said here, not at the first question
            _ = self.problem

    @cached_property
    def problem(self) -> Problem:
        """Model, data and rule, compared field by field with what the run was made with.

        A model that the directory describes is built, and compared, when something is first computed with it; objects that the
        run was opened with are compared at once.
        """
        given = any(one is not None for one in (self._module, self._loss, self._optimizer))
        return self._built_problem if given or self.config.rule.name == OptimizerRule.name else self._described_problem

    @property
    def _described_problem(self) -> Problem:
        """As the directory describes it: no model is built, and none of its code runs."""
        about = self.manifest.identity["model"]
        data, model = self._run_data, self.config.model
        require_weights(self.config, data)
        objective = DeferredObjective(
            about,
            self.parameters,
            self.device,
            getattr(torch, model.autocast) if model.autocast else None,
            lambda: torch.from_numpy(
                files.open_checkpoints(self.path, self.manifest, files.START).read_array(0, "theta")
            ),
            self._build_objective,
        )
        problem = Problem(self.config, data, objective, self._recorded_state(), _unit=str(self.summary.get("unit", "")))
        require_same_run(self.manifest.identity, problem.identity, self.path)
        return problem

    def _build_objective(self) -> Objective:
        """In settings of its own, whatever holds where it is first needed."""
        kind = self.device.type
        plain = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
        with reproducible(self.device), plain, torch.device("cpu"), torch.enable_grad():
            return self._built_problem.objective

    @cached_property
    def _run_data(self) -> Dataset:
        return (self._data or dataset_file.read_dataset(self.path, self.owner)).to(self.device)

    @cached_property
    def _built_problem(self) -> Problem:
        data = self._run_data
        self._require_module()
        model = self.config.model
        named = {"model.factory": model.factory if self._module is None else ""}
        require_trust(self.path, self.trust, named | {"model.loss": model.loss if self._loss is None else ""})
        state = self._recorded_state()
        given: dict[str, Any] = {"module": self._module, "loss": self._loss, "optimizer": self._optimizer}
        problem = build_problem(self.config, self.device, data=data, state=state, **given)
        self._fit(problem)
        require_same_run(self.manifest.identity, problem.identity, self.path)
        end = read_state(self.checkpoints, self.steps, problem.device).theta
        require_same_loss(problem, end, self.reference_loss, f"run {self.path}")
        require_same_training(problem, self.checkpoints, self.steps, f"run {self.path}")
        return problem

    def _recorded_state(self) -> State | None:
        """The state before the window, for a training that was recorded in its course."""
        return read_state(self.checkpoints, 0, self.device) if "state" in self.manifest.identity else None

    def _fit(self, problem: Problem) -> None:
        """Give the module the run's starting values, whatever its own are; IdentityError, naming each tensor, where it is
        another module, or what training does not change has other numbers."""
        held, found = self.manifest.identity["model"], problem.objective.identity()
        lines = differences(held, found)
        if lines:
            more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            raise IdentityError(
                f"run {self.path}: expected the module that it was trained with; {'; '.join(lines[:SHOWN])}{more}; give a "
                "module of that structure, with the frozen parameters and buffers that it was trained with"
            )
        if found["start"] != held["start"]:
            start = files.open_checkpoints(self.path, self.manifest, files.START).read_array(0, "theta")
            problem.objective.begin_at(torch.from_numpy(start))

    def _require_module(self) -> None:
        """NoModuleError for a run whose module came as an object, and is not given again."""
        stored, built = (
            self.manifest.environment.get(files.MODEL),
            f"{Transformer.__module__}.{Transformer.__qualname__}",
        )
        if self._module is None and not self.config.model.factory and stored != built:
            raise NoModuleError(
                f"run {self.path}: expected the module that it was trained with, an object of `{stored}`, got none; pass it: "
                "fut.open(path, module=…, loss=…); on the command line --model package.module:factory, and --loss "
                "package.module:name where its forward pass does not return the loss"
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
        loss: float = self.summary["reference_loss"]
        return loss

    @property
    def parameters(self) -> int:
        """D, number of trained parameters."""
        count: int = self.summary["parameters"]
        return count

    @cached_property
    def reference(self) -> Order:
        return reference_order(self.config)

    @cached_property
    def _kept_steps(self) -> list[int]:
        return kept_steps(self.problem)

    def state(self, step: int) -> State:
        """Lifted state [D] of the reference run before step `step` (after the last for `steps`)."""
        problem = self.problem
        kept = [at for at in self._kept_steps if at <= step]
        if kept[-1] == step:
            return read_state(self.checkpoints, step, problem.device)
        first, state = self._between
        if state is None or not kept[-1] < first <= step:
            first, state = kept[-1], read_state(self.checkpoints, kept[-1], problem.device)
        found = trained_on(problem, state, first, step)
        self._between = step, found
        return found

    @cached_property
    def diverged(self) -> dict[Order, str]:
        """Orders that other processes found to diverge, in canonical form, and what was said of each."""
        return {}

    @cached_property
    def _unkept(self) -> dict[Order, Retrained]:
        """The order that was retrained last, in canonical form, where the directory could not keep it."""
        return {}

    @property
    def given(self) -> dict[str, Any]:
        """The objects that it was opened with, by which another process opens it."""
        return {
            "module": self._module,
            "loss": self._loss,
            "optimizer": self._optimizer,
            "readouts": self.readouts.given,
        }

    @cached_property
    def retrained(self) -> RetrainedOrders:
        """Every order that has been retrained on this run."""
        return RetrainedOrders(self.path / files.RETRAINED, self.problem.device, self.problem.canonical, self.owner)

    def retrain(self, order: Order, listener: Listener | None = None, at: Iterable[int] = ()) -> Retrained:
        """The truth: retrain in this order, or recall the result if that has been done before.

        at: steps after which the result is kept too, as that of the order's first steps, which is then not trained again.
        """
        if (diverged := self.diverged.get(self.problem.canonical(order))) is not None:
            raise DivergenceError(diverged)
        found = self.retrained.find(order) or self._unkept.get(self.problem.canonical(order))
        parts = {step: order.first(step) for step in at if step < len(order)}
        missing = [step for step, part in parts.items() if self.retrained.find(part) is None]
        if found is None or missing:
            asked = order if found is None else parts[max(missing)]  # of a known order only as far as it is not
            end, after = train_order_at(self.problem, self.state(0), asked, missing, listener)
            with keeping("the retrained order", self.retrained.directory):
                for step, result in ({len(asked): end} | after).items():
                    self.retrained.keep(asked.first(step), result)
            found = found or end
            self._unkept = {} if self.retrained.has(order) else {self.problem.canonical(order): found}
        return replace(found, objective=self.problem.objective)


class RunReadouts:
    """The read-outs that a run can be asked about.

    Args:
        run: whose they are.
        user: a user's own functions by name.
        trust: whether functions that the directory names may be imported.
    """

    def __init__(self, run: Context, user: Mapping[str, UserFunction] | None = None, trust: bool = False) -> None:
        self.given = user
        self._run, self.user = run, Functions(check_registered(user or {}), trust)
        self._made: dict[str, Readout] = {}
        self._values: dict[str, float] = {}

    def get(self, spec: str) -> Readout:
        """The read-out by its name. ModelError where it is another function than the run's adjoint pass was computed for."""
        name = one_readout(spec, self._run.items)
        if name not in self._made:
            (found,) = make_readouts(self._run.problem, [name], self.user)
            self._made[name] = found
        found = self._made[name]
        if found.pinned and (pins := read_pins(self._run.path)).get(name) is not None:
            require_same_value(name, pins[name], self.at_reference(found), f"run {self._run.path}")
        return found

    def admit(self, names: Iterable[str]) -> None:
        """Take what the caller names as `package.module:name`, and import it; built-in read-outs stay as they are."""
        self.user.admit(base_of(name) for name in names if isinstance(name, str) and not is_built_in(name))

    def at_reference(self, readout: Readout) -> float:
        """Its value at the end of the reference run, or after its own steps, in its unit; the probe loss at the end as it was
        recorded there."""
        if readout.name == PROBE:
            return self._run.reference_loss
        if readout.name not in self._values:
            value = readout.value(self._theta(readout))
            if not math.isfinite(value):
                raise ModelError(
                    f"read-out `{readout.name}`: expected a finite value at the reference endpoint, got {value}; mend it"
                )
            self._values[readout.name] = value
        return self._values[readout.name]

    def truth(self, readout: Readout, found: Retrained) -> float:
        """Its value at the endpoint of an order that has been retrained: of what `Readout.seen` gives."""
        return found.loss if base_of(readout.name) == PROBE else readout.value(found.theta)

    def _theta(self, readout: Readout) -> Tensor:
        """Parameters [D] of the reference run where the read-out is taken."""
        return self._run.state(readout.step or self._run.steps).theta

    def pins(self, names: Sequence[str]) -> dict[str, float]:
        """Values at the reference endpoint of those read-outs that nothing else would recognise again."""
        pinned = [found for found in map(self.get, names) if found.pinned]
        for found in pinned:  # before anything is computed for it
            if not found.gradient(self._theta(found)).isfinite().all():
                raise ModelError(
                    f"read-out `{found.name}`: expected a finite gradient at the reference endpoint, got NaN or infinity; mend it"
                )
        return {found.name: self.at_reference(found) for found in pinned}
