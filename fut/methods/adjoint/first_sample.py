"""A sample of coordinates that is drawn before the backward pass, so that of the pass nothing of whole size is stored a step.

What is known then: how far a step's own gradients move each coordinate apart, along the trajectory, and the read-outs' slopes at
its end. Any probabilities leave the estimate unbiased (Horvitz and Thompson 1952), with the variance over independent draws

    sum_d (c_d - t_d)² (1 - p_d) / p_d

for what coordinates contribute, c_d, beyond their control variate, t_d. It is least for p_d in proportion to |c_d - t_d|, which
costates alone would tell: slope times spread is a guess at it, and so coordinates have shares that go with spread alone, with
nothing, and with their tensor's being one of so many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import inclusion_probabilities, poisson_sample
from estimators.control_variates import WIDE, Bounded
from estimators.rules.base import next_state
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.sampling import known_ends

SPREAD, TENSORS = 0.1, 0.05
"""Shares of the expected sample that go with spread alone, and that are divided evenly among tensors."""


class Updates(NamedTuple):
    """How far a step's gradients move coordinates apart. square: sum over steps of mean squares [D], float64; largest: of one
    gradient in one step [D]."""

    square: Tensor
    largest: Tensor


def measure_updates(expansion: Expansion, segment: Sequence[int]) -> None:
    """Add a segment of steps, which are at hand, to what is known of updates; nothing where it is added, or does not follow."""
    store, problem, trajectory = expansion.updates, expansion.problem, expansion.trajectory
    if (store.read_attributes(0)["reached"] if store.has(0) else 0) != segment[0]:
        return
    start = problem.objective.start()
    square, largest = torch.zeros_like(start, dtype=torch.float64), torch.zeros_like(start)
    if segment[0]:
        square, largest = _read_updates(expansion)
    for step in segment:
        before, gradients = trajectory.state(step), trajectory.gradients_of(step)
        moved = (
            next_state(problem.rule, before.rows(len(gradients)), gradients, problem.rate(step)).theta - before.theta
        )
        if len(moved) > 1:
            moved -= moved.mean(0)
        square = square + moved.double().square().mean(0)  # not in place: what is read may be what is held
        largest = torch.maximum(largest, moved.abs().amax(0))
    store.put(0, Updates(square, largest)._asdict(), {"reached": segment[-1] + 1})


def updates_of(expansion: Expansion) -> Updates:
    """Those of the whole window, measured where they are not known."""
    for segment in expansion.trajectory.segments:
        measure_updates(expansion, segment)
    return _read_updates(expansion)


def _read_updates(expansion: Expansion) -> Updates:
    read, device = expansion.updates.tensor, expansion.problem.device
    return Updates(*(read(0, name, device) for name in Updates._fields))


def first_probabilities(expansion: Expansion, slopes: Tensor) -> Tensor:
    """Inclusion probabilities [D], float64. slopes: of read-outs, then of functionals, at the end [r + m, D]."""
    spec, spread = expansion.spec, updates_of(expansion).square.sqrt()
    parts = [slopes[: len(spec.names)]] + ([slopes[len(spec.names) :]] if spec.functionals and not spec.of_all else [])
    guessed = torch.stack([torch.stack([_shares(row.double().abs() * spread) for row in p]).mean(0) for p in parts])
    sizes = torch.tensor([int(np.prod(shape)) for shape in expansion.problem.objective.layout.shapes])
    of_tensors = (1.0 / (len(sizes) * sizes.double())).repeat_interleave(sizes).to(spread)
    scores = (1 - SPREAD) * guessed.mean(0) + SPREAD * _shares(spread)
    scores = (1 - TENSORS) * scores + TENSORS * of_tensors
    return inclusion_probabilities(scores, spec.expected_coordinates)


def _shares(scores: Tensor) -> Tensor:
    return scores / scores.sum().clamp(min=torch.finfo(scores.dtype).tiny)


def draw_first(expansion: Expansion, slopes: Tensor, known: dict[str, np.ndarray]) -> None:
    """Keep coordinates and their probabilities, what is known of true endpoints, and the probe loss at the trajectory's end.

    slopes: as `first_probabilities` takes them. known: `difference_error`, and where there are functionals their signs.
    """
    spec, problem = expansion.spec, expansion.problem
    probabilities = first_probabilities(expansion, slopes).cpu()
    indices = poisson_sample(probabilities, spec.config.seed)
    if not len(indices):  # of one coordinate or two, in expectation
        indices = probabilities.argmax()[None]
    theta = expansion.trajectory.state(spec.steps).theta
    arrays = {"indices": indices.numpy(), "probabilities": probabilities[indices].numpy()} | known
    arrays |= known_ends(expansion, theta, slopes[len(spec.names) :])
    expansion.sampled.write(0, arrays, {"centre_loss": problem.probe_loss(theta)}, replace=True)


class Ahead(NamedTuple):
    """What a displacement that stays is worth, for the exact read-outs, after the step that is swept next: slopes [fine, D], and
    the largest that they are in any later step [fine, D]."""

    slope: Tensor
    reach: Tensor

    def before(self, weight: Tensor) -> Ahead:
        """The same a step earlier. weight: w_t [fine, D] of the step between."""
        slope = self.slope + weight
        return Ahead(slope, torch.maximum(self.reach, slope.abs()))

    def bounded(self, largest: Tensor, per_step: int) -> Bounded:
        """How a step's entries of the table of positions are taken: within `WIDE` times what an item's update there can be worth.

        largest: of `Updates`, of the mean of `per_step` items.
        """
        bound = (WIDE * per_step * largest * self.reach).double()
        return Bounded(torch.ones_like(bound), bound)
