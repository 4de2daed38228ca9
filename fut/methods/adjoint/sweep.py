"""The expansion's backward sweep: read-outs and functionals in one pass, resumed at the last step that is whole."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Sweep
from estimators.state import State
from fut.errors import FutWarning
from fut.methods.adjoint.files import Expansion, costate_from
from fut.methods.adjoint.first_sample import draw_first
from fut.methods.adjoint.first_sweep import FirstSweep, packed
from fut.methods.adjoint.quadratic_directions import principal_functionals
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.curvature_batches import (
    Answer,
    autocast_error,
    drawn_samples,
    noise_caution,
    pooled_products,
    product_error,
    rows,
    small_size,
)
from fut.models.autodiff import KNOWN_STEP, one_sided_difference
from fut.models.products import DIFFERENCE
from fut.readouts.readout import make_readouts
from fut.training.weights import shares as shares_of
from storage import MissingError


def missing_sweep(expansion: Expansion) -> Sequence[int]:
    """The steps that are to be swept yet, backwards."""
    done = min(expansion.sweep.latest.steps(), default=expansion.spec.steps)
    return range(done - 1, -1, -1)


def run_sweep(expansion: Expansion, steps: Sequence[int]) -> Iterator[None]:
    """Write steps' weights of the read-outs [r, D], injections of the functionals [m, D], and exact read-outs' costates; where
    the replay has curvature also the read-outs' injections, `answer` [r, D]. Of the whole costates the latest is kept."""
    done = min(expansion.sweep.latest.steps(), default=None)
    latest, device = expansion.sweep.latest, expansion.problem.device
    costate = start(expansion) if done is None else costate_from(latest.get(done, device)[0])
    r = len(expansion.spec.names)
    writer = FirstSweep(expansion, costate, steps[0]) if expansion.spec.drawn_first else None
    for found in _sweep(expansion).backward(costate, steps[0]):
        arrays = {"weight": found.weight[:r], "injection": found.injection[r:]}
        if expansion.spec.rank:
            arrays["answer"] = found.injection[:r]
        if writer is None:
            _write(expansion, found.step, found.costate, arrays)
        else:
            writer.write(found.step, found.costate, arrays)
        yield


def draw_before(expansion: Expansion, units: Sequence[int]) -> Iterator[None]:
    """Draw the sample before the sweep, from the costate that it starts from."""
    steps, device = expansion.spec.steps, expansion.problem.device
    if not expansion.sweep.latest.has(steps):
        start(expansion)
    found = expansion.sweep.latest.get(steps, device)[0]
    names = [name for name in ("difference_error", "signs") if name in found]
    known: dict[str, np.ndarray] = {name: found[name].cpu().numpy() for name in names}
    slopes = costate_from(found).theta.clone()  # the costate itself, where it is held in memory, begins the sweep
    for end in {end for end in expansion.spec.ends if end < steps}:  # whose slopes are not known at the end
        slopes[: len(expansion.spec.names)] += _slopes(expansion, end)
    draw_first(expansion, slopes, known)
    yield


def _sweep(expansion: Expansion) -> Sweep:
    config, problem, trajectory = expansion.spec.config, expansion.problem, expansion.trajectory
    places, gradients = (lru_cache(maxsize=1)(read) for read in (trajectory.places, trajectory.gradients_of))

    def product(centre: Tensor, number: int, direction: Tensor) -> Tensor:
        """Hessian-vector product [D] of a group's mean loss, at the trajectory, or of an ensemble where its run stands: exact, or
        by a one-sided difference, since the gradient there is known; forwards and backwards in turn."""
        items, (step, row) = expansion.spec.trajectory.groups[number], divmod(number, config.num_runs)
        theta = places(step)[row] if expansion.spec.trajectory.ensemble else centre
        at_step = problem.at(step)
        if config.products == "exact" or problem.objective.autocast is not None:  # whose gradients are too coarse
            return at_step.mean_product(theta, items, direction, exact=config.products == "exact")
        shares, sign = shares_of(problem.config, items), -1 if (step + row) % 2 else 1
        here = gradients(step)[row]
        return one_sided_difference(
            lambda at: at_step.mean_gradient(at, items, shares), theta, direction, here, sign * KNOWN_STEP
        )

    return Sweep(
        problem.rule,
        problem.rate,
        expansion.spec.trajectory.mixture,
        expansion.trajectory.state,
        lambda step, number: gradients(step)[number % config.num_runs],
        product,
        (lambda step, _, directions, answer: drawn_products(expansion, step, directions, answer))
        if expansion.spec.pools
        else None,
        0 if config.curvature == "pooled" else expansion.spec.fine,
        expansion.spec.fine,
        lambda step: _entering(expansion, step),
    )


