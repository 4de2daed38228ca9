"""The reference trainer, and true retraining under any order: one code path, the rules that the estimators replay."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from estimators.replay import Listener, OrderBatch, RuleTransition, TrueGradients, replay
from estimators.rules.memory import reused
from estimators.state import State
from fut.divergence import named
from fut.errors import UsageError
from fut.models.autodiff import item_loss
from fut.models.objective import Objective
from fut.progress import Progress, silent
from fut.training.checkpoints import attributes_of, pack, read_state
from fut.training.curvature import item_curvature, true_gradients, warmup_curvature
from fut.training.problem import Problem, finite, kept_steps, keyed_item
from fut.training.stepwise import Stepwise
from fut.training.weights import weighed
from storage import CheckpointStore

WARMUP_SAVE_EVERY = 25


@dataclass(frozen=True)
class Retrained:
    """The truth about one order. loss: phi(gamma_T) [nats/token]; theta: the endpoint [D]; seconds: wall clock."""

    loss: float
    theta: Tensor
    seconds: float
    objective: Objective | None = field(default=None, repr=False, compare=False)

    def state_dict(self) -> dict[str, Tensor]:
        """The endpoint as tensors by name, as `module.load_state_dict` takes them; UsageError for one that no run gave."""
        if self.objective is None:
            raise UsageError("retrained: expected a result of `run.retrain`, got one without its module; ask the run")
        return self.objective.state_dict(self.theta)


def train_order(problem: Problem, start: State, order: Order, listener: Listener | None = None) -> Retrained:
    """Really train in the given order from a lifted state [D]; the same order gives the same bytes.

    Raises:
        DivergenceError: naming the order, where a loss or a gradient is not finite.
    """
    return train_order_at(problem, start, order, (), listener)[0]


def train_order_at(
    problem: Problem, start: State, order: Order, at: Collection[int], listener: Listener | None = None
) -> tuple[Retrained, dict[int, Retrained]]:
    """The same, and by step what the order's first steps come to: as if they were trained alone, bit for bit.

    Args:
        problem: what is trained.
        start: the lifted state [D] before the window.
        order: what is consumed, weights of items as given.
        at: after how many steps.
        listener: hears of every step.

    Raises:
        DivergenceError: as `train_order`.
    """
    _ = problem.objective.call  # a model that is yet to be built is no part of the training
    began, after = time.perf_counter(), dict[int, Retrained]()
    gradients = Stepwise(problem, true_gradients)
    transition = RuleTransition(problem.rule, problem.rate, gradients)
    batch = OrderBatch.pack([weighed(problem, order)], problem.device)

    def result(theta: Tensor, seconds: float) -> Retrained:
        return Retrained(finite(problem.probe_loss(theta), "probe set after training"), theta, seconds)

    def hear(step: int, state: State) -> None:
        if step in at:
            after[step] = result(state.theta[0].clone(), time.perf_counter() - began)
        if listener is not None:
            listener(step, state)

    try:
        with reused():
            theta = replay(transition, start.rows(1), batch, listener=hear).theta[0]
        return result(theta, time.perf_counter() - began), after
    except DivergenceError as error:
        raise DivergenceError(f"order {named(order)}: it diverges: {error}") from error


def warm_up(problem: Problem, directory: Path, progress: Progress = silent) -> State:
    """The lifted state before the window, stacked for one run; resumes from its own last save."""
    if problem.state is not None:
        return problem.state.rows(1)
    config, items = problem.config.warmup, problem.data.warmup
    store = CheckpointStore(directory, problem.digest)
    done = max(store.steps(), default=0)
    state = (
        read_state(store, done, problem.device).rows(1) if done else problem.rule.init(problem.objective.start()[None])
    )
    if not items:
        return state

    def gradient(theta: Tensor, item: int) -> Tensor:
        return problem.gradient_and_loss_of(theta, items[item], f"warm-up step {item}")[0]

    def save(step: int, state: State) -> None:
        if step % WARMUP_SAVE_EVERY == 0 and step < len(items):
            store.write(step, pack(state), attributes_of(state))
            for old in store.steps():
                if old < step:
                    store.remove(old)

    def rate(step: int) -> float:
        return config.rate * min(1.0, (step + 1) / config.ramp)

    with progress("warm-up", len(items) - done) as tick, reused():

        def listener(step: int, state: State) -> None:
            save(step, state)
            tick()

        transition = RuleTransition(problem.rule, rate, TrueGradients(gradient, curvature=warmup_curvature(problem)))
        batch = OrderBatch.pack([warmup_order(problem)], problem.device)
        return replay(transition, state, batch, done, listener)


def warmup_order(problem: Problem) -> Order:
    """One item a step; for a rule that needs several items in a step as many as a step of the window has, so that each stands in
    as many steps in a row."""
    count = len(problem.data.warmup)
    width = min(problem.config.data.per_step, count) if "micro_batches" in problem.rule.signals else 1
    return Order.of([[(step + i) % count for i in range(width)] for step in range(count)])


def trained_on(problem: Problem, state: State, first: int, last: int) -> State:
    """The reference run's lifted state [D] before step `last`, trained again from that before an earlier step."""
    gradients, _ = _recording(problem)
    transition = RuleTransition(problem.rule, problem.rate, gradients)
    batch = OrderBatch.pack([weighed(problem, problem.reference)], problem.device)
    for step in range(first, last):
        state = transition(step, batch.at(step), state.rows(1)).row(0)
    return state


