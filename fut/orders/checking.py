"""Did a training obey an order? Its log of what was consumed, compared with the order step by step."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimators.errors import OrderError
from estimators.numbers import as_int, shown
from estimators.orders.order import Order
from estimators.orders.samplers import indexed
from fut.display.notebook import Displayable
from fut.display.numbers import jsonable_fields
from fut.orders.files import BARE, LINES, NUMPY, content_of, cut, read_indices, read_lines, some
from storage import parse_json

WORD = re.compile(r"[^\s,\[\]]+")
STEPS, INDICES = ("step", "global_step"), ("indices", "items", "index", "ids")
"""Keys of a log's lines: of the step, and of what it consumed."""
LISTED = 100
"""Indices, and steps, that an answer lists of each kind."""


@dataclass(frozen=True)
class StepDifference:
    """A step that consumed something else. step: of the window; expected, logged: indices, ascending."""

    step: int
    expected: list[int]
    logged: list[int]


@dataclass(frozen=True)
class Obedience(Displayable):
    """Whether a log is of an order. Within a step indices have no order.

    Args:
        order: its digest.
        steps: of the order.
        logged_steps: of the log.
        differing: steps that consumed something else than the order says, those that one has and the other lacks among them.
        first: the first of these; None where there are none.
        missing: indices that the order consumes and the log does not, or less often; at most `LISTED`.
        added: indices that the log consumes and the order does not, or more often; at most `LISTED`.
        missing_count, added_count: how many these are in all.
    """

    order: str
    steps: int
    logged_steps: int
    differing: int
    first: StepDifference | None
    missing: list[int]
    added: list[int]
    missing_count: int
    added_count: int

    @property
    def obeyed(self) -> bool:
        """Whether every step consumed what the order says."""
        return not self.differing

    def as_dict(self) -> dict[str, Any]:
        first = None if self.first is None else vars(self.first)
        return jsonable_fields({"obeyed": self.obeyed} | vars(self) | {"first": first})

    def title(self) -> str:
        if self.obeyed:
            return f"obeyed: the log has what the order says in each of {self.steps} steps"
        return f"not obeyed: {self.differing} of {max(self.steps, self.logged_steps)} steps differ"

    def rows(self) -> list[dict[str, Any]]:
        """The first step that differs, if one does."""
        return [] if self.first is None else [{k: some(v) if k != "step" else v for k, v in vars(self.first).items()}]

    def notes(self) -> list[str]:
        """What is to be said beside that."""
        said = []
        if self.logged_steps != self.steps:
            said.append(f"the order has {self.steps} steps, the log {self.logged_steps}")
        if self.missing_count:
            said.append(f"missing in the log, or there less often: {some(self.missing)} ({self.missing_count} in all)")
        if self.added_count:
            said.append(f"only in the log, or there more often: {some(self.added)} ({self.added_count} in all)")
        if not self.obeyed and not self.missing_count and not self.added_count:
            said.append("the log consumes what the order does, in another order")
        return said

    def text(self) -> str:
        """As the command line prints it."""
        lines = [self.title()]
        if self.first is not None:
            lines.append(
                f"first at step {self.first.step}: expected {some(self.first.expected)}, the log has {some(self.first.logged)}"
            )
        return "\n".join([*lines, *self.notes()])


def check_log(path: Path, order: Order, samples: int = 1, start: int = 0, later: bool = True) -> Obedience:
    """Compare a log with an order.

    Args:
        path: the log: JSON lines with `step` and `indices`, where several lines may be of one step; a plain list of indices in
            text or JSON; an array of numpy; or bare `uint32` numbers (`.uint32`, `.u32`, `.bin`, `.npy`).
        order: what was to be consumed.
        samples: rows of the data set that make an item, consecutive ones; the log has indices of rows.
        start: the step in the log at which the window begins; of a flat log, steps are as long as the order's first.
        later: whether steps after the window count as steps that differ; False for the log of a training that went on.

    Raises:
        OrderError: for a log that cannot be read, naming the line.
    """
    begin = as_int(start)
    if begin is None or begin < 0:
        raise OrderError(f"check-order: expected a step from 0 for the start, got {shown(start)}; correct it")
    expected = [sorted(step) for step in indexed(order.entries, samples)]
    logged = [sorted(step) for step in _logged(path, [len(step) for step in expected], begin)]
    return compared(order.digest, expected, logged if later else logged[: len(expected)])


