"""What is computed before the first order, stage by stage: planned, refused, resumed, checked and repaired by one engine.

A *stage* is a list of units of work, each durable once it is done: a step, a block of items. A *preparation* is the stages that
fill one directory of a run. What a stage costs follows from a specification alone, which has no directory; what is missing of it
follows from the files.
"""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from estimators.errors import DivergenceError
from fut.artifacts.directory import directory_bytes
from fut.artifacts.identity import MANIFEST, PINS, pin_identity, read_identity, read_pins, require_identity
from fut.methods.timings import StageCost, Timings
from fut.progress import Progress, silent
from storage import CheckpointStore, Damage, StorageError, TermSpec, TermStore, fingerprint

if TYPE_CHECKING:
    from fut.methods.adjoint.config import AdjointConfig
    from fut.methods.context import Context
    from fut.methods.footprint import Footprint
    from fut.methods.lowrank.config import LowRankConfig
    from fut.methods.pairwise.config import CacheConfig
    from fut.methods.settings import Config
    from fut.training.problem import Problem

LESS = "lower data.batch, data.context or the model's size"
"""What to lower where nothing of a method's own is at fault."""
TERMS = "terms"
Names = Sequence[str] | None
"""Names, or one alone as a string; None for what is usual."""


class Cost(NamedTuple):
    """What a stage takes. gradients: evaluations (a Hessian-vector product counts two); kept, scratch: bytes on disk."""

    gradients: int = 0
    kept: int = 0
    scratch: int = 0


def bytes_of(terms: Sequence[TermSpec], names: Names = None) -> int:
    """Bytes of the named terms, before compression; of all for None."""
    named = [term for term in terms if names is None or term.name in names]
    return sum(math.prod(term.shape) * term.stored_dtype.itemsize for term in named)


class Prepared(ABC):
    """What a preparation left in a directory, or is about to."""

    directory: Path
    _scratch_stores: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that are stores of scratch."""
    spec: Any
    """What it is made of; costs are functions of it, and its `settings` are what decides the numbers beside the run."""

    @property
    def problem(self) -> Problem:
        """What is trained."""
        problem: Problem = self.spec.problem
        return problem

    @property
    def identity(self) -> dict[str, Any]:
        """What the directory pins: IdentityError where it holds another."""
        return {"run": self.problem.identity, **self.spec.settings}

    @abstractmethod
    def open_terms(self) -> TermStore:
        """The term store, created or compared in full."""

    @cached_property
    def owner(self) -> str:
        """The digest of what the directory pins, which every file in it holds."""
        return fingerprint(self.identity)

    def store(self, part: str) -> CheckpointStore:
        """A store of checkpoints in the directory."""
        return CheckpointStore(self.directory / part, self.owner)

    def term_specs(self) -> list[TermSpec]:
        """The terms of the store, and their shapes."""
        specs: list[TermSpec] = self.spec.term_specs()
        return specs

    def terms(self) -> TermStore:
        """The term store, opened for reading; IdentityError where it is another's, or has other shapes."""
        return TermStore.open(self.terms_path, self.identity, self.term_specs())

    @property
    def pinned(self) -> Sequence[str]:
        """Read-outs whose values are to be pinned."""
        return ()

    @property
    def readable(self) -> bool:
        """Whether there are terms, of which some may be missing."""
        return self.opened and TermStore.created(self.terms_path)

    def complete(self) -> bool:
        """Whether every stage is done."""
        return self.readable and not self.terms().missing()

    @property
    def opened(self) -> bool:
        """Whether what decides the terms' shapes is known."""
        return True

    _on_disk: ClassVar[bool] = True

    @property
    def again(self) -> Request | None:
        """What opens these files in another process; None where it would not find all that units read, or find it changing."""
        return Request() if self._on_disk else None

    @property
    def scratch(self) -> Path:
        """What is removed once all is complete."""
        return self.directory / "scratch"

    @property
    def terms_path(self) -> Path:
        """Where the term store is."""
        return self.directory / TERMS

    def require_own(self, kind: str) -> None:
        """IdentityError, naming field and both values, where the directory is made of something else: before a file of it is
        read, of which only a digest could be compared. kind: of the preparation, in messages."""
        require_identity(self.directory, kind, self.identity)

    def release(self) -> None:
        """Let go of stores of scratch, which are made anew when they are asked for: what is held in memory goes with them."""
        for name in self._scratch_stores:
            self.__dict__.pop(name, None)

    def instead(self, error: DivergenceError) -> Self:
        """Files to go on with after an error, in place of these, which cannot be made; raises the error where there are none."""
        raise error


F = TypeVar("F", bound=Prepared)


Stores = Sequence[CheckpointStore]


