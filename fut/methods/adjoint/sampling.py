"""Samples: which coordinates matter, by their contributions under simulated orders, and which of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import StreamedAnchors, inclusion_probabilities, poisson_sample
from estimators.control_variates import Tamed
from estimators.orders.order import random_orders
from estimators.replay import OrderBatch
from estimators.state import State
from fut.methods.expansion.anchors import AnchoredItems
from fut.readouts.readout import make_readouts
from fut.training.checkpoints import read_state

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


ALL_UP_TO = 1 << 17
"""Parameters of a model of which all coordinates are kept, where nothing else is configured."""


SIMULATED = 1 << 20
"""Added to the expansion's seed for the random orders that are simulated."""


def draw_sample(expansion: Expansion) -> None:
    """Keep coordinates and their probabilities, what is known of true endpoints, and the probe loss at the centre's end."""
    end = expansion.state(expansion.steps)
    if expansion.whole:
        indices = torch.arange(len(end.theta))
        chosen = torch.ones(len(end.theta), dtype=torch.float64)
    else:
        found = simulated_contributions(expansion, expansion.config.simulated)
        tamed = _keep_tamed(expansion, found) if expansion.controlled else None
        scores = contribution_scores(expansion, found, tamed)
        probabilities = inclusion_probabilities(scores, expansion.expected_coordinates).cpu()
        indices = poisson_sample(probabilities, expansion.config.seed)
        if not len(indices):  # of one coordinate or two, in expectation
            indices = probabilities.argmax()[None]
        chosen = probabilities[indices]
    arrays = {"indices": indices.numpy(), "probabilities": chosen.numpy()}
    arrays["difference_error"] = expansion.swept.read_array(expansion.steps, "difference_error")
    loss = expansion.problem.probe_loss(end.theta)
    expansion.sampled.write(0, arrays | _known(expansion, end.theta), {"centre_loss": loss})


def _known(expansion: Expansion, centre: Tensor) -> dict[str, np.ndarray]:
    """Functionals of true displacements from the centre's end, and their signs; read-outs of an ensemble's own runs."""
    arrays = dict[str, np.ndarray]()
    if expansion.functionals:
        if expansion.end is None:
            raise TypeError(
                "sample: expected the end of the reference run for the functionals' displacements, got none"
            )
        read = expansion.swept.read_array
        functionals = torch.from_numpy(read(expansion.steps, "functional")).to(centre).double()
        known = functionals @ (expansion.end() - centre).double()
        arrays |= {"signs": read(expansion.steps, "signs"), "known": known.cpu().numpy()}
    if expansion.ensemble:
        ends = read_state(expansion.runs, expansion.steps, expansion.problem.device).theta
        (first,) = make_readouts(expansion.problem, expansion.names[:1], expansion.user)
        arrays["own_values"] = np.array([first.value(theta) for theta in ends])
        if expansion.functionals:
            arrays["own"] = ((ends - centre).double() @ functionals.T).cpu().numpy()
    return arrays


def contribution_scores(expansion: Expansion, found: Simulated, tamed: Tamed | None) -> Tensor:
    """E|contribution| of every coordinate [D].

    Of a fine read-out what its control variate leaves of it. The mean over read-outs, and as much again for functionals whose
    table is of the sample, each scaled to a total of 1 first, so that none counts more for being in larger units.
    """
    fine, readouts, scores = found.table.shape[1], len(expansion.names), []
    for row in range(found.values.shape[1]):
        left = found.values[:, row].double()
        if row < fine and tamed is not None:
            left -= tamed.share[row] * found.table[:, row]
        score = left.abs().mean(dim=0)
        scores.append(score / score.sum().clamp(min=torch.finfo(score.dtype).tiny))
    parts = [torch.stack(part).mean(dim=0) for part in (scores[:readouts], scores[readouts:]) if part]
    return torch.stack(parts).mean(dim=0)


def tamed_tables(expansion: Expansion) -> Tamed:
    """How the fine read-outs' tables are taken by their control variates; scratch, computed again where it is not there."""
    if not expansion.tamed.has(0):
        _keep_tamed(expansion, simulated_contributions(expansion, expansion.config.simulated))
    read, device = expansion.tamed.read_array, expansion.problem.device
    return Tamed(*(torch.from_numpy(read(0, name)).to(device) for name in Tamed._fields))


def _keep_tamed(expansion: Expansion, found: Simulated) -> Tamed:
    tamed = Tamed.of(found.values[:, : expansion.fine], found.table, found.largest)
    expansion.tamed.write(0, {name: array.cpu().numpy() for name, array in tamed._asdict().items()}, {}, replace=True)
    return tamed


