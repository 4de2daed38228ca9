"""Samples: which coordinates matter, by their contributions under simulated orders, and which of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import StreamedAnchors, inclusion_probabilities, poisson_sample
from estimators.control_variates import Bounded
from estimators.orders.order import random_orders
from estimators.replay import OrderBatch
from estimators.state import State
from fut.methods.adjoint.anchors import AnchoredItems
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.replay_curvature import curvature_of
from fut.readouts.readout import make_readouts
from fut.training.checkpoints import read_state

SIMULATED = 1 << 20
"""Added to the expansion's seed for the random orders that are simulated."""


def draw_sample(expansion: Expansion) -> None:
    """Keep coordinates and their probabilities, what is known of true endpoints, and the probe loss at the trajectory's end."""
    end = expansion.trajectory.state(expansion.spec.steps)
    if expansion.spec.whole:
        indices = torch.arange(len(end.theta))
        chosen = torch.ones(len(end.theta), dtype=torch.float64)
    else:
        found = simulated_contributions(expansion, expansion.spec.config.simulated)
        bounded = _keep_tamed(expansion, found) if expansion.spec.controlled else None
        scores = contribution_scores(expansion, found, bounded)
        probabilities = inclusion_probabilities(scores, expansion.spec.expected_coordinates).cpu()
        indices = poisson_sample(probabilities, expansion.spec.config.seed)
        if not len(indices):  # of one coordinate or two, in expectation
            indices = probabilities.argmax()[None]
        chosen = probabilities[indices]
    arrays = {"indices": indices.numpy(), "probabilities": chosen.numpy()}
    arrays["difference_error"] = expansion.sweep.swept.read_array(expansion.spec.steps, "difference_error")
    loss = expansion.problem.probe_loss(end.theta)
    expansion.sampled.write(0, arrays | _known(expansion, end.theta), {"centre_loss": loss})


def _known(expansion: Expansion, centre: Tensor) -> dict[str, np.ndarray]:
    """Functionals of true displacements from the trajectory's end, and their signs; read-outs of an ensemble's own runs."""
    arrays = dict[str, np.ndarray]()
    if expansion.spec.functionals:
        if expansion.end is None:
            raise TypeError(
                "sample: expected the end of the reference run for the functionals' displacements, got none"
            )
        read = expansion.sweep.swept.read_array
        functionals = torch.from_numpy(read(expansion.spec.steps, "functional")).to(centre).double()
        known = functionals @ (expansion.end() - centre).double()
        arrays |= {"signs": read(expansion.spec.steps, "signs"), "known": known.cpu().numpy()}
    if expansion.spec.trajectory.ensemble:
        ends = read_state(expansion.trajectory.runs, expansion.spec.steps, expansion.problem.device).theta
        (first,) = make_readouts(expansion.problem, expansion.spec.names[:1], expansion.user)
        arrays["own_values"] = np.array([first.value(theta) for theta in ends])
        if expansion.spec.functionals:
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
    expansion.bounded.write(
        0, {name: array.cpu().numpy() for name, array in bounded._asdict().items()}, {}, replace=True
    )
    return bounded


class Simulated(NamedTuple):
    """Contributions of every coordinate to n simulated orders: to their read-outs and, of a sample without a control variate,
    functionals, values [n, r + m, D]; else to their entries in the table of positions, for the exact read-outs [n, fine, D], and
    at most in one step, by an item [fine, D]."""

    values: Tensor
    table: Tensor
    largest: Tensor