def _recording(problem: Problem) -> tuple[Stepwise, list[float]]:
    """The gradients that training takes, and the losses of those of the latest step: of their mean, or of each of its items."""
    losses: list[float] = []

    def kept(found: tuple[Tensor, float]) -> Tensor:
        losses.append(found[1])
        return found[0]

    def make(at: Problem) -> TrueGradients:
        def mean(theta: Tensor, items: Sequence[int], weights: Sequence[float]) -> Tensor:
            return kept(at.mean_gradient_and_loss(theta, items, weights))

        def one(theta: Tensor, item: int) -> Tensor:
            return kept(at.gradient_and_loss(theta, item))

        return TrueGradients(one, mean, item_curvature(at))

    return Stepwise(problem, make), losses


def step_loss(problem: Problem, theta: Tensor, step: int) -> float:
    """Training loss of a step of the reference order at parameters theta [D]: that of training, but for rounding."""
    picks = OrderBatch.pack([weighed(problem, problem.reference)], problem.device).at(step)
    pairs = zip(picks.items[0].tolist(), picks.weights[0].tolist(), strict=True)
    at = problem.at(step)
    losses = [w * item_loss(problem.objective, theta, keyed_item(at, item)) for item, w in pairs if w]
    return float(sum(losses))


def train_reference(problem: Problem, checkpoints: CheckpointStore, warmup: Path, progress: Progress = silent) -> None:
    """Train in the reference order, with checkpoints of the lifted state before the steps that are kept and after the last.

    Resumes after the last whole checkpoint. Each checkpoint records the training loss of the step that led to it, the mean
    over its items.
    """
    done = max(checkpoints.steps(), default=-1)
    if done < 0:
        state = warm_up(problem, warmup, progress)
        checkpoints.write(0, pack(state), attributes_of(state))
        done = 0
    else:
        state = read_state(checkpoints, done, problem.device).rows(1)
    gradients, losses = _recording(problem)
    kept = set(kept_steps(problem))

    def save(step: int, state: State) -> None:
        loss = sum(losses) / len(losses) if losses else math.nan
        losses.clear()
        if step in kept:
            checkpoints.write(step, pack(state), attributes_of(state, train_loss=loss))

    with progress("reference run", problem.config.steps - done) as tick, reused():

        def listener(step: int, state: State) -> None:
            save(step, state)
            tick()

        transition = RuleTransition(problem.rule, problem.rate, gradients)
        batch = OrderBatch.pack([weighed(problem, problem.reference)], problem.device)
        replay(transition, state, batch, done, listener)
