"""What the stages of an expansion take: gradients, bytes that stay, and bytes of scratch; functions of its specification."""

from __future__ import annotations

from fut.methods.adjoint.anchors import most_pilots, pilot_gradients, pilot_items
from fut.methods.adjoint.quadratic_directions import bend_cost
from fut.methods.adjoint.replay_curvature import products
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.adjoint.sweep import check_cost
from fut.methods.curvature_batches import pooled_size, rows, small_size
from fut.methods.stages import Cost
from fut.readouts.readout import gradient_cost


def trajectory(spec: AdjointSpec) -> Cost:
    """The trajectory, which stays or is scratch; nothing where another expansion has it."""
    about = spec.trajectory
    if spec.added:
        return Cost()
    return (
        Cost(about.gradients, about.scratch_bytes, 0) if spec.keeps else Cost(about.gradients, 0, about.scratch_bytes)
    )


def low_rank(spec: AdjointSpec) -> Cost:
    """The replay's curvature."""
    if not spec.rank:
        return Cost()
    places = spec.trajectory.places_count
    size = pooled_size(spec.problem, spec.config, places) * places
    count = 2 * len(spec.curvatures) * products(spec)
    nbytes = len(spec.curvatures) * spec.rank * spec.vector_bytes
    return Cost(round(count * size / rows(spec.problem)), 0, nbytes)


def sweep(spec: AdjointSpec) -> Cost:
    """The backward sweep, with the read-outs' own gradients, finding functionals and the check of differences; in scratch its
    weights and costates, and what bounds the tables."""
    config, problem = spec.config, spec.problem
    taken: float = spec.trajectory.gradients * (2 if config.products == "exact" else 1)
    if config.curvature == "pooled":
        taken = 2 * _drawn(spec, pooled_size(problem, config, spec.trajectory.places_count))
    count = round(taken * sum(spec.shares[: spec.fine])) + sum(gradient_cost(n, problem) for n in spec.names)
    count += _coarse(spec) + check_cost(spec)
    state = spec.state_vectors
    vectors = len(spec.names) * (1 + bool(spec.rank)) + spec.functionals + spec.fine * state
    control = 16 * spec.fine * problem.objective.size if spec.of_all else 0
    whole = 2 * spec.rows * state  # costates of this step and the last
    return Cost(count, 0, (vectors * (spec.steps + 1) + whole) * spec.vector_bytes + control)


def anchors(spec: AdjointSpec) -> Cost:
    """Gradients at the anchors, kept on the sample, or with a control variate in scratch on all coordinates; and what choosing
    their number took. Before it is chosen, the most that it can come to."""
    if spec.lent:
        return Cost(0, spec.kept_bytes(["gradient"]))
    count = len(spec.anchors) * spec.problem.config.data.items
    whole = most_pilots(spec) * len(pilot_items(spec)) + (count if spec.controlled else 0)
    nbytes = whole * (spec.vector_bytes + spec.width)
    return Cost(count + pilot_gradients(spec), 0 if spec.controlled else spec.kept_bytes(["gradient"]), nbytes)


def fold(spec: AdjointSpec) -> Cost:
    """The terms, but for gradients that are kept as they are taken."""
    return Cost(0, spec.kept_bytes() - (0 if spec.controlled else spec.kept_bytes(["gradient"])))


def _coarse(spec: AdjointSpec) -> int:
    """Those of them that functionals and pooled read-outs take: finding functionals, and products on half a step's batch."""
    problem, m, first = spec.problem, spec.functionals, spec.names[0]
    coarse = m + sum(spec.shares[spec.fine :])
    swept = _drawn(spec, small_size(problem, spec.trajectory.places_count)) * (1 + coarse) if coarse else 0
    return round(swept) + bend_cost(problem, first, m, gradient_cost(first, problem))


def _drawn(spec: AdjointSpec, size: int) -> float:
    """Gradients of items that batches of `size` samples come to, one for every place and step."""
    return spec.steps * spec.trajectory.places_count * size / rows(spec.problem)