@dataclass(frozen=True)
class Stage(Generic[F]):
    """One stage of a preparation.

    Args:
        name: what it is, to people.
        missing: the units of work that are to be done yet, in order; none where nothing that is missing reads them.
        work: does units, and yields once after each, when that one is durable.
        independent: whether any of the units can be done elsewhere, in any order; else each needs the one before.
        together: what units have in common that are done by one process, as they read or write the same; itself for a unit alone.
        stores: what it writes beside terms, in groups of use together alone: one damaged file, and the group is discarded.
        cost: of a specification.
        seconds: of a specification, by timings taken here; None for those of its gradients.
        memory: bytes at its height.
        passing: bytes of arrays that are on their way between the device and a file at a time, at most.
        held: bytes of scratch that is in memory instead of files: of the host, or of a GPU that has it free.
        advice: what to lower where that does not fit.
        part_of: whether a specification has the stage at all.
        within: the stage whose figures hold this one's; empty for its own.
    """

    name: str
    missing: Callable[[F], Sequence[Any]]
    work: Callable[[F, Sequence[Any]], Iterator[object]]
    independent: bool = False
    together: Callable[[Any], Hashable] = lambda unit: unit
    stores: Callable[[F], Sequence[Stores]] = lambda files: ()
    cost: Callable[[Any], Cost] = lambda spec: Cost()
    seconds: Callable[[Any, Timings], float] | None = None
    memory: Callable[[Any, Footprint], int] = lambda spec, footprint: footprint.planned(footprint.resident)
    passing: Callable[[Any], int] = lambda spec: 0
    held: Callable[[Any], int] = lambda spec: 0
    advice: str = LESS
    part_of: Callable[[Any], bool] = lambda spec: True
    within: str = ""


@dataclass(frozen=True)
class Request:
    """What is asked to be computed.

    Args:
        names: of preparations, and of terms of every (checkpoint, item) pair, or `all`; None for what the default estimator
            reads, and for what was begun.
        readouts: what is estimated; None for the configured ones.
        adjoint, cache, lowrank: configurations in place of the stored or the run's own.
    """

    names: Names = None
    readouts: Names = None
    adjoint: AdjointConfig | None = None
    cache: CacheConfig | None = None
    lowrank: LowRankConfig | None = None

    def __post_init__(self) -> None:
        for field in ("names", "readouts"):
            if isinstance(name := getattr(self, field), str):
                object.__setattr__(self, field, [name])


class Preparation(ABC, Generic[F]):
    """What one or more methods compute before the first order, in one directory of the run.

    name: of the directory, and what is asked for with `--terms`. section: of the configuration. kind: in messages.
    what: in words, where the disk is full. parts: the checkpoint stores below the directory. rank: what is computed
    first has the smaller one. needs_smooth: whether it takes a rule with a derivative.
    """

    name: ClassVar[str]
    section: ClassVar[str]
    kind: ClassVar[str] = "expansion"
    what: ClassVar[str] = ""
    parts: ClassVar[tuple[str, ...]] = ()
    rank: ClassVar[int] = 0
    needs_smooth: ClassVar[bool] = True
    stages: ClassVar[tuple[Stage[Any], ...]] = ()

    @property
    def terms(self) -> tuple[str, ...]:
        """What is asked for with `--terms`."""
        return (self.name,)

    @abstractmethod
    def planned(self, problem: Problem, config: Config) -> Any:
        """The specification that a configuration means."""

    @abstractmethod
    def open(self, context: Context, request: Request = Request()) -> F:
        """The files as they are stored, as requested or as configured."""

    def opened(self, context: Context, request: Request = Request()) -> list[F]:
        """All that is to be computed for a request, in that order."""
        return [self.open(context, request)]

    def places_in(self, path: Path) -> list[str]:
        """Directories of a run directory in which it can lie."""
        return [self.name]

    def usual(self, context: Context) -> tuple[str, ...]:
        """Its terms that `all` stands for."""
        return ()

    def begun_terms(self, path: Path) -> tuple[str, ...]:
        """Its terms that a run directory has, finished or not."""
        return self.terms if (path / self.name / MANIFEST).exists() else ()

    def require_possible(self, spec: Any) -> None:
        """OrderError or UsageError, before anything is computed, for what these items cannot make."""

    def pin_identity(self, files: F, pins: dict[str, float], path: Path) -> None:
        """Pin what a directory is made of before its first number; IdentityError if it holds another one.

        pins: values that recognise the users' own read-outs, kept as they were when a directory of the run was first claimed.
        """
        kept = pins | (read_pins(path) if files.pinned else {})
        pin_identity(files.directory, self.kind, files.identity, {PINS: kept} if kept else {})

    def cost(self, spec: Any) -> Cost:
        """What all stages take together."""
        costs = [stage.cost(spec) for stage in parts_of(self.stages, spec)]
        return Cost(*(sum(column) for column in zip(*costs, strict=True)))

    def still(self, files: F) -> tuple[list[str], int, Cost]:
        """What is to be computed yet: the terms, the number of pieces, and what that takes; all, where any is missing."""
        if files.complete():
            return [], 0, Cost()
        return [self.name], 1, self.cost(files.spec)

    def rest(self, files: F) -> int:
        """Bytes on disk that are to be written yet: without what an interrupted call left there."""
        cost = self.cost(files.spec)
        return max(0, cost.kept + cost.scratch - directory_bytes(files.directory))

    def stored(self, context: Context) -> list[F]:
        """Those that a run directory has."""
        return [self.open(context)] if self.begun_terms(context.path) else []

    def rows(self, problem: Problem, config: Config, timings: Timings) -> Iterator[StageCost]:
        """What each stage costs, before it is computed."""
        yield from stage_costs(self, self.planned(problem, config), timings)

    def notes(self, problem: Problem, config: Config) -> list[str]:
        """What is to be said of these figures."""
        return []

    def describe(self, context: Context) -> dict[str, Any]:
        """What `fut info` says of it, ready for JSON."""
        return {}

    def check(self, path: Path, owner: str) -> list[Damage]:
        """Verify every checksum of what is below a run directory, without opening the run. owner: the run's digest."""
        damages = []
        for place in self.places_in(path):
            directory = path / place
            try:
                pinned = read_identity(directory, owner) if (directory / MANIFEST).exists() else None
            except StorageError as error:
                damages.append(Damage(str(directory / MANIFEST), str(error)))
                continue
            held = "" if pinned is None else fingerprint(pinned)
            damages += [d for part in self.parts for d in CheckpointStore(directory / part, held).check()]
            damages += damaged_terms(directory / TERMS, pinned) if (directory / TERMS).exists() else []
        return damages


