"""What every stage of a run costs, before it is computed: gradients, seconds, bytes on disk and memory at its height."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from estimators.adjoint import Anchored, AnchoredGradients, DualTransition
from estimators.errors import OrderError
from estimators.orders.order import random_orders
from estimators.replay import OrderBatch, RuleTransition
from estimators.state import State
from fut.artifacts.creation import checkpoint_bytes
from fut.data.dataset import Dataset
from fut.errors import UsageError
from fut.methods.adjoint.costs import anchor_bytes, anchor_gradients, low_rank_bytes, low_rank_gradients
from fut.methods.adjoint.estimator import CACHED
from fut.methods.batching import batch_size
from fut.methods.costs import NEEDS, exact_gradients
from fut.methods.coupling import UNCUT, require_uncut
from fut.methods.expansion.costs import centre_bytes
from fut.methods.footprint import Footprint, footprint_of, numbers, timed
from fut.methods.lowrank.costs import base_query, base_stages
from fut.methods.lowrank.terms import Base
from fut.methods.query_footprint import QueryFootprint
from fut.methods.reweighting.terms import Sensitivities
from fut.methods.settings import Config
from fut.models import autodiff as derivatives
from fut.models.objective import Loss
from fut.progress import Progress, silent
from fut.resources.device import choose_device, describe, reproducible
from fut.resources.memory import available_bytes
from fut.training.problem import Problem, build_problem

CALIBRATED, QUERIES = 8, 1000
TABLE = 5.0
"""Steps of the rule on all parameters that one entry of the table of positions takes as long as, in double precision."""
NOTE = (
    "an estimate: gradients and steps timed and measured here, once; reading and writing files takes no seconds in it; "
    "bytes on disk before compression; memory is the most that the stage holds beyond what the process starts with"
)


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage. gradients: evaluations (a Hessian-vector product counts two); seconds: wall clock here.

    bytes_kept: stay on disk; bytes_scratch: on disk until the expansion is complete; peak_memory: bytes beyond what the
    process starts with, of the device's memory on CUDA.
    """

    stage: str
    gradients: int
    seconds: float
    bytes_kept: int
    bytes_scratch: int
    peak_memory: int


@dataclass(frozen=True)
class Plan:
    """The costs of a run's stages, in the order they are run; each counted from its beginning, done or not.

    available_memory: bytes on the device now, None where unknown. notes: what the figures are, and what was left out.
    """

    stages: list[StageCost]
    parameters: int
    steps: int
    items: int
    device: str
    available_memory: int | None
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __getitem__(self, stage: str) -> StageCost:
        """The stage of that name."""
        return next(s for s in self.stages if s.stage == stage)


def plan(
    config: Config | None = None,
    *,
    text: str | None = None,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    data: Dataset | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Plan:
    """The plan of a run that has not been trained; arguments as in `fut.train`. Builds it in memory and writes nothing.

    text: file or directory in place of the configuration's.
    """
    config = config or Config()
    if text is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"text": text})})
    chosen = choose_device(device)
    with reproducible(chosen):
        problem = build_problem(config, chosen, module=module, loss=loss, data=data)
        return plan_problem(problem, config, progress)


def plan_problem(problem: Problem, config: Config, progress: Progress = silent) -> Plan:
    """The plan of a problem. config: of what is computed before the first order, section by section."""
    costs = Costs(footprint_of(problem, config.adjoint, config.cache), config)
    makers = costs.makers()
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
    )


