"""What a run's own gradients say about the noise of its order, without training: closed form, replay, table of positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from estimators.errors import RuleError
from estimators.noise.floors import Floor, bracket_floor, hoeffding_variance, lindeberg, order_floor, quantiles
from estimators.noise.kernel import Kernel, impulse_kernels
from estimators.noise.replay import replayed
from estimators.orders.order import Order
from estimators.rules.clipping import clip_gradient
from estimators.rules.grouped import Grouped
from estimators.state import State
from fut.display.numbers import jsonable
from fut.errors import NotCachedError
from fut.methods.adjoint.positions import position_table
from fut.resources.memory import require_memory
from fut.training.weights import item_weights, weighed

if TYPE_CHECKING:
    from fut.methods.context import Context

ENDS = (0.05, 0.95)
"""Levels of an error bar: 90 % of random orders lie between."""
COPIES = 14
"""Tables of an item's numbers that the closed form holds at its height, some of them in double precision."""


def _no_tick() -> None:
    """Nobody counts."""


@dataclass(frozen=True)
class PositionWeights:
    """How much of the gradient at each step the end of the window holds, for the tensors that one rule updates.

    Args:
        parameters: how many numbers these tensors have.
        weights: w_s / mean(w), by step of the window; their mean is 1.
        share: of the variance of the parameters, that in these tensors.
    """

    parameters: int
    weights: list[float]
    share: float


@dataclass(frozen=True)
class LocalNoise:
    """Noise of the order over the last steps of a run, from gradients at the parameters before them.

    Standard deviations over random orders are in the read-out's unit, traces are sums of variances of parameters. What could not
    be had is None, and `notes` say why. First order in the learning rate, but for `position_sd`, whose gradients are along the
    run's trajectory.

    Args:
        first: the step at which the orders begin to differ.
        weights: attribution by position, in the order of the parts of the update rule.
        closed_sd: by the impulse weights; the preconditioner goes on as on average over orders.
        closed_trace: the same of the parameters.
        error_bar: 5 % and 95 % quantiles of the read-out about its mean over orders, by the impulse weights.
        normality: Berry–Esseen quantity of that sum; far above 1, its law is not normal.
        replay_values: the read-out of each order, by replay of the frozen gradients.
        replay_trace: sample variance of the parameters over those orders.
        position_sd: by the adjoint's table of positions.
        bracket_trace: what a rule without memory would leave, from Hessian-vector products.
        closed_values: the read-out of each order by the impulse weights.
        retrained_trace: sample variance of the parameters over the orders, after retraining.
        notes: what could not be had.
    """

    first: int
    weights: list[PositionWeights] = field(default_factory=list)
    closed_sd: float | None = None
    closed_trace: float | None = None
    error_bar: list[float] | None = None
    normality: float | None = None
    closed_values: list[float] | None = None
    replay_values: list[float] | None = None
    replay_trace: float | None = None
    position_sd: float | None = None
    bracket_trace: float | None = None
    retrained_trace: float | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {name: jsonable(value) for name, value in asdict(self).items()}