def stage_costs(preparation: Preparation[Any], spec: Any, timings: Timings) -> Iterator[StageCost]:
    """What each stage of a specification costs."""
    for stage in counted(preparation.stages, spec):
        cost, footprint = stage.cost(spec), timings.footprint
        memory = footprint.split(stage.memory(spec, footprint), stage.passing(spec), stage.held(spec))
        if stage.seconds is not None:
            seconds = stage.seconds(spec, timings)
        else:
            seconds = cost.gradients * timings.item if cost.gradients else 0.0
        name = f"{preparation.name}: {stage.name}"
        yield StageCost(name, cost.gradients, seconds, cost.kept, cost.scratch, *memory)


def parts_of(stages: Sequence[Stage[F]], spec: Any) -> list[Stage[F]]:
    """The stages that a specification has."""
    return [stage for stage in stages if stage.part_of(spec)]


def counted(stages: Sequence[Stage[F]], spec: Any) -> list[Stage[F]]:
    """Those of them that have figures of their own."""
    return [stage for stage in parts_of(stages, spec) if not stage.within]


Doing = Callable[[Stage[Any], Any, Sequence[Any]], Iterator[object]]
"""(stage, files, units): does units of a stage, and yields once after each."""


def here(stage: Stage[F], files: F, units: Sequence[Any]) -> Iterator[object]:
    """Units one after the other, in this process."""
    return stage.work(files, units)


def build(preparation: Preparation[F], files: F, progress: Progress = silent, do: Doing = here) -> None:
    """Do every unit that is missing; what was discarded is computed again, the same. Scratch is removed at the end.

    do: does units of a stage.
    """
    for stage in preparation.stages:
        if not stage.part_of(files.spec) or not (units := stage.missing(files)):
            continue
        with progress(stage.name, len(units)) as tick:
            for _ in do(stage, files, units):
                tick()
    discard_scratch(files)


def discard_scratch(files: Prepared) -> None:
    """All of scratch at once: what a kill leaves half removed must not be gone on with, should a damaged term need it again."""
    files.release()
    gone = files.directory / "discarded"
    shutil.rmtree(gone, ignore_errors=True)
    if files.scratch.exists():
        files.scratch.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def repair(preparation: Preparation[F], files: F) -> int:
    """Discard what is damaged, so that `build` computes it again.

    Returns:
        How many pieces that were.
    """
    count = 0
    for stores in (group for stage in preparation.stages for group in stage.stores(files)):
        if any(store.check() for store in stores):
            for store in stores:
                shutil.rmtree(store.directory, ignore_errors=True)
            count += 1
    if files.terms_path.exists() and files.opened:
        count += len(files.open_terms().repair())
    return count


def damaged_terms(path: Path, identity: dict[str, Any] | None = None) -> list[Damage]:
    """What is damaged of a term store. identity: what it must belong to; None for any."""
    try:
        return TermStore.open(path, identity).check()
    except StorageError as error:
        return [Damage(str(path), str(error))]
