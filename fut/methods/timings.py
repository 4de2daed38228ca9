"""Seconds of what every stage is made of, measured here, once; and what a stage costs before it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from estimators.adjoint import Anchored, AnchoredGradients, DualTransition
from estimators.orders.order import random_orders
from estimators.replay import OrderBatch, RuleTransition
from estimators.rules.base import next_state
from estimators.rules.signals import NONE, alike
from estimators.state import State
from fut.methods.footprint import Footprint, numbers, timed
from fut.models import autodiff as derivatives
from fut.training.problem import Problem

BLOCK, LEAST = {"cpu": 1 << 16, "cuda": 1 << 26}, 512
"""Numbers of one buffer that a batch replays at once, by the kind of device, and the least width of a block: as many as stay in a
core's cache, and as many as keep a GPU busy."""


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage. gradients: evaluations (a Hessian-vector product counts two); seconds: wall clock here.

    kept_bytes: stay on disk; scratch_bytes: on disk until the expansion is complete; host_bytes, device_bytes: of memory, at the
    stage's height, beyond what the process starts with; on the CPU all of it is the host's.
    """

    stage: str
    gradients: int
    seconds: float
    kept_bytes: int
    scratch_bytes: int
    host_bytes: int
    device_bytes: int = 0

    @property
    def memory(self) -> int:
        """Bytes of the memory that numbers are computed in: the device's, else the host's."""
        return self.device_bytes or self.host_bytes


@dataclass(frozen=True)
class Strategy:
    """What a preparation costs as a whole, one way of storing its scratch.

    Args:
        preparation: its name.
        storage, drawn: as the settings of these names have it.
        chosen: whether it is the configured way.
        gradients, seconds, kept_bytes, scratch_bytes: the sums over its stages.
        host_bytes, device_bytes: the most of any stage.
    """

    preparation: str
    storage: str
    drawn: str
    chosen: bool
    gradients: int
    seconds: float
    kept_bytes: int
    scratch_bytes: int
    host_bytes: int
    device_bytes: int


class Timings:
    """Seconds on one problem, each measured when it is first asked for."""

    def __init__(self, footprint: Footprint) -> None:
        self.footprint = footprint

    @property
    def problem(self) -> Problem:
        return self.footprint.problem

    @cached_property
    def gradient(self) -> float:
        """Seconds of one gradient of the largest item."""
        of, theta = self.problem.objective, self.footprint.theta
        return timed(lambda: derivatives.gradient(of, theta, self.footprint.largest).sum().item())

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
        signals = alike(theta) if rule.signals else NONE
        return timed(lambda: next_state(rule, state, theta, self.problem.rate(0), signals=signals).theta.sum().item())

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

    @cached_property
    def product(self) -> float:
        """Seconds of one Hessian-vector product as replay takes it at query time."""
        of, theta = self.problem.at(0), self.footprint.theta
        return timed(lambda: of.product(theta, 0, theta).sum().item())

    def replayed(self, orders: int, coordinates: int) -> float:
        """Seconds of one step of a replay, per order and coordinate, in a batch of `orders` of so many coordinates."""
        width, problem = min(max(LEAST, BLOCK[self.problem.device.type] // orders), coordinates), self.problem
        block = problem.rule.blocks(problem.objective.size, width)[0]
        rule, width = problem.rule.restrict(block), block.stop
        table = self.footprint.theta[block].expand(problem.config.data.items, -1).clone()
        gradients = AnchoredGradients(Anchored([0], lambda a: table))
        inner = RuleTransition(rule, problem.rate, gradients)
        dual = DualTransition(inner, lambda t: table[0], lambda t: table[:1])
        start = dual.start(rule.init(table[0]).rows(orders), 1)
        picks = OrderBatch.pack(random_orders(problem.reference, orders, 0), problem.device).at(0)

        def step() -> None:
            theta = dual(0, picks, start).theta
            if theta.device.type == "cuda":
                torch.cuda.synchronize(theta.device)  # until it is computed

        seconds: float = timed(step) / (orders * width)
        return seconds

    def training(self, orders: int = 1) -> float:
        """Seconds of so many retrainings."""
        steps = self.problem.config.steps
        return orders * (steps * (self.gradient + self.step) + self.probe)


def seconds_per_gradient(problem: Problem, state: State) -> float:
    """Seconds of one gradient here, the faster of two."""
    return timed(lambda: problem.at(0).gradient(state.theta, 0).sum().item())
