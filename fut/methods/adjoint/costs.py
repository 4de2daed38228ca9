"""What an expansion costs, before it is computed: gradients, bytes that stay, and bytes of scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fut.methods.adjoint.anchor_count import most_pilots, pilot_gradients, pilot_items
from fut.methods.adjoint.control_variate import ROWS
from fut.methods.adjoint.difference_check import check_cost
from fut.methods.adjoint.quadratic import sums_of
from fut.methods.adjoint.quadratic_directions import bend_cost
from fut.methods.adjoint.replay_curvature import products
from fut.methods.curvature_batches import pooled_size, small_size
from fut.methods.expansion.costs import _state, _vector_bytes, centre_bytes
from fut.readouts.readout import gradient_cost

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


def gradients(expansion: Expansion) -> int:
    """Gradient evaluations of items in all stages (a Hessian-vector product counts two), read-outs included."""
    config, problem = expansion.config, expansion.problem
    training = problem.config.consumed
    products: float = training * config.mixture * (2 if config.products == "exact" else 1)
    if config.curvature == "pooled":
        products = 2 * _drawn(expansion, pooled_size(problem, config, expansion.places_count))
    return (
        training * config.mixture
        + round(products * expansion.fine)
        + anchor_gradients(expansion)
        + low_rank_gradients(expansion)
        + sum(gradient_cost(n, problem) for n in expansion.names)
        + _coarse(expansion)
        + check_cost(expansion)
    )


def anchor_gradients(expansion: Expansion) -> int:
    """Those of them that the anchors take; before their number is chosen, the most that it can come to."""
    return len(expansion.anchors) * expansion.problem.config.data.items + pilot_gradients(expansion)


def low_rank_gradients(expansion: Expansion) -> int:
    """Those of them that the replay's curvature takes."""
    if not expansion.rank:
        return 0
    size = pooled_size(expansion.problem, expansion.config, expansion.places_count) * expansion.places_count
    count = 2 * len(expansion.curvatures) * products(expansion)
    return round(count * size / len(expansion.problem.data.items[0][0]))


def _coarse(expansion: Expansion) -> int:
    """Those of them that functionals and coarse read-outs take: finding functionals, and products on half a step's batch."""
    problem, m, first = expansion.problem, expansion.functionals, expansion.names[0]
    rows = m + len(expansion.names) - expansion.fine
    swept = _drawn(expansion, small_size(problem, expansion.places_count)) * (1 + rows) if rows else 0
    return round(swept) + bend_cost(problem, first, m, gradient_cost(first, problem))


def _drawn(expansion: Expansion, size: int) -> float:
    """Gradients of items that batches of `size` samples come to, one for every place and step."""
    return expansion.steps * expansion.places_count * size / len(expansion.problem.data.items[0][0])


def kept_bytes(expansion: Expansion) -> int:
    """Bytes that stay on disk, before compression."""
    kept, steps = expansion.expected_coordinates, expansion.steps
    items, r = expansion.problem.config.data.items, len(expansion.names)
    rows = len(expansion.anchors) * items + (1 + r) * (steps + 1)
    width = expansion.problem.objective.start().element_size()
    few = (steps + len(expansion.anchors)) * expansion.fine * items * 8 + len(expansion.anchors) * items * width
    few += steps * expansion.functionals * sums_of(expansion) * items * 8
    few += steps * expansion.fine * items * (8 * expansion.of_all + ROWS * width * expansion.controlled)
    curved = len(expansion.curvatures) * expansion.rank
    rows += curved + r * steps * bool(curved)
    return rows * kept * width + 16 * kept + few + 8 * curved


def anchor_bytes(expansion: Expansion) -> int:
    """Bytes of scratch of the anchors: of a few items where their number is chosen by these, and with a control variate of all
    items' gradients on all coordinates; and their norms."""
    count = most_pilots(expansion) * len(pilot_items(expansion))
    if expansion.controlled:
        count += len(expansion.anchors) * expansion.problem.config.data.items
    return count * (_vector_bytes(expansion) + expansion.problem.objective.start().element_size())


def scratch_bytes(expansion: Expansion) -> int:
    """Bytes of scratch while it is built: the centre, anchors, low-rank curvature, and weights and costates of the sweep."""
    swept = len(expansion.names) * (1 + bool(expansion.rank)) + expansion.functionals
    swept += expansion.fine * _state(expansion)
    control = 0 if not expansion.of_all else 16 * expansion.fine * expansion.problem.objective.size
    whole = 2 * (len(expansion.names) + expansion.functionals) * _state(expansion)  # costates of this step and the last
    kept = (swept * (expansion.steps + 1) + whole) * _vector_bytes(expansion)
    return centre_bytes(expansion) + anchor_bytes(expansion) + low_rank_bytes(expansion) + kept + control


def low_rank_bytes(expansion: Expansion) -> int:
    """Bytes of scratch of the replay's curvature."""
    return len(expansion.curvatures) * expansion.rank * _vector_bytes(expansion)
