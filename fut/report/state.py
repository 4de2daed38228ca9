"""What has been asked of a run: its verifications, calibrations and answers as they lie on disk, and what is unreadable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fut.artifacts import directory as files
from fut.errors import EXPECTED
from fut.estimation.calibration import DIRECTORY, Calibrated, read_calibration
from fut.estimation.service import EstimationService
from fut.questions.accuracy.ask import without_stale
from fut.questions.accuracy.result import Verification
from fut.questions.curriculum.result import Curriculum
from fut.questions.leave_out.score import Datamodel
from fut.readouts.readout import suffix
from fut.report.sections.domains import DomainOrders, domain_orders
from fut.report.sections.memorization import Remembered, remembered
from fut.report.sections.whatif import Query, queries
from storage import StorageError, read_json

if TYPE_CHECKING:
    from fut.methods.context import Context


@dataclass
class State:
    """verified: results of `fut verify`, those of most orders first. left_out: of `fut lds`. searched: of `fut search`;
    remembered: of `fut memorize`; domains: of `fut domains`; queries: of `fut whatif`, a row per read-out.
    answers: how many of every kind there are. unreadable: files that hold none of these, and why."""

    verified: list[Verification] = field(default_factory=list)
    left_out: list[Datamodel] = field(default_factory=list)
    searched: list[Curriculum] = field(default_factory=list)
    remembered: list[Remembered] = field(default_factory=list)
    domains: list[DomainOrders] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def read_state(run: Context) -> State:
    """Everything that questions have left in a run directory; a file that cannot be read is named, not fatal. What was verified
    of estimators whose terms or calibration have been made anew since is left out."""
    state, path, service = State(), run.path, EstimationService(run)
    for file, found in _objects(path, files.VERIFICATION, state):
        try:
            if file.stem.startswith("lds-"):
                state.left_out.append(Datamodel.from_dict(found))
            else:
                state.verified.append(Verification.from_dict(without_stale(found, service.basis)))
        except (TypeError, KeyError) as error:
            state.unreadable.append((_named(path, file), f"no result of `fut verify` or `fut lds`: {error}"))
    for file, found in _objects(path, files.ANSWERS, state):
        try:
            _answer(state, found, "batch" if run.config.data.per_step == 1 else "item")
        except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
            state.unreadable.append((_named(path, file), f"no answer that this version reads: {error!r}"))
    state.verified.sort(key=lambda v: -len(v.orders))
    state.left_out.sort(key=lambda d: -len(d.subsets))
    return state


def _answer(state: State, found: dict[str, Any], row: str) -> None:
    """row: what an item of the run is called."""
    question = found["question"]
    if question == "search":
        state.searched.append(Curriculum.from_dict(found))
    elif question == "memorization":
        state.remembered.append(remembered(found, len(state.remembered), row))
    elif question == "domains":
        state.domains.append(domain_orders(found))
    elif question == "whatif":
        state.queries += queries(found)
    state.answers[question] += 1


def _objects(path: Path, directory: str, state: State) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The JSON objects of a directory, by file name."""
    for file in sorted((path / directory).glob("*.json")):
        try:
            found = read_json(file)
        except (StorageError, OSError) as error:
            state.unreadable.append((_named(path, file), str(error)))
            continue
        if isinstance(found, dict):
            yield file, found
        else:
            state.unreadable.append((_named(path, file), f"expected a JSON object, got {type(found).__name__}"))


def _named(path: Path, file: Path) -> str:
    return str(file.relative_to(path))


def calibrations(run: Context, readout: str) -> list[Calibrated]:
    """The calibrations of a read-out that still hold, of all estimators, by name."""
    end, found = suffix(readout), []
    for file in sorted((run.path / DIRECTORY).glob(f"*{end}.json")):
        name = file.stem.removesuffix(end).replace("+", ":")
        if "-readout-" in name or "-edit-" in name:  # of other read-outs, or fitted to other orders than random ones
            continue
        try:
            fit = read_calibration(run, name, readout)
        except EXPECTED:
            continue
        if fit is not None:
            found.append(fit)
    return found
