"""Samples: which coordinates matter, by their contributions under simulated orders, and which of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import StreamedAnchors, inclusion_probabilities, poisson_sample
from estimators.control_variates import Bounded
from estimators.orders.order import Order, random_orders
from estimators.replay import OrderBatch
from estimators.rules.base import next_state
from estimators.state import State
from fut.methods.adjoint.anchors import AnchoredItems
from fut.methods.adjoint.files import FEW, Expansion
from fut.methods.adjoint.replay_curvature import curvature_of
from fut.methods.adjoint.spec import thins
from fut.readouts.readout import make_readouts
from fut.training.weights import weighed

SIMULATED = 1 << 20
"""Added to the expansion's seed for the random orders that are simulated."""


def draw_sample(expansion: Expansion) -> None:
    """Keep coordinates and their probabilities, what is known of true endpoints, and the probe loss at the trajectory's end."""
    spec, theta = expansion.spec, expansion.trajectory.state(expansion.spec.steps).theta
    if spec.whole:
        probabilities, indices = torch.ones(len(theta), dtype=torch.float64), torch.arange(len(theta))
    else:
        found = simulated_contributions(expansion, spec.config.simulated)
        bounded = _keep_tamed(expansion, found) if spec.controlled else None
        scores = contribution_scores(expansion, found, bounded)
        probabilities = inclusion_probabilities(scores, spec.expected_coordinates).cpu()
        indices = poisson_sample(probabilities, spec.config.seed)
        if not len(indices):  # of one coordinate or two, in expectation
            indices = probabilities.argmax()[None]
    arrays = {"indices": indices.numpy(), "probabilities": probabilities[indices].numpy()}
    arrays["difference_error"] = expansion.sweep.swept.read_array(spec.steps, "difference_error")
    loss = expansion.problem.probe_loss(theta)
    rows = torch.zeros(0, len(theta))
    if spec.functionals:
        arrays["signs"] = expansion.sweep.swept.read_array(spec.steps, "signs")
        rows = torch.from_numpy(expansion.sweep.swept.read_array(spec.steps, "functional")).to(theta)
    said = {"centre_loss": loss} | ({FEW: 1} if thins(spec) else {})
    expansion.sampled.write(0, arrays | known_ends(expansion, theta, rows), said)


def known_ends(expansion: Expansion, centre: Tensor, rows: Tensor) -> dict[str, np.ndarray]:
    """Functionals of true displacements from the trajectory's end [D], and read-outs of an ensemble's own runs.

    rows: the functionals' [m, D].
    """
    arrays, spec = dict[str, np.ndarray](), expansion.spec
    if spec.functionals:
        if expansion.end is None:
            raise TypeError(
                "sample: expected the end of the reference run for the functionals' displacements, got none"
            )
        functionals = rows.double()
        arrays["known"] = (functionals @ (expansion.end() - centre).double()).cpu().numpy()
    if spec.trajectory.ensemble:
        ends = expansion.trajectory.ends().theta
        (first,) = make_readouts(expansion.problem, spec.names[:1], expansion.user)
        taken = ends if spec.ends[0] == spec.steps else expansion.trajectory.places(spec.ends[0])
        arrays["own_values"] = np.array([first.value(theta) for theta in taken])
        if spec.functionals:
            arrays["own"] = ((ends - centre).double() @ functionals.T).cpu().numpy()
    return arrays


def contribution_scores(expansion: Expansion, found: Simulated, bounded: Bounded | None) -> Tensor:
    """E|contribution| of every coordinate [D].

    Of a fine read-out what its control variate leaves of it. The mean over read-outs, and as much again for functionals whose
    table is of the sample, each scaled to a total of 1 first, so that none counts more for being in larger units.
    """
    fine, readouts, scores = found.table.shape[1], len(expansion.spec.names), []
    for row in range(found.values.shape[1]):
        left = found.values[:, row].double()
        if row < fine and bounded is not None:
            left -= bounded.share[row] * found.table[:, row]
        score = left.abs().mean(dim=0)
        scores.append(score / score.sum().clamp(min=torch.finfo(score.dtype).tiny))
    parts = [torch.stack(part).mean(dim=0) for part in (scores[:readouts], scores[readouts:]) if part]
    return torch.stack(parts).mean(dim=0)


def bounded_tables(expansion: Expansion) -> Bounded:
    """How the exact read-outs' tables are taken by their control variates; scratch, computed again where it is not there."""
    if not expansion.bounded.has(0):
        _keep_tamed(expansion, simulated_contributions(expansion, expansion.spec.config.simulated))
    read, device = expansion.bounded.read_array, expansion.problem.device
    return Bounded(*(torch.from_numpy(read(0, name)).to(device) for name in Bounded._fields))


def _keep_tamed(expansion: Expansion, found: Simulated) -> Bounded:
    bounded = Bounded.of(found.values[:, : expansion.spec.fine], found.table, found.largest)
    arrays = {name: array.cpu().numpy() for name, array in bounded._asdict().items()}
    expansion.bounded.write(0, arrays, {}, replace=True)
    return bounded


class Simulated(NamedTuple):
    """Contributions of every coordinate to n simulated orders: to their read-outs and, of a sample without a control variate,
    functionals, values [n, r + m, D]; else to their entries in the table of positions, for the exact read-outs [n, fine, D], and
    at most in one step, by an item [fine, D]."""

    values: Tensor
    table: Tensor
    largest: Tensor