def compared(digest: str, expected: Sequence[list[int]], logged: Sequence[list[int]]) -> Obedience:
    """The comparison of two lists of steps, each of which lists indices, ascending."""
    count = max(len(expected), len(logged))
    ours, theirs = ([*steps, *([] for _ in range(count - len(steps)))] for steps in (expected, logged))
    differing = [step for step in range(count) if ours[step] != theirs[step] or step >= min(len(expected), len(logged))]
    first = None if not differing else StepDifference(differing[0], ours[differing[0]], theirs[differing[0]])
    wanted, found = (Counter(i for step in steps for i in step) for steps in (expected, logged))
    missing, added = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    lists = missing[:LISTED], added[:LISTED]
    return Obedience(digest, len(expected), len(logged), len(differing), first, *lists, len(missing), len(added))


def _logged(path: Path, lengths: Sequence[int], start: int) -> list[list[int]]:
    """What a log says that each step consumed. lengths: of the order's steps, into which a flat log is cut."""
    if path.suffix == LINES:
        return _lines(path, read_lines(path), start, lengths)
    binary = path.suffix == NUMPY or path.suffix in BARE
    found: list[Any] = read_indices(path).tolist() if binary else _listed(path)
    if found and isinstance(found[0], list):
        return found[start:]
    return cut(found[start * lengths[0] :], lengths)


def _lines(path: Path, values: Sequence[Any], start: int, lengths: Sequence[int]) -> list[list[int]]:
    """Steps from JSON lines. Lines of one step are put together; lines without a step are of one step each, or of an index."""
    if values and all(as_int(value) is not None for value in values):
        return cut([_number(path, value) for value in values][start * lengths[0] :], lengths)
    steps: dict[int, list[int]] = {}
    for number, value in enumerate(values):
        given = value if isinstance(value, Mapping) else {"indices": value}
        step = _number(path, next((given[key] for key in STEPS if key in given), number + start))
        listed = next((given[key] for key in INDICES if key in given), None)
        if listed is None:
            raise OrderError(
                f"log: expected `step` and `indices` in every line, got {sorted(map(str, given))} in {path}; write "
                '{"step": 0, "indices": [3, 1]}'
            )
        several = listed if isinstance(listed, list) else [listed]
        steps.setdefault(step - start, []).extend(_number(path, index) for index in several)
    if steps and min(steps) < 0:
        steps = {step: indices for step, indices in steps.items() if step >= 0}
    last = max(steps, default=-1)
    if last > sum(lengths) + len(steps) + len(lengths):
        raise OrderError(
            f"log: expected steps of a window of {len(lengths)}, got step {last + start} in {path}; say where the window begins "
            "with --start"
        )
    return [steps.get(step, []) for step in range(last + 1)]


def _listed(path: Path) -> list[Any]:
    """A list of indices, or of steps, from JSON or from numbers in a text."""
    content = content_of(path)
    try:
        value = parse_json(content)
    except ValueError:
        return [_number(path, word) for word in WORD.findall(content.decode("utf-8", "replace"))]
    value = value.get("order", value) if isinstance(value, Mapping) else value
    entries = value if isinstance(value, list) else [value]
    if any(isinstance(entry, list) for entry in entries):
        return [[_number(path, i) for i in (entry if isinstance(entry, list) else [entry])] for entry in entries]
    return [_number(path, entry) for entry in entries]


def _number(path: Path, value: Any) -> int:
    """An index, or a step, from 0."""
    plain = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else as_int(value)
    if plain is None or plain < 0:
        raise OrderError(f"log: expected whole numbers from 0, got {shown(value)} in {path}; mend the log")
    return plain
