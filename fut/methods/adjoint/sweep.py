"""The expansion's backward sweep: read-outs and functionals in one pass, resumed at the last step that is whole."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Sweep
from estimators.state import State
from fut.methods.adjoint.difference_check import difference_error
from fut.methods.adjoint.quadratic_directions import principal_functionals
from fut.models.autodiff import KNOWN_STEP, one_sided_difference
from fut.progress import Progress
from fut.readouts.readout import make_readouts
from fut.training.checkpoints import unpack

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


def run_sweep(expansion: Expansion, progress: Progress) -> None:
    """Write every step's weights of the read-outs [r, D], injections of the functionals [m, D], and fine read-outs' costates;
    where the replay has curvature also the read-outs' injections, `answer` [r, D]. Of the whole costates the latest is kept."""
    done = min(expansion.latest.steps(), default=None)
    costate = _start(expansion) if done is None else _whole(expansion, done)
    sweep = _sweep(expansion)
    with progress("backward sweep", expansion.steps if done is None else done) as tick:
        for found in sweep.backward(costate, (expansion.steps if done is None else done) - 1):
            held = len(expansion.names)
            arrays = {"weight": found.weight[:held], "injection": found.injection[held:]}
            if expansion.rank:
                arrays["answer"] = found.injection[:held]
            _write(expansion, found.step, found.costate, arrays)
            tick()


def _sweep(expansion: Expansion) -> Sweep:
    config, problem = expansion.config, expansion.problem

    places, gradients = (lru_cache(maxsize=1)(read) for read in (expansion.places, expansion.gradients_of))

    def product(centre: Tensor, number: int, direction: Tensor) -> Tensor:
        """Hessian-vector product [D] of a group's mean loss, at the centre, or of an ensemble where its run stands: exact, or by
        a one-sided difference, since the gradient there is known; forwards and backwards in turn."""
        items, (step, row) = expansion.groups[number], divmod(number, config.mixture)
        theta = places(step)[row] if expansion.ensemble else centre
        if config.products == "exact":
            return problem.mean_product(theta, items, direction, exact=True)
        shares, sign = [1.0 / len(items)] * len(items), -1 if (step + row) % 2 else 1
        here = gradients(step)[row]
        return one_sided_difference(
            lambda at: problem.mean_gradient(at, items, shares), theta, direction, here, sign * KNOWN_STEP
        )

    return Sweep(
        problem.rule,
        problem.rate,
        expansion.mixture,
        expansion.state,
        lambda step, number: gradients(step)[number % config.mixture],
        product,
        (lambda step, theta, directions: expansion.pooled_products(step, directions)) if expansion.pools else None,
        0 if config.curvature == "pooled" else expansion.fine,
    )


def _start(expansion: Expansion) -> State:
    """The costate at the end: slopes of the read-outs, and functionals of the first of them."""
    theta = expansion.state(expansion.steps).theta
    readouts = make_readouts(expansion.problem, expansion.names, expansion.user)
    slopes = torch.stack([r.gradient(theta) for r in readouts])
    arrays = {"weight": slopes, "difference_error": torch.tensor([difference_error(expansion, theta, slopes[0])])}
    if expansion.functionals:
        arrays["functional"], arrays["signs"] = principal_functionals(expansion, readouts[0], expansion.functionals)
        slopes = torch.cat([slopes, arrays["functional"]])
    costate = _sweep(expansion).start(slopes)
    _write(expansion, expansion.steps, costate, arrays)
    return costate


def _write(expansion: Expansion, step: int, costate: State, arrays: dict[str, Tensor]) -> None:
    """A step's results, then the whole costate, then away with the one before: killed anywhere, the step is done again."""
    kept = _packed(State(costate.theta[: expansion.fine], _first(costate, expansion.fine), {}))
    expansion.swept.write(step, {name: found.cpu().numpy() for name, found in arrays.items()} | kept, {}, replace=True)
    expansion.latest.write(step, _packed(costate), {}, replace=True)
    if expansion.latest.has(step + 1):
        expansion.latest.remove(step + 1)


def _first(costate: State, rows: int) -> dict[str, Tensor]:
    return {name: buffer[:rows] for name, buffer in costate.memory.items()}


def _whole(expansion: Expansion, step: int) -> State:
    return costate_from(expansion.latest.read(step).arrays, expansion.problem.device)


def costate_from(arrays: dict[str, np.ndarray], device: torch.device) -> State:
    """Sensitivities to the lifted state, as `run_sweep` wrote them."""
    packed = {k.removeprefix("costate/"): v for k, v in arrays.items() if k.startswith("costate/")}
    return unpack(packed, {}, device)


def _packed(costate: State) -> dict[str, np.ndarray]:
    memory = {f"costate/memory/{k}": b.cpu().numpy() for k, b in costate.memory.items()}
    return {"costate/theta": costate.theta.cpu().numpy()} | memory
