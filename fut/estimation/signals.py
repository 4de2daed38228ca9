"""Signal and noise of a run's gradients by module, at some of its steps: from items' gradients, and from Adam's moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from estimators.errors import RuleError
from estimators.modules import module_coordinates
from estimators.moment_intervals import memory_of, noise_shape, with_interval
from estimators.noise.kernel import impulse_kernels
from estimators.rules.clipping import clip_gradient
from estimators.signal_noise import SignalNoise, of_gradients, of_moments, pooled
from estimators.state import State
from fut.resources.memory import require_memory

if TYPE_CHECKING:
    from fut.methods.context import Context

POOLED = 8
"""States whose moments are pooled for a point, spread over the steps since the last one."""


@dataclass(frozen=True)
class StepSignals:
    """Signal and noise of the mean gradient of a step, by module.

    Args:
        step: whose parameters they are at.
        gradients: from gradients of items drawn at random, with intervals.
        moments: from Adam's moments in the states since the last point; empty for rules without such moments, and before two
            steps. Their intervals are by the sampling law of the ratio.
        floor_shares: each module's share of the variance that the order gives the parameters, to first order; None where the
            update rule has no impulse weights there.
    """

    step: int
    gradients: Mapping[str, SignalNoise]
    moments: Mapping[str, SignalNoise]
    floor_shares: Mapping[str, float] | None


class RunSignals:
    """The signal and the noise of a run's gradients.

    Args:
        run: the opened run.
    """

    def __init__(self, run: Context) -> None:
        self._run, self._problem = run, run.problem

    @cached_property
    def modules(self) -> dict[str, Tensor]:
        """Coordinates of every module, by name."""
        return module_coordinates(self._problem.objective.layout)

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of every module."""
        return {module: len(numbers) for module, numbers in self.modules.items()}

    def at(self, steps: Sequence[int], count: int, seed: int, tick: Callable[[], object]) -> list[StepSignals]:
        """At some steps, ascending.

        Args:
            steps: from 0 to T.
            count: items that gradients are taken of, at each step others.
            seed: of their draw.
            tick: called after every gradient.

        Raises:
            ResourceError: where that many gradients do not fit into memory.
        """
        needed = 3 * count * self._run.parameters * torch.finfo(self._problem.objective.dtype).bits // 8
        require_memory("snr", needed, self._problem.device, "take fewer gradients (--gradients)")
        found, last = [], 0
        for step in steps:
            state = self._run.state(step)
            own = self._gradients(state, step, self._drawn(count, seed, step), tick)
            by_item = {module: of_gradients(own[:, numbers]) for module, numbers in self.modules.items()}
            shares = self._floor_shares(state, own, min(step, self._run.steps - 1))
            found.append(StepSignals(step, self._of_steps(by_item), self._moments(last, step, own), shares))
            last = step
        return found

    def _drawn(self, count: int, seed: int, step: int) -> list[int]:
        """Different items where there are as many."""
        draw = np.random.default_rng([seed, step])
        items: list[int] = draw.choice(self._run.items, min(count, self._run.items), replace=False).tolist()
        return items

    def _gradients(self, state: State, step: int, items: Sequence[int], tick: Callable[[], object]) -> Tensor:
        rows, problem = [], self._problem.at(step)
        for item in items:
            rows.append(problem.gradient(state.theta, item))
            tick()
        return clip_gradient(self._problem.rule.clip, torch.stack(rows))

    def _of_steps(self, by_item: Mapping[str, SignalNoise]) -> dict[str, SignalNoise]:
        """Of the mean of a step's items, whose noise is a k-th of an item's."""
        k = self._run.config.data.per_step

        def mean(one: SignalNoise) -> SignalNoise:
            ends = None if one.interval is None else (k * one.interval[0], k * one.interval[1])
            return SignalNoise(one.signal, one.noise / k, ends)

        return {module: mean(one) for module, one in by_item.items()}

    def _moments(self, last: int, step: int, gradients: Tensor) -> dict[str, SignalNoise]:
        """Pooled over states since the last point, without it; of the point alone where there are none.

        Intervals take the shape of the noise from gradients of items at the point.
        """
        places = {round(float(place)) for place in np.linspace(last, step, POOLED + 1)[1:]} if step > last else {step}
        states = [self._run.state(place) for place in sorted(places)]
        terms = [(state, of_moments(self._problem.rule, state)) for state in states]
        known = [(state, pair) for state, pair in terms if pair is not None]
        found = {}
        for module, numbers in self.modules.items():
            sums = [(float(s[numbers].nansum()), float(n[numbers].nansum())) for _, (s, n) in known]
            if sums and any(noise for _, noise in sums):
                one = pooled([SignalNoise(signal, noise) for signal, noise in sums])
                found[module] = self._with_interval(one, numbers, [state for state, _ in known], gradients)
        return found

    def _with_interval(
        self, one: SignalNoise, numbers: Tensor, states: Sequence[State], gradients: Tensor
    ) -> SignalNoise:
        """A module's ratio by moments with its interval; without one where its groups' memories differ."""
        memories = [memory_of(self._problem.rule, state, numbers) for state in states]
        known = [memory for memory in memories if memory is not None]
        if len(known) < len(memories):
            return one
        shape = noise_shape(gradients[:, known[-1][1]])
        if shape is None:
            return one
        return with_interval(one, [memory for memory, _ in known], shape.of_mean(self._run.config.data.per_step))

    def _floor_shares(self, state: State, gradients: Tensor, step: int) -> dict[str, float] | None:
        """By the weight of a single step, whose preconditioner is that of its average item."""
        try:
            kernels = impulse_kernels(self._problem.rule, state, [self._problem.rate(step)], gradients.square().mean(0))
        except RuleError:
            return None
        variances = torch.zeros(gradients.shape[1], dtype=torch.float64)
        for kernel in kernels:
            weight = kernel.weights[0].to(gradients) if kernel.averaged is None else kernel.averaged[0]
            own = (weight * kernel.clipped(gradients)).double().var(0)
            widths = [variances[place].shape[-1] for place in kernel.places]
            for place, part in zip(kernel.places, own.cpu().split(widths), strict=True):
                variances[place] = part
        total = float(variances.sum())
        if not total:
            return None
        return {module: float(variances[numbers].sum()) / total for module, numbers in self.modules.items()}
