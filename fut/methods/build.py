"""What a run computes before it answers: planned, refused where it does not fit, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fut.artifacts import creation
from fut.artifacts.lock import run_lock
from fut.errors import UsageError
from fut.methods import stages
from fut.methods.context import Context
from fut.methods.footprint import Footprint
from fut.methods.leftovers import remove_leftovers
from fut.methods.limits import require_space, require_stages
from fut.methods.registry import base_name, preparations
from fut.methods.stages import Preparation, Prepared, Request
from fut.methods.timings import seconds_per_gradient
from fut.resources.device import environment


@dataclass(frozen=True)
class CachePlan:
    """What caching will cost. gradients: evaluations still to do; seconds: from a short timing here; bytes: on disk."""

    terms: list[str]
    blocks: int
    gradients: int
    seconds: float
    nbytes: int


def _asked(context: Context, request: Request) -> Iterator[tuple[Preparation[Any], Prepared]]:
    """What is to be computed, in that order; UsageError for a term that nothing computes."""
    parts = sorted(preparations(), key=lambda preparation: -len(preparation.terms))
    known = [term for preparation in parts for term in preparation.terms]
    if request.names is not None:  # an alias of a method stands for its name
        request = replace(request, names=[n if n in known else base_name(n) for n in request.names])
    if unknown := sorted(set(request.names or ()) - set(known)):
        raise UsageError(f"terms: expected some of {', '.join(known)}, got {', '.join(unknown)}; correct the names")
    for preparation in preparations():
        if _is_asked(context, preparation, request):
            yield preparation, preparation.open(context, request)


def _is_asked(context: Context, preparation: Preparation[Any], request: Request) -> bool:
    """Whether it is to be computed: one of its terms is named, or it is a usual one where nothing is."""
    if request.names is None:
        return preparation.usual(context)
    return bool(set(request.names) & set(preparation.terms))


def plan(context: Context, request: Request) -> CachePlan:
    """What `cache` would still cost."""
    terms, blocks, gradients, nbytes = list[str](), 0, 0, 0
    for preparation, files in _asked(context, request):
        names, pieces, cost = preparation.still(files)
        terms, blocks = [*terms, *names], blocks + pieces
        gradients, nbytes = gradients + cost.gradients, nbytes + cost.kept
    seconds = gradients * seconds_per_gradient(context.problem, context.state(0))
    return CachePlan(terms, blocks, gradients, seconds, nbytes)


def cache(context: Context, request: Request) -> None:
    """Compute what is missing of the named terms."""
    with run_lock(context.path):
        asked = list(_asked(context, request))
        for preparation, files in asked:  # before anything is computed of any
            preparation.require_possible(files.spec)
        for preparation, files in asked:
            prepare(context, preparation, files)


def prepare(context: Context, preparation: Preparation[Any], files: Prepared) -> None:
    """Compute what is missing of one preparation, refused beforehand where it does not fit."""
    creation.require_same_environment(context.manifest, environment(context.problem.device), context.path)
    pins: dict[str, float] = {}
    preparation.require_possible(files.spec)
    if not files.complete():
        pins = context.readouts.pins(preparation.pinned(files))
        require_stages(preparation, files.spec, Footprint(context.problem))
        require_space(preparation, files)
    preparation.pin_identity(files, pins, context.path)
    stages.build(preparation, files, context.progress)


def repair(context: Context) -> int:
    """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
    with run_lock(context.path):
        remove_leftovers(context.path)
        found = [(preparation, files) for preparation in preparations() for files in preparation.stored(context)]
        return sum(stages.repair(preparation, files) for preparation, files in found)