class Simulated(NamedTuple):
    """Contributions of every coordinate to n simulated orders: to their read-outs and, of a sample without a control variate,
    functionals, values [n, r + m, D]; else to their entries in the table of positions, for the fine read-outs [n, fine, D], and
    at most in one step, by an item [fine, D]."""

    values: Tensor
    table: Tensor
    largest: Tensor


def simulated_contributions(expansion: Expansion, simulated: int) -> Simulated:
    """Of random orders, by the replay that estimates them, on all coordinates; no gradient is computed anew."""
    problem, steps = expansion.problem, expansion.steps
    gradients = _real_gradients(expansion, simulated) if expansion.of_all else _normal_gradients(expansion, simulated)
    state, centre = expansion.start().rows(simulated), expansion.state(0)
    r, m = len(expansion.names), 0 if expansion.of_all else expansion.functionals
    total = torch.zeros(simulated, r + m, len(centre.theta), device=problem.device)
    table = torch.zeros(simulated, expansion.fine if expansion.of_all else 0, len(centre.theta), device=problem.device)
    curvature = expansion.low_rank() if expansion.rank else None
    ahead, largest = _ahead(expansion) if expansion.of_all else centre.theta[None][:0], table[0].clone()
    for step in range(steps):
        delta = state.theta - centre.theta
        total[:, :r] += delta[:, None] * expansion.weight(step)
        gradient, before = gradients(step), centre
        plain = gradient
        if curvature is not None:  # as replayed, but for how scarce an item's touch is
            answer = expansion.answer(step)
            response = curvature(step, delta) * ((gradient != 0) & (answer != 0).any(0))
            total[:, :r] -= response[:, None] * answer
            gradient = gradient + response
        if m:
            total[:, r:] += (plain - expansion.gradients_of(step).mean(0))[:, None] * expansion.injection(step)
        centre = expansion.state(step + 1)
        if expansion.of_all:
            moved = problem.rule.step(before.rows(simulated), plain, problem.rate(step))[0]
            _place(table, expansion.costate(step + 1), moved, centre)
        state = problem.rule.step(state, gradient, problem.rate(step))[0]
        if expansion.of_all:
            ahead = ahead - expansion.weight(step)[: expansion.fine]
            for row, slope in enumerate(ahead):
                moved_by = (slope * (state.theta - centre.theta - delta)).abs().amax(0)
                largest[row] = torch.maximum(largest[row], moved_by)
    largest *= problem.config.data.per_step  # a step's gradient is the mean of its items
    total[:, :r] += (state.theta - centre.theta)[:, None] * expansion.weight(steps)
    return Simulated(total, table, largest)


def _ahead(expansion: Expansion) -> Tensor:
    """What a displacement that stays is worth from the first step on, for the fine read-outs [fine, D]: the sum of their
    weights. Summed by parts, an order's contribution is what each step adds to its displacement, times what lies ahead."""
    total = expansion.weight(expansion.steps)[: expansion.fine]
    for step in range(expansion.steps):
        total = total + expansion.weight(step)[: expansion.fine]
    return total


def _real_gradients(expansion: Expansion, simulated: int) -> Callable[[int], Tensor]:
    """Gradients [n, D] of what random orders consume at a step, from the anchors."""
    problem = expansion.problem
    orders = random_orders(problem.reference, simulated, expansion.config.seed + SIMULATED)
    batch = OrderBatch.pack([problem.canonical(order) for order in orders], problem.device)
    rows = _kept_rows(expansion) if expansion.whole else AnchoredItems(expansion).rows
    gradients = StreamedAnchors(expansion.anchors, rows)
    return lambda step: gradients.pick(step, batch.at(step))


def _kept_rows(expansion: Expansion) -> Callable[[int, Sequence[int]], Tensor]:
    """Gradients of some items at an anchor, from the terms, which have them on all coordinates."""
    terms = expansion.terms()
    return lambda anchor, items: torch.from_numpy(terms.read_items("gradient", anchor, items)).to(
        expansion.problem.device
    )


def _normal_gradients(expansion: Expansion, simulated: int) -> Callable[[int], Tensor]:
    """Normal gradients [n, D] around a step's mean, with the spread between items seen along the centre: where item gradients on
    all coordinates are not kept."""
    draw, spread = torch.Generator().manual_seed(expansion.config.seed + 1), gradient_spread(expansion)

    def gradients(step: int) -> Tensor:
        noise = torch.randn((simulated, len(spread)), generator=draw).to(spread)
        return expansion.gradients_of(step).mean(0) + spread * noise

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
    for step in range(expansion.steps):
        found = expansion.gradients_of(step).double()
        if len(found) > 1:
            total += found.var(0)
        elif previous is not None:
            total += (found[0] - previous).square() / 2  # with one item a step, neighbours in time stand in
        previous = found[0]
    return (total / expansion.steps).sqrt().to(expansion.problem.objective.dtype)
