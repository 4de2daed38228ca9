"""What the stages of an expansion take: gradients, bytes that stay, and bytes of scratch; functions of its specification."""

from __future__ import annotations

import math
from dataclasses import replace

from fut.methods.adjoint.anchors import most_pilots, pilot_gradients, pilot_items
from fut.methods.adjoint.config import in_memory
from fut.methods.adjoint.quadratic_directions import SAMPLES, bend_cost
from fut.methods.adjoint.replay_curvature import products
from fut.methods.adjoint.spec import MOST, ORDERS, ROWS, AdjointSpec, thins
from fut.methods.adjoint.sweep import check_cost
from fut.methods.curvature_batches import pooled_size, rows, small_size
from fut.methods.stages import Cost
from fut.readouts.readout import gradient_cost


def trajectory(spec: AdjointSpec) -> Cost:
    """The trajectory, which stays or is scratch; nothing where another expansion has it."""
    about = spec.trajectory
    if spec.added:
        return Cost(0, 0, _on_disk(spec, about.segment_bytes))
    scratch = about.segment_bytes if spec.keeps else about.scratch_bytes
    if in_memory(spec.config):
        return Cost(about.gradients)
    return Cost(about.gradients, about.scratch_bytes - scratch, scratch + _simulated(spec))


def low_rank(spec: AdjointSpec) -> Cost:
    """The replay's curvature."""
    if not spec.rank:
        return Cost()
    places = spec.trajectory.places_count
    size = pooled_size(spec.problem, spec.config, places) * places
    count = 2 * len(spec.curvatures) * products(spec)
    nbytes = len(spec.curvatures) * spec.rank * spec.vector_bytes
    about = spec.trajectory
    again = about.again(min(1.0, len(spec.curvatures) * about.segment / spec.steps))
    return Cost(round(count * size / rows(spec.problem)) + again, 0, _on_disk(spec, nbytes))


def sweep(spec: AdjointSpec) -> Cost:
    """The backward sweep, with the read-outs' own gradients, finding functionals and the check of differences; in scratch its
    weights and costates, and what bounds the tables."""
    config, problem = spec.config, spec.problem
    taken: float = spec.trajectory.gradients * (2 if config.products == "exact" else 1)
    if config.curvature == "pooled":
        taken = 2 * _drawn(spec, pooled_size(problem, config, spec.trajectory.places_count))
    count = round(taken * sum(_shares(spec)[: spec.fine])) + sum(gradient_cost(n, problem) for n in spec.names)
    count += _coarse(spec) + check_cost(spec) + spec.trajectory.once_back
    control = 16 * spec.fine * problem.objective.size if spec.of_all and not spec.drawn_first else 0
    return Cost(count, 0, _on_disk(spec, spec.swept_bytes + control))


def anchors(spec: AdjointSpec) -> Cost:
    """Gradients at the anchors, kept on the sample, or with a control variate in scratch on all coordinates; and what choosing
    their number took. Before it is chosen, the most that it can come to."""
    if spec.lent:
        return Cost(0, spec.kept_bytes(["gradient"]))
    count = len(spec.anchors) * spec.problem.config.data.items
    whole = most_pilots(spec) * len(pilot_items(spec)) + (count if spec.controlled else 0)
    nbytes = whole * (spec.vector_bytes + spec.width)
    kept = 0 if spec.controlled else spec.kept_bytes(["gradient"])
    return Cost(count + pilot_gradients(spec), kept, _on_disk(spec, nbytes))


def sample(spec: AdjointSpec) -> Cost:
    """The sample. A trajectory that is trained again is so for simulated orders, and once more for how gradients differ where
    theirs are drawn; for updates, of read-outs that are added to a sample that is drawn first."""
    passes = 0 if spec.whole else int(spec.added) if spec.drawn_first else 1 if spec.controlled else 2
    return Cost(spec.trajectory.again(passes), 16 * spec.expected_coordinates)


def few(spec: AdjointSpec) -> Cost:
    """Few coordinates for the replay, at most. A trajectory that is trained again is so for every few of the simulated orders,
    and for the table."""
    if not thins(spec):
        return Cost()
    size, items, width = round(MOST * spec.problem.objective.size), spec.problem.config.data.items, spec.width
    terms = (len(spec.anchors) * items + (spec.steps + 1) * (len(spec.names) + 1)) * size * width
    kept = terms + 16 * size + 8 * spec.steps * spec.fine * ROWS * items
    passes = 2 + 2 * math.ceil(ORDERS / spec.config.simulated)
    return Cost(spec.trajectory.again(passes), kept)


def fold(spec: AdjointSpec) -> Cost:
    """The terms, but for gradients that are kept as they are taken. A trajectory that is trained again is so for the tables, and
    for simulated orders where all coordinates are kept."""
    again = spec.trajectory.again(0 if spec.drawn_first else 2 if spec.whole else 1)
    return Cost(again, spec.kept_bytes() - (0 if spec.controlled else spec.kept_bytes(["gradient"])))


def held(spec: AdjointSpec) -> int:
    """Bytes of trajectory and scratch in memory, at most, where they are there; of the host, where a GPU's own is short."""
    if not in_memory(spec.config):
        return 0
    on_disk = replace(spec, config=spec.config.model_copy(update={"scratch": "disk"}), keeps=False)
    parts = (trajectory, low_rank, sweep, anchors)
    return sum(part(on_disk).scratch for part in parts)


def _on_disk(spec: AdjointSpec, nbytes: int) -> int:
    """So many bytes of scratch, where scratch is on disk."""
    return 0 if in_memory(spec.config) else nbytes


def _simulated(spec: AdjointSpec) -> int:
    """Bytes of the lifted states of simulated runs, where the trajectory is trained again."""
    if not spec.trajectory.segment:
        return 0
    return SAMPLES * spec.functionals * spec.state_vectors * spec.vector_bytes


def passing(spec: AdjointSpec) -> int:
    """Bytes of the largest file: whole costates, or the lifted states of an ensemble's runs."""
    return max(spec.rows, spec.config.num_runs) * spec.state_vectors * spec.vector_bytes


def _shares(spec: AdjointSpec) -> list[float]:
    """Of each read-out, the share of the window that its adjoint pass goes through."""
    return [min(end, spec.steps) / spec.steps for end in spec.ends]


def _coarse(spec: AdjointSpec) -> int:
    """Those of them that functionals and pooled read-outs take: finding functionals, and products on half a step's batch."""
    problem, m, first = spec.problem, spec.functionals, spec.names[0]
    coarse = m + sum(_shares(spec)[spec.fine :])
    swept = _drawn(spec, small_size(problem, spec.trajectory.places_count)) * (1 + coarse) if coarse else 0
    return round(swept) + bend_cost(problem, first, m, gradient_cost(first, problem))


def _drawn(spec: AdjointSpec, size: int) -> float:
    """Gradients of items that batches of `size` samples come to, one for every place and step."""
    return spec.steps * spec.trajectory.places_count * size / rows(spec.problem)
