"""What is trained: data, objective, rule, schedule and reference order, as one value with an identity."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from estimators.rules import make_rule
from estimators.rules.base import Rule
from estimators.rules.sizes import state_size
from estimators.schedule import Schedule
from estimators.state import State
from fut.config.training import TrainingConfig
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.display.scale import LOSS, NATS
from fut.errors import DataError, UsageError
from fut.models import autodiff as derivatives
from fut.models.factory import build_loss, build_module
from fut.models.named_items import by_name
from fut.models.objective import Item, Loss, Objective, full_precision
from fut.models.transformer import next_token_loss
from fut.resources.device import computes
from fut.training.absent_gradients import AbsentGradients
from fut.training.noise import NoiseKeys, keys_of
from fut.training.optimizers import MakeOptimizer, with_optimizer
from fut.training.samples import DataSamples
from fut.training.weights import item_weights, shares
from storage import fingerprint

LOWER = "lower schedule.rate or warmup.rate, or set rule.options.clip"
"""What to do where training diverges."""


@computes
@dataclass(frozen=True)
class Problem:
    """Everything that decides the numbers of a run; the device is where they are computed."""

    config: TrainingConfig
    data: Dataset
    objective: Objective
    state: State | None = (
        None  # before the window, of a training that was recorded in its course; None to warm up instead
    )
    _own_rule: Rule | None = None  # of an optimizer object; None for the rule that the configuration names
    _step: int | None = None  # whose random numbers items draw, where these are keyed by step
    _draw: int = 0  # of the forward passes' random numbers; 0 for the run's own
    _unit: str = ""  # of the loss, where that is known without the model

    @cached_property
    def rule(self) -> Rule:
        """The update rule of all parameters; `Rule.restrict` makes it that of some."""
        rule = self._own_rule or make_rule(self.config.rule.name, **self.config.rule.options)
        return rule.on(self.objective.layout)

    @cached_property
    def absent(self) -> AbsentGradients:
        """Which trained tensors items gave no gradient so far."""
        return AbsentGradients(self.rule, self.objective)

    def _note_absent(self, where: str, names: frozenset[str]) -> None:
        if names or not self.objective.built_in:
            self.absent.note(where, names)
            self.absent.require_none()

    @cached_property
    def _keys(self) -> NoiseKeys | None:
        model, data = self.config.model, self.config.data
        found = keys_of(self.objective, self.data.items, model.noise_key == "step", data.per_step)
        return found and replace(found, step=self._step, draw=self._draw)

    @property
    def _by_step(self) -> bool:
        """Whether random numbers are keyed by step; where they are not, that is known without the model."""
        return self.config.model.noise_key == "step" and self._keys is not None

    def at(self, step: int) -> Problem:
        """The problem whose items draw the random numbers of a step; itself where these travel with the items."""
        if not self._by_step or self._keys is None:
            return self
        made = copy.copy(self)
        vars(made).update(_step=step, _keys=replace(self._keys, step=step), absent=self.absent)
        return made

    @cached_property
    def samples(self) -> DataSamples:
        """Whether the first dimension of items, and of probe chunks, is samples."""
        return DataSamples(self.objective, self.data.items, self.data.probe)

    @cached_property
    def _schedule(self) -> Schedule:
        s = self.config.schedule
        if s.kind == "recorded":
            return Schedule(s.kind, s.rate, self.config.steps, rates=tuple(s.rates), groups=_tupled(s.groups))
        return Schedule(s.kind, s.rate, self.config.steps, s.warmup, s.final)

    @cached_property
    def reference(self) -> Order:
        """The order the reference run trains in."""
        return reference_order(self.config)

    @cached_property
    def twins(self) -> list[int]:
        """For every item, the first item of equal content and weight: exchanging the two changes nothing."""
        first: dict[tuple[str, float, int], int] = {}
        weights = item_weights(self.config) or [1.0] * len(self.data.items)
        found = zip(self.data.identity()["items"], weights, strict=True)
        width = self.config.data.per_step if self.config.model.noise_key == "step" else 1
        return [first.setdefault((*pair, item % width), item) for item, pair in enumerate(found)]

    def canonical(self, order: Order) -> Order:
        """The one form of all orders that train on the same content at every step; what is computed is computed for it."""
        return order.canonical(self.twins if self._has_twins else None)

    @cached_property
    def _has_twins(self) -> bool:
        return self.twins != list(range(len(self.twins)))

    @property
    def device(self) -> torch.device:
        return self.objective.device

    def rate(self, step: int) -> float:
        """Learning rate of a step of the window."""
        return self._schedule.rate_at(step)

    def gradient(self, theta: Tensor, item: int) -> Tensor:
        """Gradient [D] of one item's mean loss; DivergenceError where the loss is not finite."""
        return self.gradient_and_loss(theta, item)[0]

    def gradient_and_loss(self, theta: Tensor, item: int) -> tuple[Tensor, float]:
        return self.gradient_and_loss_of(theta, keyed_item(self, item), f"item {item}")

    def gradient_and_loss_of(self, theta: Tensor, item: Item, where: str) -> tuple[Tensor, float]:
        """The same of an item of any part of the data set, which messages call `where`."""
        g, loss = derivatives.gradient_and_loss(
            self.objective, theta, item, lambda place, names: self._note_absent(where, names)
        )
        finite(loss, where)
        if not torch.isfinite(g.sum()) and not torch.isfinite(g).all():  # a sum is quick, but may overflow
            self._refuse_gradient(item, where)
        return g, loss

    def _refuse_gradient(self, item: Item, where: str) -> NoReturn:
        """DataError for an item whose gradient is not finite at the starting parameters either, else DivergenceError."""
        start = self.objective.start() if self.state is None else self.state.theta
        if not derivatives.gradient(self.objective, start, item).isfinite().all():
            raise DataError(
                f"{where}: expected a finite gradient at the starting parameters, got NaN or infinity, whatever the rate; look "
                "at its numbers, and at the loss there (a square root or a logarithm at 0)"
            )
        raise DivergenceError(f"{where}: expected a finite gradient, got NaN or infinity; {LOWER}")

    def mean_gradient(self, theta: Tensor, items: Sequence[int], weights: Sequence[float]) -> Tensor:
        """Weighted sum of the items' gradients [D]."""
        return self.mean_gradient_and_loss(theta, items, weights)[0]

    def mean_gradient_and_loss(
        self, theta: Tensor, items: Sequence[int], weights: Sequence[float]
    ) -> tuple[Tensor, float]:
        chosen = [keyed_item(self, i) for i in items]
        g, loss = derivatives.mean_gradient_and_loss(
            self.objective,
            theta,
            chosen,
            weights,
            lambda place, names: self._note_absent(f"item {items[place]}", names),
        )
        return g, finite(loss, f"items {', '.join(map(str, items))}")

    def item_gradients(self, theta: Tensor, items: Sequence[int]) -> Tensor:
        """Gradients of several items' mean losses [n, D]; DivergenceError where one is not finite."""
        return torch.cat(list(item_gradient_chunks(self, theta, items)))

    def product(self, theta: Tensor, item: int, direction: Tensor, exact: bool = True) -> Tensor:
        """Hessian-vector product [D] of one item's loss: exact, or by central difference of two gradients."""
        form = derivatives.hessian_vector if exact else derivatives.hessian_vector_difference
        return form(self.objective, theta, keyed_item(self, item), direction)

    def mean_product(self, theta: Tensor, items: Sequence[int], direction: Tensor, exact: bool) -> Tensor:
        """Hessian-vector product [D] of a step's mean loss: exact, or by central difference of two gradients."""
        of_items = shares(self.config, items)
        if exact and len(set(of_items)) > 1:
            products = (s * self.product(theta, item, direction) for s, item in zip(of_items, items, strict=True))
            return sum(products, torch.zeros_like(theta))
        if exact:
            chosen = [keyed_item(self, i) for i in items]
            return derivatives.hessian_vector_mean(self.objective, theta, chosen, direction)
        with full_precision(self.objective):
            return derivatives.central_difference(lambda at: self.mean_gradient(at, items, of_items), theta, direction)

    def probe_loss(self, theta: Tensor) -> float:
        """The read-out phi: mean loss on the probe set [nats/token]."""
        return derivatives.evaluate(self.objective, theta, self.data.probe)

    def probe_gradient(self, theta: Tensor) -> Tensor:
        """Gradient [D] of the read-out."""
        return derivatives.evaluate_gradient(self.objective, theta, self.data.probe)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run directory pins, field by field."""
        training = self.config.training()
        if not training["data"]["weights"]:
            training["data"].pop("weights")
        training["model"].pop("unit")  # which changes no number
        training.pop("checkpoints")  # nor does this
        if training["model"]["noise"] == "content":
            training["model"].pop("noise")
        if training["model"]["noise_key"] == "item":
            training["model"].pop("noise_key")
        if not training["model"]["autocast"]:
            training["model"].pop("autocast")
        training["data"].pop("text")  # the content hashes below pin the text, wherever the file lies now
        return {
            "config": training,
            "data": self.data.identity(),
            "model": self.objective.identity(),
            "order": self.reference.digest,
        } | ({} if self.state is None else {"state": state_digest(self.state)})

    @cached_property
    def digest(self) -> str:
        """The digest of the identity: every file of a run holds it, so that one of another run is not taken for its own."""
        return fingerprint(self.identity)


def stacks(problem: Problem) -> bool:
    """Whether the reference run's gradients may differ by rounding from sums of the items' own."""
    items = problem.data.items
    return problem.config.data.per_step > 1 or (
        derivatives.run_lock(items) and derivatives.stackable(problem.objective, items)
    )


def keyed_item(problem: Problem, number: int) -> Item:
    """An item with the random numbers that it draws; UsageError where these are a step's and none is said: see `Problem.at`."""
    own = problem.data.items[number]
    return own if problem._keys is None else problem._keys.of(number, own)