class Costs:
    """The stages of one problem, each made when it is asked for; timings are taken once."""

    def __init__(self, footprint: Footprint, config: Config) -> None:
        self.config = config
        self.footprint, self.problem = footprint, footprint.problem
        self.base = Base(Path(), self.problem, config.curved, footprint.expansion.config, footprint.expansion.start)
        self.expansion, self.layout = footprint.expansion, footprint.layout
        self.steps, self.items = self.problem.config.steps, self.problem.config.data.items
        self.notes: list[str] = []

    # --- timings

    @cached_property
    def gradient(self) -> float:
        """Seconds of one gradient of the largest item."""
        of, theta = self.problem.objective, self.footprint.theta
        return timed(lambda: derivatives.gradient(of, theta, self.footprint.largest).sum().item())

    @cached_property
    def about(self) -> Sensitivities:
        """The expansion about the reference run, as configured."""
        rule, theta, wanted = self.problem.rule, self.footprint.theta, self.config.reweighting
        return Sensitivities(Path(), self.problem, wanted, lambda step: rule.init(theta))

    @property
    def item(self) -> float:
        """Seconds of one item's gradient, in proportion to that of the largest."""
        share = numbers(self.problem.data.items[0]) / max(numbers(self.footprint.largest), 1)
        return self.gradient * min(share, 1.0)

    @cached_property
    def step(self) -> float:
        """Seconds of one step of the rule on all parameters."""
        theta, rule = self.footprint.theta, self.problem.rule
        state = rule.init(theta)
        return timed(lambda: rule.step(state, theta, self.problem.rate(0))[0].theta.sum().item())

    @cached_property
    def flop(self) -> float:
        """Seconds of one multiplication and addition of a product with a matrix of eight rows [D], half of the time each."""
        theta = self.footprint.theta
        rows = theta.expand(8, -1).contiguous()
        return timed(lambda: (rows @ theta).sum().item()) / (2 * rows.numel())

    @cached_property
    def probe(self) -> float:
        """Seconds of one probe loss, from that of one chunk."""
        of, theta, probe = self.problem.objective, self.footprint.theta, self.problem.data.probe
        return len(probe) * timed(lambda: derivatives.evaluate(of, theta, probe[:1]))

    def replayed(self, orders: int) -> float:
        """Seconds of one step of the adjoint's replay, per order and coordinate, in a batch of `orders`."""
        width, problem = min(max(512, CACHED // orders), self.expansion.expected_coordinates), self.problem
        block = problem.rule.blocks(problem.objective.size, width)[0]
        rule, width = problem.rule.restrict(block), block.stop
        table = self.footprint.theta[block].expand(self.items, -1).clone()
        gradients = AnchoredGradients(Anchored([0], lambda a: table))
        inner = RuleTransition(rule, problem.rate, gradients)
        dual = DualTransition(inner, lambda t: table[0], lambda t: table[:1])
        start = dual.start(rule.init(table[0]).rows(orders), 1)
        picks = OrderBatch.pack(random_orders(problem.reference, orders, 0), problem.device).at(0)
        call: Callable[[], State] = lambda: dual(0, picks, start)  # noqa: E731
        return timed(lambda: _settle(call().theta)) / (orders * width)

    @cached_property
    def expandable(self) -> bool:
        """Whether there can be an expansion about the centre; noted where these items cannot make it."""
        return self.problem.rule.smooth and self._possible("adjoint and positions", self.expansion.require_possible)

    @cached_property
    def based(self) -> bool:
        """Whether there can be what `curved` reads."""
        return self.problem.rule.smooth and self._possible("curved", self.base.require_possible)

    @cached_property
    def reweighted(self) -> bool:
        """Whether there can be what `reweighting` reads."""
        return self.problem.rule.smooth and self._possible("reweighting", self.about.require_possible)

    def _possible(self, names: str, require: Callable[[], None]) -> bool:
        try:
            require()
        except (OrderError, UsageError) as error:
            self.notes.append(f"left out: {names}, as it stands ({error})")
            return False
        return True

    # --- stages

    def makers(self) -> list[Callable[[], list[StageCost]]]:
        """One function per group of stages, so that progress is seen."""
        makers: list[Callable[[], list[StageCost]]] = [lambda: [self.training()]]
        if self.expandable:
            makers.append(self.expanding)
        if self.based:
            makers.append(lambda: list(base_stages(self, self.base, StageCost)))
        if self.reweighted:
            makers.append(lambda: [self.reweighting()])
        makers += [lambda: list(self.pairwise())]
        makers += [lambda: [self.calibration()], lambda: list(self.queries()), lambda: [self.retraining()]]
        return makers

    def training(self) -> StageCost:
        found, warmup = self.footprint, len(self.problem.data.warmup)
        data = (self.problem.data.items, self.problem.data.probe, self.problem.data.warmup)
        nbytes = checkpoint_bytes(self.problem) + sum(t.nbytes for part in data[:2] for item in part for t in item)
        seconds = (self.steps + warmup) * (self.gradient + self.step) + 2 * self.probe
        return StageCost("reference run", self.problem.config.consumed + warmup, seconds, nbytes, 0, found.training())

    def expanding(self) -> list[StageCost]:
        """The stages of the expansion; their gradients and bytes sum to what the expansion says of itself."""
        e, found, config = self.expansion, self.footprint, self.expansion.config
        centre, anchors = self.problem.config.consumed * config.mixture, anchor_gradients(e)
        curved = low_rank_gradients(e)
        sweep = e.gradients() - centre - anchors - curved
        scratch = [centre_bytes(e), anchor_bytes(e), low_rank_bytes(e)]
        kept = e.expected_coordinates
        pulls = self.steps * config.mixture * 2 * len(e.names) * self.step
        rows = len(e.names) if e.of_all else found.swept
        simulated = (3 + rows / 2) * self.steps * config.simulated * self.step
        drawn = 0.0 if e.whole else simulated
        share = 1.0 if e.controlled else kept / self.problem.objective.size  # of the coordinates in a table
        table = TABLE * self.steps * self.items * e.fine * self.step * share
        anchored = 0 if e.controlled else len(e.anchors) * self.items * kept * found.theta.element_size()
        swept, sampled = e.scratch_bytes() - sum(scratch), 16 * kept
        stages = [
            StageCost("adjoint: centre", centre, centre * (self.item + self.step), 0, scratch[0], found.centre()),
            StageCost("adjoint: backward sweep", sweep, sweep * self.item + pulls, 0, swept, found.sweep()),
            StageCost("adjoint: sample", 0, drawn + (1 + e.places_count) * self.probe, sampled, 0, found.sample()),
            StageCost("adjoint: fold", 0, table + simulated - drawn, e.nbytes() - anchored - sampled, 0, found.fold()),
        ]
        at = 2 if e.controlled else 3  # before the sample, or on it
        stages.insert(
            at, StageCost("adjoint: anchors", anchors, anchors * self.item, anchored, scratch[1], found.anchors())
        )
        if e.rank:
            stages.insert(
                1, StageCost("adjoint: low rank", curved, curved * self.item, 0, scratch[2], found.low_rank())
            )
        if not config.anchors:
            self.notes.append(f"anchors: planned for {len(e.anchors)}, the most that adjoint.anchors = 0 can choose")
        return stages

    def reweighting(self) -> StageCost:
        """The expansion about the reference run, which is made on request alone, as configured."""
        wanted = self.about
        pulls = self.steps * (1 + 2 * len(wanted.names)) * self.step
        seconds, peak = wanted.gradients() * self.item + pulls, self.footprint.reweighting(wanted)
        nbytes, scratch = wanted.nbytes(), wanted.scratch_bytes()
        return StageCost("reweighting (on request)", wanted.gradients(), seconds, nbytes, scratch, peak)

    def needs(self, name: str) -> list[str]:
        """The terms that an estimator streams, under the cache's configuration."""
        return [n for n in NEEDS.get(name, ()) if n in self.layout.names]

    @cached_property
    def paired(self) -> list[str]:
        """The estimators whose pairwise terms can be cached."""
        try:
            _ = self.layout.sketch
        except UsageError as error:
            self.notes.append(f"fut, fut++ and replay are left out: {error}")
            return []
        pairs = ["fut", "fut++"]
        sample = self.layout.sample.size
        if self._possible("replay", lambda: require_uncut(self.problem, "replay", sample, UNCUT)):
            pairs = ["replay", *pairs]
        return pairs

    def pairwise(self) -> Iterator[StageCost]:
        for name in self.paired:
            needs, pairs = self.needs(name), self.steps * self.items
            count = self.layout.gradients(needs)
            seconds = count * self.item + pairs * self.step
            nbytes, peak = self.layout.nbytes(needs), self.footprint.pairwise(needs)
            yield StageCost(f"terms of {name}", count, seconds, nbytes, 0, peak)

    def retraining(self, orders: int = 1, stage: str = "one retraining") -> StageCost:
        seconds = orders * (self.steps * (self.gradient + self.step) + self.probe)
        vector, peak = self.footprint.vector, self.footprint.training()
        return StageCost(stage, orders * self.problem.config.consumed, seconds, orders * vector, 0, peak)

    def calibration(self) -> StageCost:
        trained = self.retraining(CALIBRATED, f"calibrate ({CALIBRATED} orders)")
        if not self.expandable:
            return trained
        asked = self.adjoint_query(CALIBRATED, "")
        peak = max(trained.peak_memory, asked.peak_memory)
        return StageCost(trained.stage, trained.gradients, trained.seconds + asked.seconds, trained.bytes_kept, 0, peak)

    def adjoint_query(self, orders: int, stage: str) -> StageCost:
        kept = self.expansion.expected_coordinates
        together = min(orders, batch_size(2 * kept))
        curved = 4 * self.expansion.rank * self.flop if self.expansion.rank else 0.0
        seconds = (orders + 1) * self.steps * kept * (self.replayed(together) + curved)
        return StageCost(stage, 0, seconds, 0, 0, QueryFootprint(self.footprint).adjoint(orders))

    def queries(self) -> Iterator[StageCost]:
        """One order by each estimator, and many by the adjoint."""
        asked, single = QueryFootprint(self.footprint), self.replayed(1)
        yield StageCost("query: reference", 0, 0.0, 0, 0, asked.other("reference", ()))
        for name in self.paired:
            width = self.layout.sample.size if name == "replay" else self.layout.sketch.size
            seconds = self.steps * width * single + self.probe
            yield StageCost(f"query: {name}", 0, seconds, 0, 0, asked.other(name, self.needs(name)))
        yield from self.exact_query()
        if self.based:
            yield base_query(self, self.base, StageCost)
        if self.expandable:
            yield self.adjoint_query(1, "query: adjoint")
            yield self.adjoint_query(QUERIES, f"{QUERIES:,} queries: adjoint")

    def exact_query(self) -> Iterator[StageCost]:
        found, of = self.footprint, self.problem
        try:
            peak = QueryFootprint(found).other("replay-exact", ())
            product = timed(lambda: of.product(found.theta, 0, found.theta).sum().item())
        except (NotImplementedError, RuntimeError) as error:
            self.notes.append(f"replay-exact is left out: no forward derivative of the module ({str(error)[:100]})")
            return
        seconds = self.steps * (self.gradient + self.step) + of.config.consumed * product + self.probe
        yield StageCost("query: replay-exact", exact_gradients(of.config), seconds, 0, 0, peak)


def _settle(tensor: Tensor) -> None:
    """Wait until a tensor is computed."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
