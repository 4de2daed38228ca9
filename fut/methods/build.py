"""What a run computes before it answers: planned, refused where it does not fit, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from estimators.errors import DivergenceError
from fut.artifacts import creation
from fut.artifacts.directory import TERMS
from fut.artifacts.lock import run_lock
from fut.errors import UsageError
from fut.methods import stages
from fut.methods.context import Context
from fut.methods.elsewhere import doing
from fut.methods.footprint import Footprint
from fut.methods.registry import base_name, default_estimator, method_of, preparations
from fut.methods.stages import LESS, Names, Preparation, Prepared, Request, counted
from fut.methods.timings import seconds_per_gradient
from fut.resources.device import environment
from fut.resources.memory import require_memory
from fut.training.problem import Problem
from storage import remove_parts, require_free

P = TypeVar("P", bound=Prepared)


def require_states(problem: Problem) -> None:
    """ResourceError unless what training takes at the very least fits the memory that is there: before any gradient is taken."""
    require_memory("reference run", Footprint(problem).least(), problem.device, LESS)


def require_training(problem: Problem) -> None:
    """ResourceError unless training fits the memory that is there; measures a gradient."""
    require_states(problem)
    footprint = Footprint(problem)
    _require(footprint, "reference run", footprint.training(), LESS)


def require_stages(preparation: Preparation[Any], spec: Any, footprint: Footprint) -> None:
    """ResourceError unless every stage of a preparation fits the memory that is there."""
    for stage in counted(preparation.stages, spec):
        host, device = footprint.split(stage.memory(spec, footprint), 0, stage.held(spec))
        _require(footprint, stage.name, device or host, stage.advice)
        if device:
            require_memory(stage.name, host, torch.device("cpu"), stage.advice)


def _require(footprint: Footprint, stage: str, planned: int, advice: str) -> None:
    require_memory(stage, planned - footprint.resident, footprint.problem.device, advice)


@dataclass(frozen=True)
class CachePlan:
    """What caching will cost. gradients: evaluations still to do; seconds: from a short timing here; bytes: on disk."""

    terms: list[str]
    blocks: int
    gradients: int
    seconds: float
    nbytes: int


ALL = "all"
"""What stands for the terms of every method but those that are computed by name alone."""


def requested_terms(context: Context, names: Names) -> list[str]:
    """The terms that are to be computed; UsageError for one that nothing computes.

    Args:
        context: the opened run.
        names: as in `Request`.
    """
    begun = [term for preparation in preparations() for term in preparation.begun_terms(context.path)]
    if names is None:
        return list(dict.fromkeys([*method_of(default_estimator(context)).terms(context), *begun]))
    parts = sorted(preparations(), key=lambda preparation: -len(preparation.terms))
    known = [term for preparation in parts for term in preparation.terms]
    wanted = [n if n in (*known, ALL) else base_name(n) for n in names]  # an alias of a method stands for its name
    if unknown := sorted(set(wanted) - {*known, ALL}):
        expected = ", ".join([ALL, *known])
        raise UsageError(f"terms: expected some of {expected}, got {', '.join(unknown)}; correct the names")
    if ALL in wanted:
        wanted += [*begun, *(term for preparation in parts for term in preparation.usual(context))]
    return [name for name in dict.fromkeys(wanted) if name != ALL]


def _requested(context: Context, request: Request) -> Iterator[tuple[Preparation[Any], Prepared]]:
    """What is to be computed, in that order."""
    request = replace(request, names=requested_terms(context, request.names))
    for preparation in preparations():
        if set(request.names or ()) & set(preparation.terms):
            for files in preparation.opened(context, request):
                files.require_own(preparation.kind)
                yield preparation, files
        elif getattr(request, preparation.section, None) is not None:
            raise UsageError(
                f"cache: expected settings of what is computed, {', '.join(request.names or ())}, got some of the section "
                f"`{preparation.section}`; name its terms too: {', '.join(preparation.terms)}"
            )


def plan(context: Context, request: Request) -> CachePlan:
    """What `cache` would still cost."""
    terms, blocks, gradients, nbytes = list[str](), 0, 0, 0
    for preparation, files in _requested(context, request):
        names, pieces, cost = preparation.still(files)
        terms, blocks = [*terms, *names], blocks + pieces
        gradients, nbytes = gradients + cost.gradients, nbytes + cost.kept
    seconds = gradients * seconds_per_gradient(context.problem, context.state(0))
    return CachePlan(terms, blocks, gradients, seconds, nbytes)


def cache(context: Context, request: Request) -> None:
    """Compute what is missing of the named terms."""
    with run_lock(context.path):
        _remove_half_written(context.path)
        requested = list(_requested(context, request))
        for preparation, files in requested:  # before anything is computed of any
            preparation.require_possible(files.spec)
        for preparation, files in requested:
            prepare(context, preparation, files)


def prepare(context: Context, preparation: Preparation[Any], files: P) -> P:
    """Compute what is missing of one preparation, refused beforehand where it does not fit.

    Returns:
        The files that were made: others than the given ones where what these name diverges.
    """
    creation.require_same_environment(context.manifest, environment(context.problem.device), context.path)
    pins: dict[str, float] = {}
    files.require_own(preparation.kind)
    preparation.require_possible(files.spec)
    if not files.complete():
        _ = context.problem.objective.call  # built before memory is measured, and held when stages begin
        pins = context.readouts.pins(files.pinned)
        require_stages(preparation, files.spec, Footprint(context.problem))
        require_free(files.directory.parent, preparation.rest(files), preparation.what)
    preparation.pin_identity(files, pins, context.path)
    try:
        stages.build(preparation, files, context.progress, doing(context, preparation))
    except DivergenceError as error:
        return prepare(context, preparation, files.instead(error))
    return files


def repair(context: Context) -> int:
    """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
    with run_lock(context.path):
        _remove_half_written(context.path)
        found = [(preparation, files) for preparation in preparations() for files in preparation.stored(context)]
        return sum(stages.repair(preparation, files) for preparation, files in found)


def _remove_half_written(path: Path) -> None:
    """Remove what killed commands left half-written in the term stores of a run directory."""
    for store in (path / TERMS, *path.glob("*/terms")):
        for directory in (store, *store.glob("arrays/*"), *store.glob("ledger/*")):
            remove_parts(directory)
