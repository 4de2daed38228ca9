"""What every stage of a run costs, before it is computed: gradients, seconds, bytes on disk and memory at its height."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from estimators.errors import OrderError
from fut.artifacts.creation import checkpoint_bytes
from fut.data.counting import counted
from fut.data.dataset import Dataset
from fut.errors import ResourceError, UsageError
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.strategies import strategies
from fut.methods.base import Method
from fut.methods.coupling import condition_of
from fut.methods.footprint import Footprint
from fut.methods.registry import DEFAULT, METHODS, WITHOUT_DERIVATIVE, preparations
from fut.methods.retrain import RETRAIN
from fut.methods.settings import Config
from fut.methods.stages import Preparation
from fut.methods.timings import StageCost, Strategy, Timings
from fut.models.objective import Loss
from fut.progress import Progress, terminal
from fut.resources.device import choose_device, describe, reproducible
from fut.resources.memory import available_bytes
from fut.spoken import speaks_python
from fut.training.model_checks import require_trainable
from fut.training.optimizers import AnyOptimizer, maker_of
from fut.training.problem import Problem, build_problem, module_and_loss

CALIBRATED, QUERIES = 8, 1000
NOTE = (
    "an estimate: gradients and steps timed and measured here, once; reading and writing files takes no seconds in it; "
    "bytes on disk before compression; memory is the most that the stage holds beyond what the process starts with"
)


@dataclass(frozen=True)
class Plan:
    """The costs of a run's stages, in the order they are run; each counted from its beginning, done or not.

    available_memory: bytes on the device now, None where unknown. notes: what the figures are, and what was left out.
    strategies: what a preparation costs in all, for each way of storing its scratch. default: the estimator that answers
    where none is named.
    """

    stages: list[StageCost]
    parameters: int
    steps: int
    items: int
    device: str
    available_memory: int | None
    notes: list[str]
    strategies: list[Strategy] = field(default_factory=list)
    default: str = ""

    @property
    def of_default(self) -> list[StageCost]:
        """Stages that the default estimator takes before its first answer; none where it is left out."""
        named = [stage for stage in self.stages if stage.stage == f"terms of {self.default}"]
        return named or [stage for stage in self.stages if stage.stage.startswith(f"{self.default}: ")]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        named = ", ".join(f"{s.stage} {s.gradients:,}" for s in self.stages[:4])
        return f"<Plan of {len(self.stages)} stages, gradients of each: {named}, …>"

    def __getitem__(self, stage: str) -> StageCost:
        """The stage of that name."""
        return next(s for s in self.stages if s.stage == stage)


@speaks_python
def plan(
    config: Config | None = None,
    *,
    text: str | None = None,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    data: Dataset | None = None,
    optimizer: AnyOptimizer | None = None,
    device: str = "auto",
    progress: Progress = terminal,
) -> Plan:
    """The plan of a run that has not been trained; arguments as in `fut.train`. Builds it in memory and writes nothing.

    text: file or directory in place of the configuration's.
    """
    config = config or Config()
    if text is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"text": text})})
    config, torch_device = counted(config, data), choose_device(device)
    make = None if optimizer is None else maker_of(optimizer, module)
    with reproducible(torch_device):
        problem = build_problem(config, torch_device, module=module, loss=loss, data=data, optimizer=make)
        require_trainable(problem, *module_and_loss(config, module, loss, problem.data.names), every_item=False)
        return plan_problem(problem, config, progress)


def plan_problem(problem: Problem, config: Config, progress: Progress = terminal) -> Plan:
    """The plan of a problem. config: of what is computed before the first order, section by section."""
    with progress("planning: a gradient and its memory", 1) as tick:
        costs = Costs(Timings(Footprint(problem)), config)
        makers = costs.makers()
        tick()
    stages: list[StageCost] = []
    with progress("planning", len(makers)) as tick:
        for make in makers:
            stages += make()
            tick()
    return Plan(
        stages,
        problem.objective.size,
        problem.config.steps,
        problem.config.data.items,
        describe(problem.device),
        available_bytes(problem.device),
        [NOTE, *costs.notes],
        costs.strategies(),
        (DEFAULT if problem.rule.smooth else WITHOUT_DERIVATIVE).name,
    )


class Costs:
    """The stages of one problem, each made when it is asked for; timings are taken once."""

    def __init__(self, timings: Timings, config: Config) -> None:
        self.timings, self.problem, self.config = timings, timings.problem, config
        self.notes: list[str] = []
        self.possible = [preparation for preparation in preparations() if self._possible(preparation)]

    def _possible(self, preparation: Preparation[Any]) -> bool:
        """Whether it can be computed; said where these items or this configuration cannot make it."""
        if preparation.needs_smooth and not self.problem.rule.smooth:
            return False
        try:
            preparation.require_possible(preparation.planned(self.problem, self.config))
        except (OrderError, ResourceError, UsageError) as error:
            names = " and ".join(method.name for method in METHODS if method.preparation is preparation)
            self.notes.append(f"left out: {names}, as it stands ({error})")
            return False
        return True

    def makers(self) -> list[Callable[[], list[StageCost]]]:
        """One function per group of stages, so that progress is seen."""
        queried = sorted(METHODS, key=lambda method: method.place)
        queried = [method for method in queried if method not in (DEFAULT, RETRAIN)]
        makers = [lambda: [self.training()]]
        makers += [partial(self.preparing, preparation) for preparation in self.possible]
        makers.append(lambda: [self.calibration()])
        makers += [partial(self.querying, method) for method in queried]
        return [*makers, lambda: self.querying(DEFAULT, QUERIES), lambda: self.querying(RETRAIN)]

    def training(self) -> StageCost:
        """The reference run."""
        timings, data, warmup = self.timings, self.problem.data, len(self.problem.data.warmup)
        nbytes = checkpoint_bytes(self.problem)
        nbytes += sum(t.nbytes for part in (data.items, data.probe) for item in part for t in item)
        seconds = (self.problem.config.steps + warmup) * (timings.gradient + timings.step) + 2 * timings.probe
        count, peak = self.problem.config.consumed + warmup, timings.footprint.training()
        return StageCost("reference run", count, seconds, nbytes, 0, *timings.footprint.split(peak))

    def preparing(self, preparation: Preparation[Any]) -> list[StageCost]:
        """The stages of a preparation."""
        self.notes += preparation.notes(self.problem, self.config)
        return list(preparation.rows(self.problem, self.config, self.timings))

    def calibration(self) -> StageCost:
        """Retraining a few orders, and estimating them."""
        trained = RETRAIN.query(self.problem, self.config, self.timings, CALIBRATED)
        stage, estimated = f"calibrate ({CALIBRATED} orders)", self._query(DEFAULT, CALIBRATED)
        if estimated is None:
            return replace(trained, stage=stage)
        seconds, larger = trained.seconds + estimated.seconds, max(trained, estimated, key=lambda cost: cost.memory)
        memory = {"host_bytes": larger.host_bytes, "device_bytes": larger.device_bytes}
        return replace(trained, stage=stage, seconds=seconds, **memory)

    def strategies(self) -> list[Strategy]:
        """What the expansion costs in all, for each way of storing its scratch; nothing where it is left out."""
        return strategies(self.config, self.timings) if EXPANSION in self.possible else []

    def querying(self, method: Method, many: int = 0) -> list[StageCost]:
        """One order by a method, and many."""
        one = self._query(method, 1)
        if one is None:
            return []
        several = self._query(method, many) if many else None
        return [one] if several is None else [one, replace(several, stage=f"{many:,} queries: {method.name}")]

    def _query(self, method: Method, orders: int) -> StageCost | None:
        if method.preparation is not None and method.preparation not in self.possible:
            return None
        if condition_of(method.capabilities, self.problem.rule) is None:
            return None
        try:
            return method.query(self.problem, self.config, self.timings, orders)
        except (NotImplementedError, RuntimeError) as error:
            said = f"{method.name} is left out: no forward derivative of the module ({str(error)[:100]})"
            self.notes.append(said)
            return None