def item_gradient_chunks(problem: Problem, theta: Tensor, items: Sequence[int]) -> Iterator[Tensor]:
    """The rows of `Problem.item_gradients`, as many at a time [c, D] as are taken together."""
    for found in derivatives.item_gradient_chunks(problem.objective, theta, [keyed_item(problem, i) for i in items]):
        if not torch.isfinite(found).all():
            raise DivergenceError(
                f"items {items[0]}..{items[-1]}: expected finite gradients, got NaN or infinity; lower schedule.rate"
            )
        yield found


def state_bytes(problem: Problem) -> int:
    """Bytes of a lifted state."""
    numbers = state_size(problem.rule, problem.objective.layout)
    return numbers * problem.objective.dtype.itemsize


def segment_width(steps: int) -> int:
    """Steps of a segment of a training that is repeated in between: ceil(sqrt(T)), of which there are as many, or one fewer."""
    return max(1, math.isqrt(max(steps - 1, 0)) + 1)


def kept_steps(problem: Problem) -> list[int]:
    """Steps before which the reference run's lifted state is kept, ascending; T is after the last."""
    steps, every = problem.config.steps, problem.config.checkpoints.every
    if not every:
        few = state_bytes(problem) * (steps + 1) <= problem.config.checkpoints.bytes
        every = 1 if few else segment_width(steps)
    return sorted({*range(0, steps + 1, every), max(steps - 1, 0), steps})