class RunNoise:
    """The noise of a run's order, about one read-out; each part is computed when it is asked for.

    Args:
        run: the opened run.
        readout: the read-out's name.
        window: steps at the end of the run, over which orders differ.

    Raises:
        ResourceError: where the gradients of the window's items do not fit into memory.
    """

    def __init__(self, run: Context, readout: str, window: int) -> None:
        self._run, self._problem, self._readout = run, run.problem, run.readouts.get(readout)
        self.first, steps = run.steps - window, weighed(run.problem, run.reference).entries
        self._placed = [item for step in steps[self.first :] for item, _ in step]
        self._items = {item: place for place, item in enumerate(dict.fromkeys(self._placed))}
        needed = COPIES * len(self._items) * run.parameters * torch.finfo(self._problem.objective.dtype).bits // 8
        require_memory("order noise", needed, self._problem.device, "take fewer steps (--window)")
        self._lengths = [len(step) for step in steps[self.first :]]
        self._rates = [self._problem.rate(t) for t in range(self.first, run.steps)]

    @cached_property
    def _state(self) -> State:
        """The lifted state before the window."""
        return self._run.state(self.first)

    @cached_property
    def _gradients(self) -> Tensor:
        """Of every item of the window, at the parameters before it [items, D]."""
        with self._run.progress("gradients of the window's items", len(self._items)) as tick:
            rows = []
            for item in self._items:
                rows.append(self._problem.at(self.first).gradient(self._state.theta, item))
                tick()
        return torch.stack(rows)

    @cached_property
    def _slope(self) -> Tensor:
        """Gradient of the read-out at the reference run's end [D]."""
        return self._readout.gradient(self._run.state(self._run.steps).theta)

    def local(self, orders: Sequence[Order], bracket: bool = False) -> LocalNoise:
        """Everything that is known without training, and the spread of endpoints of those orders that have been trained.

        Args:
            orders: that differ over the window alone.
            bracket: whether Hessian-vector products are taken, for what is left without memory.
        """
        found = self._replayed(orders, self._closed(orders, LocalNoise(self.first)))
        found = self._from_positions(found)
        if bracket:
            found = self._bracket(found)
        ends = [self._run.retrained.find(order) for order in orders]
        known = [end.theta for end in ends if end is not None]
        spread = _trace(torch.stack(known)) if len(known) == len(orders) > 1 else None
        return replace(found, retrained_trace=spread)

    def _closed(self, orders: Sequence[Order], found: LocalNoise) -> LocalNoise:
        """By the impulse weights; a note where the rule, or the items' weights, have none."""
        if item_weights(self._problem.config):
            return _noted(found, "closed form: expected items of equal weight, got data.weights")
        try:
            squares = self._clipped().square().mean(0)
            kernels = impulse_kernels(self._problem.rule, self._state, self._rates, squares)
        except RuleError as error:
            return _noted(found, f"closed form: {error}")
        floor = self._floor(kernels)
        if floor.table is None:
            return found
        changes = [self._sum(floor.table, order) for order in orders]
        reference = self._sum(floor.table, self._run.reference)
        start = self._run.readouts.at_reference(self._readout)
        return replace(
            found,
            weights=self._weights(kernels, floor),
            closed_sd=(floor.variance or 0.0) ** 0.5,
            closed_trace=floor.trace,
            error_bar=quantiles(floor.table, ENDS),
            normality=lindeberg(floor.table),
            closed_values=[start + change - reference for change in changes],
        )

    def _floor(self, kernels: Sequence[Kernel]) -> Floor:
        gradients = self._clipped()[[self._items[item] for item in self._placed]]
        return order_floor(kernels, gradients, self._lengths, self._slope)

    def _clipped(self) -> Tensor:
        """The gradients as the rule takes them. Clipping of a mean of several is taken as that of each."""
        return clip_gradient(self._problem.rule.clip, self._gradients)

    def _weights(self, kernels: Sequence[Kernel], floor: Floor) -> list[PositionWeights]:
        """Adjacent parts of one group have one kernel: their shares are summed."""
        merged: dict[tuple[float, ...], PositionWeights] = {}
        for kernel, trace in zip(kernels, floor.shares, strict=True):
            key, count = tuple(kernel.attribution), len(kernel.take(self._slope))
            share = trace / floor.trace if floor.trace else 0.0
            before = merged.get(key, PositionWeights(0, list(key), 0.0))
            merged[key] = PositionWeights(before.parameters + count, list(key), before.share + share)
        return list(merged.values())

    def _sum(self, table: Tensor, order: Order) -> float:
        """What an order's placements sum to."""
        columns = {item: place for place, item in enumerate(self._placed)}
        items = [item for step in self._problem.canonical(order).steps[self.first :] for item in step]
        return float(sum(table[place, columns[item]] for place, item in enumerate(items)))

    def _replayed(self, orders: Sequence[Order], found: LocalNoise) -> LocalNoise:
        """By replay of the frozen gradients; a note where the rule cannot be replayed on mean gradients."""
        rule, value = self._problem.rule, self._readout.value
        asked = [self._local(order) for order in (self._run.reference, *orders)]
        try:
            parts = list(replayed(rule, self._state, self._gradients, lambda t: self._rates[t], asked))
        except RuleError as error:
            return _noted(found, f"replay: {error}")
        moved = torch.cat(parts)
        end = self._run.state(self._run.steps).theta
        with self._run.progress("evaluating replayed orders", len(orders)) as tick:
            values = []
            for own in moved[1:]:
                values.append(value(end + (own - moved[0])))
                tick()
        return replace(found, replay_values=values, replay_trace=_trace(moved[1:]))

    def _local(self, order: Order) -> Order:
        """The window of an order, items being numbered as the gradients are."""
        entries = weighed(self._problem, order).entries[self.first :]
        return Order.of_entries([(self._items[item], weight) for item, weight in step] for step in entries)

    def _from_positions(self, found: LocalNoise) -> LocalNoise:
        """By the table of positions; a note where it has not been cached."""
        try:
            table = torch.from_numpy(position_table(self._run, self._readout.name))[self.first :]
        except NotCachedError:
            return _noted(found, "table of positions: not cached; run `fut cache RUN`")
        if item_weights(self._problem.config):
            return _noted(found, "table of positions: expected items of equal weight, got data.weights")
        places = table[:, self._placed].repeat_interleave(torch.tensor(self._lengths), dim=0)
        shares = torch.tensor(self._lengths).repeat_interleave(torch.tensor(self._lengths))[:, None]
        return replace(found, position_sd=hoeffding_variance(places / shares) ** 0.5)

    def _bracket(self, found: LocalNoise) -> LocalNoise:
        """The part of single items alone, which is most of it."""
        if len(self._placed) > len(self._rates) or isinstance(self._problem.rule, Grouped):
            return _noted(found, "bracket: expected one item a step and one group of parameters")
        theta, products = self._state.theta, len(self._items) * (len(self._items) + 1)
        scale: Tensor | float = 1.0
        try:
            (kernel,) = impulse_kernels(self._problem.rule, self._state, self._rates)
            scale = 1.0 if kernel.preconditioner is None else kernel.preconditioner
        except RuleError:
            found = _noted(found, "bracket: of the gradients as they are, without a preconditioner")
        with self._run.progress("Hessian-vector products", products) as tick:

            def product(item: int | None, direction: Tensor) -> Tensor:
                if item is None:
                    moved = self._problem.at(self.first).mean_product(theta, list(self._items), direction, True)
                else:
                    moved = self._problem.at(self.first).product(theta, list(self._items)[item], direction)
                tick()
                return scale * moved

            rate = sum(self._rates) / len(self._rates)
            trace = bracket_floor(self._clipped() * scale, product, rate, pairs=False).trace
        return replace(found, bracket_trace=trace)


def _trace(ends: Tensor) -> float | None:
    """Sum of sample variances over orders; None for one order."""
    return float(ends.double().var(0).sum()) if len(ends) > 1 else None


def _noted(found: LocalNoise, note: str) -> LocalNoise:
    return replace(found, notes=[*found.notes, note])


LocalAsker = Callable[[int, Sequence[Order], bool], LocalNoise]
"""(steps of the window, orders, whether with brackets) -> what is known without training."""


def local_noise(run: Context, readout: str) -> LocalAsker:
    """What answers of a run's order noise without training."""
    return lambda window, orders, bracket: RunNoise(run, readout, window).local(orders, bracket)