def simulated_contributions(expansion: Expansion, simulated: int) -> Simulated:
    """Of random orders, by the replay that estimates them, on all coordinates; no gradient is computed anew."""
    problem, steps = expansion.problem, expansion.spec.steps
    gradients = (
        _real_gradients(expansion, simulated) if expansion.spec.of_all else _normal_gradients(expansion, simulated)
    )
    state, centre = expansion.trajectory.start().rows(simulated), expansion.trajectory.state(0)
    r, m = len(expansion.spec.names), 0 if expansion.spec.of_all else expansion.spec.functionals
    total = torch.zeros(simulated, r + m, len(centre.theta), device=problem.device)
    table = torch.zeros(
        simulated, expansion.spec.fine if expansion.spec.of_all else 0, len(centre.theta), device=problem.device
    )
    curvature = curvature_of(expansion) if expansion.spec.rank else None
    ahead, largest = _ahead(expansion) if expansion.spec.of_all else centre.theta[None][:0], table[0].clone()
    for step in range(steps):
        delta = state.theta - centre.theta
        total[:, :r] += delta[:, None] * expansion.sweep.weight(step)
        gradient, before = gradients(step), centre
        plain = gradient
        if curvature is not None:  # as replayed, but for how scarce an item's touch is
            answer = expansion.sweep.answer(step)
            response = curvature(step, delta) * ((gradient != 0) & (answer != 0).any(0))
            total[:, :r] -= response[:, None] * answer
            gradient = gradient + response
        if m:
            total[:, r:] += (plain - expansion.trajectory.gradients_of(step).mean(0))[
                :, None
            ] * expansion.sweep.injection(step)
        centre = expansion.trajectory.state(step + 1)
        if expansion.spec.of_all:
            moved = problem.rule.step(before.rows(simulated), plain, problem.rate(step))[0]
            _place(table, expansion.sweep.costate(step + 1), moved, centre)
        state = problem.rule.step(state, gradient, problem.rate(step))[0]
        if expansion.spec.of_all:
            ahead = ahead - expansion.sweep.weight(step)[: expansion.spec.fine]
            _raise_to(largest, ahead, state.theta - centre.theta - delta)
    largest *= problem.config.data.per_step  # a step's gradient is the mean of its items
    total[:, :r] += (state.theta - centre.theta)[:, None] * expansion.sweep.weight(steps)
    return Simulated(total, table, largest)


def _raise_to(largest: Tensor, ahead: Tensor, moved: Tensor) -> None:
    """Raise, in place, the largest single contributions [fine, D] to what a step's displacements [n, D] are worth."""
    for row, slope in enumerate(ahead):
        largest[row] = torch.maximum(largest[row], (slope * moved).abs().amax(0))


def _ahead(expansion: Expansion) -> Tensor:
    """What a displacement that stays is worth from the first step on, for the exact read-outs [fine, D]: the sum of their
    weights. Summed by parts, an order's contribution is what each step adds to its displacement, times what lies ahead."""
    total = expansion.sweep.weight(expansion.spec.steps)[: expansion.spec.fine]
    for step in range(expansion.spec.steps):
        total = total + expansion.sweep.weight(step)[: expansion.spec.fine]
    return total


def _real_gradients(expansion: Expansion, simulated: int) -> Callable[[int], Tensor]:
    """Gradients [n, D] of what random orders consume at a step, from the anchors."""
    problem = expansion.problem
    orders = random_orders(problem.reference, simulated, expansion.spec.config.seed + SIMULATED)
    batch = OrderBatch.pack([problem.canonical(order) for order in orders], problem.device)
    rows = _kept_rows(expansion) if expansion.spec.whole else AnchoredItems(expansion).rows
    gradients = StreamedAnchors(expansion.spec.anchors, rows)
    return lambda step: gradients.pick(step, batch.at(step))


def _kept_rows(expansion: Expansion) -> Callable[[int, Sequence[int]], Tensor]:
    """Gradients of some items at an anchor, from the terms, which have them on all coordinates."""
    terms = expansion.terms()
    return lambda anchor, items: torch.from_numpy(terms.read_items("gradient", anchor, items)).to(
        expansion.problem.device
    )


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
    previous: Tensor | None = None
    total = torch.zeros(expansion.problem.objective.size, dtype=torch.float64, device=expansion.problem.device)
    for step in range(expansion.spec.steps):
        found = expansion.trajectory.gradients_of(step).double()
        if len(found) > 1:
            total += found.var(0)
        elif previous is not None:
            total += (found[0] - previous).square() / 2  # with one item a step, neighbours in time stand in
        previous = found[0]
    return (total / expansion.spec.steps).sqrt().to(expansion.problem.objective.dtype)