def unit_of_loss(problem: Problem) -> str:
    """As configured, else nats/token for the built-in loss, and `loss` for one of the user's own."""
    known = problem.config.model.unit or problem._unit
    return known or (NATS if problem.objective.loss_function is next_token_loss else LOSS)


def _tupled(groups: dict[str, list[float]]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    return tuple((name, tuple(listed)) for name, listed in groups.items())


def state_digest(state: State) -> str:
    """SHA-256 of a lifted state: parameters, memory and counters."""
    h = hashlib.sha256(repr(sorted(state.clock.items())).encode())
    for name, tensor in (("theta", state.theta), *sorted(state.memory.items())):
        h.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def reference_order(config: TrainingConfig) -> Order:
    """Step t consumes items t k … (t + 1) k - 1, for k items per step, again in every epoch."""
    data = config.data
    steps = [range(first, first + data.per_step) for first in range(0, data.items, data.per_step)]
    return Order.of(steps * data.epochs)


def finite(loss: float, where: str) -> float:
    """The loss, if it is a finite number."""
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise DivergenceError(f"{where}: expected a finite loss, got {loss}; {LOWER}")
    return loss


def build_problem(
    config: TrainingConfig,
    device: torch.device,
    *,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    data: Dataset | None = None,
    state: State | None = None,
    optimizer: MakeOptimizer | None = None,
) -> Problem:
    """A problem from its configuration; `module`, `loss`, `data` and `optimizer` replace what the configuration describes.

    state: the lifted state [D] before the window, of a training that was recorded in its course; on any device.
    """
    data = (build_dataset(config) if data is None else data).to(device)
    require_weights(config, data)
    module, loss = module_and_loss(config, module, loss, data.names)
    config, own = with_optimizer(config, module, optimizer)
    dtype, recorded = getattr(torch, config.model.dtype), config.model.noise == "recorded"
    autocast = getattr(torch, config.model.autocast) if config.model.autocast else None
    if autocast is not None and dtype != torch.float32:
        raise UsageError(
            f"model.autocast: expected parameters in float32, which alone torch.autocast casts, got model.dtype = "
            f'"{config.model.dtype}"; set one of the two'
        )
    state = None if state is None else state.map(lambda tensor: tensor.to(device))
    return Problem(config, data, Objective(module, loss, device, dtype, recorded, autocast), state, own)


def require_weights(config: TrainingConfig, data: Dataset) -> None:
    """UsageError unless there are as many weights as items, or none."""
    if config.data.weights and len(config.data.weights) != len(data.items):
        raise UsageError(
            f"data.weights: expected a number for each of {len(data.items)} items, got {len(config.data.weights)}; give as many"
        )


def module_and_loss(
    config: TrainingConfig, module: nn.Module | None, loss: Loss | None, names: tuple[str, ...] = ()
) -> tuple[nn.Module, Loss]:
    """What is trained: as given, else as the configuration describes it. names: of an item's tensors, where it is a mapping."""
    if module is None:  # not `module or`: one may have a length, even of 0
        module = build_module(config.model, config.data.vocabulary, config.data.context)
    return module, by_name(build_loss(config.model) if loss is None else loss, names)
