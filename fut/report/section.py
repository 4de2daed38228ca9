"""What a section of the page is, and the record of the run that it reads.

To add a section: a file in `fut/report/sections/` with its `Section`, and a line in `SECTIONS`.

    SECTION = Section("length", "How long?", "length.html.j2", lambda record: record.run.steps, (has_terms,))

Its template stands in `fut/report/templates/`, extends `section.html.j2`, and has the run's `record` and, as `data`, what
`gather` gave. Where `gather` gives a `Missing`, the page says so with the command that computes it, and the template is
not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fut.artifacts import directory as files
from fut.artifacts.archive import read_answer
from fut.errors import EXPECTED
from fut.estimation.calibration import DIRECTORY, Calibrated, read_calibration
from fut.estimation.service import EstimationService
from fut.questions.accuracy.ask import without_stale
from fut.questions.accuracy.leave_out import Datamodel
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import suffix
from fut.report.entries import ChecklistRow, Missing, Tile, command
from fut.report.words import with_article
from storage import StorageError

if TYPE_CHECKING:
    from fut.methods.context import Context


T = TypeVar("T")
Content = dict[str, Any]
BAD = (TypeError, KeyError, ValueError, IndexError, AttributeError)
"""What a file raises that is no answer of this version."""


@dataclass(frozen=True)
class Sampling:
    """Random orders that are estimated for the page.

    Args:
        count: how many; 0 for none.
        estimator: the method that is asked.
    """

    count: int
    estimator: str


@dataclass
class RunRecord:
    """A run, and everything that has been asked of it.

    Args:
        run: the opened run.
        sampling: random orders that are estimated for the page.
        sections: those of the page, for what speaks of all of them.
        verified: results of `fut verify`, those of most orders first.
        left_out: results of `fut lds`, those of most subsets first.
        answers: the JSON of all other answers with the file that it lies in, by kind.
        unreadable: files that hold none of these, and why.
    """

    run: Context
    sampling: Sampling
    sections: tuple[Section, ...] = ()
    verified: list[Verification] = field(default_factory=list)
    left_out: list[Datamodel] = field(default_factory=list)
    answers: dict[str, list[tuple[str, Content]]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    _computed: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    @property
    def row(self) -> str:
        """What an order moves here, in a word: the batch of a step, or the item where a step has several."""
        return "batch" if self.run.config.data.per_step == 1 else "item"

    @property
    def a_row(self) -> str:
        """The same with its article."""
        return with_article(self.row)

    def once(self, part: Callable[[RunRecord], T]) -> T:
        """What several sections need, computed once.

        Args:
            part: record -> value.
        """
        if part not in self._computed:
            self._computed[part] = part(self)
        value: T = self._computed[part]
        return value

    def read(self, kind: str, show: Callable[[Content], T]) -> list[T]:
        """Answers of a kind, by file name; one that cannot be shown is named as unreadable.

        Args:
            kind: of the answers.
            show: JSON -> what a section makes of it, by the answer's own `from_dict`.
        """
        shown = []
        for file, content in self.answers.get(kind, ()):
            try:
                shown.append(show(content))
            except BAD as error:
                self.unreadable[file] = f"no answer that this version reads: {error!r}"
        return shown

    def count(self, kind: str) -> int:
        """Answers of a kind, less those that could not be shown."""
        return sum(file not in self.unreadable for file, _ in self.answers.get(kind, ()))


Need = Callable[[RunRecord], ChecklistRow]
"""What a section needs: looks at a run, and says whether it has that."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: of its element, to which links go.
        title: in the navigation.
        template: file that writes its data.
        gather: record of the run -> data for the template, or what is missing.
        needs: rows of the checklist, one for each thing that it needs.
        tiles: record of the run -> what it says among the page's first words.
        heading: above the section; by default its title. `{a_row}` stands for "a batch" or "an item".
    """

    name: str
    title: str
    template: str
    gather: Callable[[RunRecord], Any | Missing]
    needs: tuple[Need, ...] = ()
    tiles: Callable[[RunRecord], Sequence[Tile]] = lambda record: ()
    heading: str = ""

    def headed(self, record: RunRecord) -> str:
        """The heading, with the run's own word for what an order moves."""
        return (self.heading or self.title).format(a_row=record.a_row)


def answered(question: str, kind: str, name: str, options: str) -> Need:
    """The need of a section that shows kept answers.

    Args:
        question: in words; `{a_row}` as in a heading.
        kind: of the answers.
        name: of the command that asks.
        options: of that command.
    """

    def need(record: RunRecord) -> ChecklistRow:
        count = record.count(kind)
        state = f"{count} answer{'s' if count > 1 else ''} kept" if count else "not computed yet"
        again = command(record.run.path, name, options)
        return ChecklistRow(question.format(a_row=record.a_row), bool(count), state, again)

    return need


def read_record(run: Context, sampling: Sampling, sections: tuple[Section, ...] = ()) -> RunRecord:
    """Everything that questions have left in a run directory; a file that cannot be read is named, not fatal.

    What was verified of estimators whose terms or calibration have been made anew since is left out.
    """
    record, path, service = RunRecord(run, sampling, sections), run.path, EstimationService(run)
    for file, content in _objects(path, files.VERIFICATION, record):
        try:
            if file.stem.startswith("lds-"):
                record.left_out.append(Datamodel.from_dict(content))
            else:
                record.verified.append(Verification.from_dict(without_stale(content, service.basis)))
        except BAD as error:
            record.unreadable[_named(path, file)] = f"no result of `fut verify` or `fut lds`: {error}"
    for file, content in _objects(path, files.ANSWERS, record):
        if isinstance(kind := content.get("question"), str):
            record.answers.setdefault(kind, []).append((_named(path, file), content))
        else:
            record.unreadable[_named(path, file)] = f"expected the kind of its `question`, got {kind!r}"
    record.verified.sort(key=lambda v: -len(v.orders))
    record.left_out.sort(key=lambda d: -len(d.subsets))
    return record


def _objects(path: Path, directory: str, record: RunRecord) -> Iterator[tuple[Path, Content]]:
    """The JSON objects of a directory, by file name."""
    for file in sorted((path / directory).glob("*.json")):
        try:
            content = read_answer(file, record.run.owner)
        except (StorageError, OSError) as error:
            record.unreadable[_named(path, file)] = str(error)
            continue
        if content is None:
            record.unreadable[_named(path, file)] = "kept by another version; ask again"
        else:
            yield file, content


def _named(path: Path, file: Path) -> str:
    return str(file.relative_to(path))


def calibrations(run: Context, readout: str) -> list[Calibrated]:
    """The calibrations of a read-out that still hold, of all estimators, by name."""
    end, kept = suffix(readout), []
    for file in sorted((run.path / DIRECTORY).glob(f"*{end}.json")):
        name = file.stem.removesuffix(end).replace("+", ":")
        if "-readout-" in name or "-edit-" in name:  # of other read-outs, or fitted to other orders than random ones
            continue
        try:
            fit = read_calibration(run, name, readout)
        except EXPECTED:
            continue
        if fit is not None:
            kept.append(fit)
    return kept