def drawn_products(expansion: Expansion, step: int, directions: Tensor, answer: Answer | None = None) -> Tensor:
    """Hessian-vector products [n, D] on drawn batches: of the exact read-outs first, unless they have the items' own, then
    of the others and of functionals. answer: as `pooled_products` takes it."""
    config, spec = expansion.spec.config, expansion.spec
    fine = len(directions) - (len(spec.names) - spec.fine + spec.functionals)
    return pooled_products(
        spec.problem, config, step, expansion.trajectory.places(step), directions, fine, answer=answer
    )


def start(expansion: Expansion) -> State:
    """The costate at the end: slopes of the read-outs, and functionals of the first of them."""
    steps, readouts = expansion.spec.steps, make_readouts(expansion.problem, expansion.spec.names, expansion.user)
    slopes = _slopes(expansion, steps)
    first = expansion.trajectory.state(expansion.spec.ends[0]).theta
    error = difference_error(expansion, first, slopes[0] if slopes[0].any() else readouts[0].gradient(first))
    if caution := noise_caution(error, EXACT, f"{expansion.directory} (remove it)"):
        warnings.warn(f"adjoint: {caution}", FutWarning, stacklevel=2)
    arrays = {"weight": slopes, "difference_error": torch.tensor([error])}
    if expansion.spec.functionals:
        arrays["functional"], arrays["signs"] = principal_functionals(
            expansion, readouts[0], expansion.spec.functionals
        )
        slopes = torch.cat([slopes, arrays["functional"]])
    costate = _sweep(expansion).start(slopes)
    if expansion.spec.drawn_first:
        known = {n: tensor for n, tensor in arrays.items() if n in ("difference_error", "signs")}
        expansion.sweep.latest.put(steps, known | packed(costate))
    else:
        _write(expansion, steps, costate, arrays)
    return costate


def _slopes(expansion: Expansion, step: int) -> Tensor:
    """Gradients [r, D] at the trajectory of the read-outs that are taken after so many steps; 0 of the others."""
    theta = expansion.trajectory.state(step).theta
    readouts = make_readouts(expansion.problem, expansion.spec.names, expansion.user)
    pairs = zip(readouts, expansion.spec.ends, strict=True)
    return torch.stack([readout.gradient(theta) if end == step else torch.zeros_like(theta) for readout, end in pairs])


def _entering(expansion: Expansion, step: int) -> Tensor | None:
    """The slopes [r + m, D] of read-outs that are taken before a step; None where none is."""
    if step not in expansion.spec.ends:
        return None
    slopes = _slopes(expansion, step)
    return torch.cat([slopes, torch.zeros_like(slopes[:1]).expand(expansion.spec.functionals, -1)])


def _write(expansion: Expansion, step: int, costate: State, arrays: dict[str, Tensor]) -> None:
    """A step's results, then the whole costate, then away with the one before: killed anywhere, the step is done again."""
    swept, latest = expansion.sweep.swept, expansion.sweep.latest
    swept.put(step, arrays | packed(costate, expansion.spec.fine))
    latest.put(step, packed(costate, expansion.spec.rows))
    if latest.has(step + 1):
        latest.remove(step + 1)


SAMPLE_KEY = 23
EXACT = 'adjoint.products = "exact"'


def difference_error(expansion: Expansion, theta: Tensor, direction: Tensor) -> float:
    """|difference - exact| / |exact| of one Hessian-vector product [D], on half a step's samples or, where the items are not
    made of samples, on one item.

    NaN where the sweep takes exact products in full precision, where the product vanishes, or where the model has no second
    derivatives. Under autocast, of exact products: how far one is from that in full precision.
    """
    exact, objective = expansion.spec.config.products == "exact", expansion.problem.objective
    if exact and objective.autocast is None and objective.exact_form != DIFFERENCE:
        return math.nan
    problem, items = expansion.problem, expansion.problem.samples.pooled
    draw = np.random.default_rng([expansion.spec.config.seed, SAMPLE_KEY])
    batch = drawn_samples(items, small_size(problem), draw) if problem.samples.items else items[0]
    error = autocast_error if exact and objective.exact_form != DIFFERENCE else product_error
    return error(problem, theta, batch, direction)


def kept_error(expansion: Expansion) -> float | None:
    """What `difference_error` found when the expansion was made; None where it found nothing, or was not asked."""
    try:
        found = float(expansion.sampled.read_array(0, "difference_error")[0])
    except MissingError:
        return None
    return found if math.isfinite(found) else None


def curvature_caution(expansion: Expansion) -> str:
    """What the expansion's check of its products says against what is read off it; empty for nothing."""
    return noise_caution(kept_error(expansion), EXACT, f"{expansion.directory} (remove it)")


def check_cost(spec: AdjointSpec) -> int:
    """Gradients that the check is counted as: two products of two each."""
    if spec.config.products == "exact" and spec.problem.objective.autocast is None:
        return 0
    return round(4 * small_size(spec.problem) / rows(spec.problem)) if spec.problem.samples.items else 4