def simulated_contributions(expansion: Expansion, simulated: int, orders: Sequence[Order] = ()) -> Simulated:
    """Of so many random orders, by the replay that estimates them, on all coordinates; no gradient is computed anew.

    orders: in place of random ones, where item gradients are known on all coordinates.
    """
    problem, spec, sweep, trajectory = expansion.problem, expansion.spec, expansion.sweep, expansion.trajectory
    drawn = orders or random_orders(problem.reference, simulated, spec.config.seed + SIMULATED)
    gradients = _real_gradients(expansion, drawn) if spec.of_all else _normal_gradients(expansion, simulated)
    state, centre = trajectory.start().rows(simulated), trajectory.state(0)
    size, r = len(centre.theta), len(spec.names)
    m, fine = (0, spec.fine) if spec.of_all else (spec.functionals, 0)
    total = torch.zeros(simulated, r + m, size, device=problem.device)
    table = torch.zeros(simulated, fine, size, device=problem.device)
    largest = torch.zeros_like(table[0])
    # What a displacement that stays is worth from the first step on, for the exact read-outs [fine, D]. Summed by parts, an
    # order's contribution is what each step adds to its displacement, times what lies ahead.
    ahead = (
        sum((sweep.weight(t)[:fine] for t in range(spec.steps)), sweep.weight(spec.steps)[:fine]) if fine else largest
    )
    curvature = curvature_of(expansion) if spec.rank else None
    for step in range(spec.steps):
        delta = state.theta - centre.theta
        total[:, :r] += delta[:, None] * sweep.weight(step)
        gradient, before = gradients(step), centre
        plain = gradient
        if curvature is not None:  # as replayed, but for how scarce an item's touch is
            answer = sweep.answer(step)
            response = curvature(step, delta) * ((gradient != 0) & (answer != 0).any(0))
            total[:, :r] -= response[:, None] * answer
            gradient = gradient + response
        if m:
            total[:, r:] += (plain - trajectory.gradients_of(step).mean(0))[:, None] * sweep.injection(step)
        centre = trajectory.state(step + 1)
        if fine:
            moved = next_state(problem.rule, before.rows(simulated), plain, problem.rate(step))
            _place(table, sweep.costate(step + 1), moved, centre)
        state = next_state(problem.rule, state, gradient, problem.rate(step))
        if fine:
            ahead = ahead - sweep.weight(step)[:fine]
            for row, slope in enumerate(ahead):
                worth = (slope * (state.theta - centre.theta - delta)).abs().amax(0)
                largest[row] = torch.maximum(largest[row], worth)
    largest *= problem.config.data.per_step  # a step's gradient is the mean of its items
    total[:, :r] += (state.theta - centre.theta)[:, None] * sweep.weight(spec.steps)
    return Simulated(total, table, largest)


def _real_gradients(expansion: Expansion, orders: Sequence[Order]) -> Callable[[int], Tensor]:
    """Gradients [n, D] of what orders consume at a step, from the anchors."""
    problem = expansion.problem
    batch = OrderBatch.pack([weighed(problem, order) for order in orders], problem.device)
    rows = AnchoredItems(expansion).rows
    if expansion.spec.whole:  # the terms have them on all coordinates
        read = expansion.terms().read_items
        rows = lambda anchor, items: torch.from_numpy(read("gradient", anchor, items)).to(problem.device)  # noqa: E731
    gradients = StreamedAnchors(expansion.spec.anchors, rows)
    return lambda step: gradients.pick(step, batch.at(step))


def _normal_gradients(expansion: Expansion, simulated: int) -> Callable[[int], Tensor]:
    """Normal gradients [n, D] around a step's mean, with the spread between items seen along it: where item gradients on
    all coordinates are not kept."""
    draw, spread = torch.Generator().manual_seed(expansion.spec.config.seed + 1), gradient_spread(expansion)

    def gradients(step: int) -> Tensor:
        noise = torch.randn((simulated, len(spread)), generator=draw).to(spread)
        return expansion.trajectory.gradients_of(step).mean(0) + spread * noise

    return gradients


def _place(table: Tensor, costate: State, moved: State, centre: State) -> None:
    """Add a step's entries in the table of positions [n, fine, D]."""
    for row, slope in enumerate(costate.theta):
        table[:, row] += slope * (moved.theta - centre.theta)
        for name, buffer in costate.memory.items():
            table[:, row] += buffer[row] * (moved.memory[name] - centre.memory[name])


def gradient_spread(expansion: Expansion) -> Tensor:
    """Standard deviation of item gradients about their step's mean [D], pooled over the window."""
    problem = expansion.problem
    previous: Tensor | None = None
    total = torch.zeros(problem.objective.size, dtype=torch.float64, device=problem.device)
    for step in range(expansion.spec.steps):
        gradients = expansion.trajectory.gradients_of(step).double()
        if len(gradients) > 1:
            total += gradients.var(0)
        elif previous is not None:
            total += (gradients[0] - previous).square() / 2  # with one item a step, neighbours in time stand in
        previous = gradients[0]
    return (total / expansion.spec.steps).sqrt().to(problem.objective.dtype)
