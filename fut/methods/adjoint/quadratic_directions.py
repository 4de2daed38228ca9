"""Quadratic read-out: the few functionals of the final displacement along which the read-out's bend differs between orders.

To second order phi(theta_T + delta) = phi + <grad phi, delta> + ½ delta' H delta. The adjoint reads the linear term; the
quadratic one has a mean, which calibration learns, and varies from order to order mostly along a few directions: the
principal components, in the metric of H, of displacements of simulated orders. Each is a linear functional q_j of delta,

    ½ delta' H delta  ~  ½ sum_j s_j <q_j, delta>²,    q_j = H X u_j / sqrt|e_j|,  X' H X u_j = e_j u_j,  s_j = sign e_j,

for X the simulated displacements (a Nyström approximation of H on their span), and gets the same backward sweep as the
read-out itself. The displacements are uncurved, of simulated orders: true ones would each cost a training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from estimators.rules.base import next_state
from estimators.state import State
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.quadratic import weighted_by
from fut.models import autodiff as derivatives
from fut.readouts.readout import PROBE, Readout
from fut.training.checkpoints import read_state, save
from fut.training.problem import Problem

SAMPLES = 4
"""Simulated orders per functional."""
CHUNKS = 2
"""Chunks of the probe set on which its curvature is taken: the directions need no more."""
SPACE, BUFFERS = 1 << 27, 14
"""Bytes that simulated orders take while they are replayed, and vectors that each of them takes."""
RESOLVED = 1e-6
"""Share of the largest eigenvalue below which a functional is rounding: it is 0 then, and its square counts nothing. A window
of one step, or a trajectory of one run, has fewer directions than functionals."""
STEP = 1e-3
"""Length of a difference along a displacement, relative to the parameters."""


def principal_functionals(expansion: Expansion, readout: Readout, count: int) -> tuple[Tensor, Tensor]:
    """Functionals q [count, D] of the displacement at the end of the window, and their signs [count]; 0, where there are fewer
    directions than that."""
    theta = expansion.trajectory.state(expansion.spec.steps).theta
    moved = simulated_displacements(expansion, SAMPLES * count)
    bent = _bend(expansion.problem, readout, theta, moved)
    gram = weighted_by(moved, bent).cpu().numpy()
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    leading = np.argsort(-np.abs(values), kind="stable")[:count]
    kept = np.abs(values[leading]) > RESOLVED * np.abs(values).max()
    scale = np.where(kept, np.abs(values[leading]), np.inf) ** -0.5
    mixing = torch.from_numpy((vectors[:, leading] * scale).T.copy()).to(bent)
    return mixing @ bent, torch.from_numpy(np.sign(values[leading]) * kept)


def simulated_displacements(expansion: Expansion, count: int) -> Tensor:
    """Displacements from the trajectory's end [count, D] of runs that take, at every step, one of the trajectory's own gradients.

    Real gradients, so that directions are those of real orders; no gradient is computed anew.
    """
    centre = expansion.trajectory.state(expansion.spec.steps).theta
    if not expansion.spec.trajectory.segment:
        chunks = enumerate(_picks(expansion, count))
        return torch.cat([_simulated(expansion, n, picks, range(len(picks))).theta - centre for n, picks in chunks])
    for segment in expansion.trajectory.segments:
        simulate(expansion, segment)
    ends = (read_state(expansion.simulated, n, centre.device).theta for n in expansion.simulated.steps())
    return torch.cat([end - centre for end in ends])


def simulate(expansion: Expansion, segment: Sequence[int]) -> None:
    """Take the runs of `simulated_displacements` over a segment of steps, whose gradients are at hand; nothing where they have
    taken it, or do not stand at its beginning."""
    store, after = expansion.simulated, segment[-1] + 1
    for n, picks in enumerate(_picks(expansion, SAMPLES * expansion.spec.functionals)):
        if (store.read_attributes(n)["reached"] if store.has(n) else 0) != segment[0]:
            continue
        state = _simulated(expansion, n, picks, segment)
        save(store, n, state, reached=after)


def _picks(expansion: Expansion, count: int) -> tuple[Tensor, ...]:
    """Which of a step's gradients each of `count` runs takes [T, n], as many runs at a time as are replayed together."""
    config, start = expansion.spec.config, expansion.problem.objective.start()
    drawn = np.random.default_rng([config.seed, 13]).integers(config.num_runs, size=(expansion.spec.steps, count))
    parts: tuple[Tensor, ...] = torch.from_numpy(drawn).to(start.device).split(simulated_together(start.nbytes), dim=1)
    return parts


def _simulated(expansion: Expansion, number: int, picks: Tensor, steps: Sequence[int]) -> State:
    """Lifted states [n, D] after some steps; from the first step on, or going on where the runs of that number stand."""
    problem, trajectory = expansion.problem, expansion.trajectory
    state = trajectory.start().rows(picks.shape[1])
    if steps[0]:
        state = read_state(expansion.simulated, number, problem.device)
    for step in steps:
        state = next_state(problem.rule, state, trajectory.gradients_of(step)[picks[step]], problem.rate(step))
    return state


def simulated_together(nbytes: int) -> int:
    """Simulated orders replayed at once, for vectors of so many bytes: as many as keep their buffers small, one at least."""
    return max(1, SPACE // (BUFFERS * nbytes))


def _bend(problem: Problem, readout: Readout, theta: Tensor, moved: Tensor) -> Tensor:
    """H delta for every displacement [n, D], by one-sided differences of the read-out's gradient."""
    probe = problem.data.probe[:CHUNKS]

    def gradient(at: Tensor) -> Tensor:
        if readout.name == PROBE:
            return derivatives.evaluate_gradient(problem.objective, at, probe)
        return readout.gradient(at)

    with problem.objective.full_precision():
        here = gradient(theta)
        return torch.stack([derivatives.one_sided_difference(gradient, theta, u, here, STEP) for u in moved])


def bend_cost(problem: Problem, readout: str, count: int, cost: int) -> int:
    """Gradients of `principal_functionals`. cost: those of the read-out's own gradient."""
    if not count:
        return 0
    return (SAMPLES * count + 1) * (min(CHUNKS, len(problem.data.probe)) if readout == PROBE else cost)
