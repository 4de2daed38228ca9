"""What the processes of an engine do for a run: units of stages, and retrainings. They open the run's directory themselves.

What they leave are the run's own files, the same as this process would write: each whole or absent, under a name that no other
unit has. So a process may end in the middle, and its unit is done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from fut.artifacts.creation import BITWISE
from fut.artifacts.directory import RETRAINED
from fut.errors import EngineError
from fut.execution.engine import Site
from fut.methods.context import Context
from fut.methods.footprint import Footprint
from fut.methods.registry import preparations
from fut.methods.stages import Doing, Prepared, Request, Stage, here
from fut.progress import silent
from fut.resources.device import environment, reproducible
from fut.resources.memory import require_memory
from storage import fetch_all, remove_abandoned, tell

PIECES = 8
"""Pieces of a stage's units for every worker: each is done by one, and few enough of them that opening files takes no time."""


def site_of(context: Context) -> Site:
    """A run as other processes open it."""
    fetch_all(context.path, but=[RETRAINED])  # they open the local copy of a run at a URL, and fetch nothing
    device, threads = context.device.type, torch.get_num_threads()
    now = environment(context.device)
    opener = partial(open_again, context.path.absolute(), device, context.given, context.trust, now)
    return Site(f"{context.key} {threads}", opener, device, threads)


def open_again(path: Path, device: str, given: dict[str, Any], trust: bool, wanted: dict[str, Any]) -> Context:
    """Open a run in a worker; EngineError where this would not compute the same bits as the process that asks.

    Args:
        path: the run directory.
        device: `cpu` or `cuda`.
        given: module, loss, optimizer and read-outs, as `Context` takes them.
        trust: as `Context` takes it.
        wanted: the environment of the process that asks.
    """
    context = Context(path, device=device, progress=silent, trust=trust, **given)
    found = environment(context.device)
    if differing := [field for field in BITWISE if found[field] != wanted[field]]:
        fields = "; ".join(f"{field}: expected {wanted[field]}, got {found[field]}" for field in differing)
        raise EngineError(
            f"engine: expected a worker that computes the same bits as this process, got one that differs ({fields}); give it "
            "the same torch and the same kind of device"
        )
    return context


def workers_here(context: Context) -> int:
    """How many processes of the run's engine share this machine's memory; 0 for none, or where that is not known."""
    return context.engine.sharing(site_of(context)) if context.engine.elsewhere else 0


def require_workers(what: str, workers: int, each: int) -> None:
    """ResourceError unless so many processes, of so many bytes each, fit the memory of this machine."""
    require_memory(f"{what} in {workers} processes", workers * each, torch.device("cpu"), "lower --workers")


@dataclass(frozen=True)
class Piece:
    """Units of one stage of a preparation, for one worker.

    Args:
        preparation: its name, and `directory` and `owner` what it fills.
        request: what opens its files.
        stage: the number of the stage among the preparation's.
        units: what is to be done.
    """

    preparation: str
    directory: Path
    owner: str
    request: Request
    stage: int
    units: Sequence[Any]


def doing(context: Context, preparation: Any) -> Doing:
    """What does the units of a preparation's stages: the processes of the run's engine, where they can."""
    if not context.engine.elsewhere:
        return here

    footprint = Footprint(context.problem)

    def do(stage: Stage[Any], files: Prepared, units: Sequence[Any]) -> Iterator[object]:
        request = files.again
        if not stage.independent or request is None or len(units) == 1:
            yield from here(stage, files, units)
            return
        site, number = site_of(context), preparation.stages.index(stage)
        about = preparation.name, files.directory.absolute(), files.owner, request, number
        pieces = [Piece(*about, part) for part in _cut(stage, units, PIECES * context.engine.workers(site))]
        if workers := min(context.engine.sharing(site), len(pieces)):
            each = footprint.split(stage.memory(files.spec, footprint), 0, stage.held(files.spec))[0]
            require_workers(stage.name, workers, each)
        for place, _ in context.engine.each(site, do_piece, pieces):
            yield from pieces[place].units
        remove_abandoned(files.directory)

    return do


def _cut(stage: Stage[Any], units: Sequence[Any], most: int) -> list[list[Any]]:
    """Units in pieces, at most as many as said, in order; what goes together stays together."""
    groups = [list(group) for _, group in groupby(units, stage.together)]
    size = -(-len(groups) // most)
    return [[unit for group in groups[at : at + size] for unit in group] for at in range(0, len(groups), size)]


def do_piece(context: Context, piece: Piece) -> None:
    """Do those of the units that are missing, in a worker: one that ended may have done some."""
    with reproducible(context.device):
        stage, files = _opened(context, piece)
        missing = set(stage.missing(files))
        if units := [unit for unit in piece.units if unit in missing]:
            for _ in stage.work(files, units):
                pass


def _opened(context: Context, piece: Piece) -> tuple[Stage[Any], Prepared]:
    """The stage of a piece and the files that it fills; EngineError where they are others here."""
    [preparation] = [of for of in preparations() if of.name == piece.preparation]
    wanted = piece.directory, piece.owner
    for files in (*preparation.opened(context, piece.request), *preparation.stored(context)):
        if (files.directory, files.owner) == wanted:
            return preparation.stages[piece.stage], files
    raise EngineError(
        f"engine: expected {piece.directory} of {piece.owner[:12]}… in a worker, got another or none; do all workers see "
        "the same file system?"
    )


def _silently() -> None:
    """Nobody counts."""


def train_ahead(
    context: Context, orders: Iterable[Order], at: Iterable[int] = (), tick: Callable[[], object] = _silently
) -> None:
    """Have orders retrained by the processes of the run's engine, and kept: `Context.retrain` then finds them.

    Nothing is done where the engine is this process, which trains each when it is asked for, nor where nothing can be kept. An
    order that diverges is left out; `Context.retrain` says so when it is asked for it.

    Args:
        context: the opened run.
        orders: to train; those that are known are not trained again.
        at: steps after which the result is kept too, as in `Context.retrain`.
        tick: called for every step that was trained.
    """
    if not context.engine.elsewhere or not os.access(context.path, os.W_OK):
        return
    steps, problem, kept = sorted(set(at)), context.problem, context.retrained
    forms = {problem.canonical(order): order for order in orders}
    missing = [
        order
        for form, order in forms.items()
        if form not in context.diverged
        and not all(kept.has(part) for part in (order, *(order.first(step) for step in steps if step < len(order))))
    ]
    if missing and (workers := min(workers_here(context), len(missing))):
        footprint = Footprint(problem)
        require_workers("retraining", workers, footprint.split(footprint.training())[0])
    for place, diverged in context.engine.each(site_of(context), partial(retrain_one, at=steps), missing):
        if diverged is not None:
            context.diverged[problem.canonical(missing[place])] = diverged
        for _ in missing[place].steps:
            tick()
    if missing:
        remove_abandoned(kept.directory)
        tell(kept.directory)


def retrain_one(context: Context, order: Order, at: Sequence[int] = ()) -> str | None:
    """Retrain an order in a worker, and keep what it comes to; what is said where it diverges."""
    try:
        context.retrain(order, at=at)
    except DivergenceError as error:
        return str(error)
    return None
