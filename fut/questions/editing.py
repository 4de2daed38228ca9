"""Edits of an order and queries about it, as users write them on a command line, in a line of JSON, and in Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from estimators.errors import OrderError
from estimators.order import Order

EDITS = {"swap": 2, "move": 2, "drop": 1, "repeat": 2, "replace": 2, "without": None, "sort": None}
"""Edits and how many whole numbers each takes; `without` takes any number of items, `sort` a key.

swap: what two steps consume, exchanged. move: from a step to a step, those between closing up. drop: an item, with the step
that it leaves empty. repeat: an item, at a step, in place of what that consumed. replace: an item, by an item. without: items,
left out of their steps. sort: by `SCORE`, `SCORE:desc`, or a family as `folding:SCORE:4`.
"""
TRIES = 40
FORM = '`swap:3,7`, ["swap", 3, 7] or ["sort", "loss"]'
CALIBRATED = ("swap", "move", "repeat", "replace", "without")
"""Edits that keep the number of steps, to a single one of which an estimator can be calibrated."""
Sort = Callable[[Order, str], Order]
"""(order, key) -> that order's items sorted by the key."""


@dataclass(frozen=True)
class Edit:
    """One change of an order. arguments: whole numbers, or the key to sort by."""

    name: str
    arguments: tuple[int | str, ...]

    @classmethod
    def of(cls, written: Edit | str | Sequence[Any]) -> Edit:
        """From `swap:3,7`, or ["swap", 3, 7]; OrderError for an edit that does not exist or is not complete."""
        if isinstance(written, Edit):
            return written
        if isinstance(written, str):
            name, _, rest = written.partition(":")
            parts: list[Any] = [rest] if name == "sort" else [_number(part) for part in rest.split(",")]
        elif isinstance(written, Sequence) and written and isinstance(written[0], str):
            name, parts = written[0], list(written[1:])
        else:
            raise OrderError(f"edit: expected {FORM}, got {written!r}; correct the edit")
        if name not in EDITS:
            raise OrderError(f"edit: expected one of {', '.join(EDITS)}, got {name!r}; write {FORM}")
        return cls(name, tuple(parts))._checked(written)

    def _checked(self, written: object) -> Edit:
        count, given = EDITS[self.name], self.arguments
        if self.name == "sort":
            if len(given) != 1 or not isinstance(given[0], str) or not given[0]:
                raise OrderError(f'edit: expected a key to sort by, got {written!r}; write ["sort", "loss"]')
        elif not all(type(n) is int and n >= 0 for n in given) or len(given) != (count or max(len(given), 1)):
            form = ",".join("N" * count) if count else "N,N,…"
            raise OrderError(
                f"edit: expected `{self.name}:{form}` with whole numbers from 0, got {written!r}; correct it"
            )
        return self

    def apply(self, order: Order, sort: Sort) -> Order:
        """The edited order."""
        if self.name == "sort":
            return sort(order, str(self.arguments[0]))
        if self.name == "without":
            return order.without([int(i) for i in self.arguments])
        return getattr(order, self.name)(*self.arguments)

    def __str__(self) -> str:
        return f"{self.name}:{','.join(map(str, self.arguments))}"


def _number(text: str) -> int | str:
    """A whole number, or the text itself, which is refused later."""
    return int(text) if text.strip().isdecimal() else text


def edited(order: Order, edits: Sequence[Edit], sort: Sort) -> Order:
    """The order after all edits, each applied to what the one before left."""
    for edit in edits:
        order = edit.apply(order, sort)
    return order


def random_edits(order: Order, name: str, count: int, seed: int) -> list[Edit]:
    """`count` different random edits of a kind among `CALIBRATED`, from an explicit seed; of one item each for `without`.

    OrderError for another kind, or where the order does not have as many.
    """
    if name not in CALIBRATED:
        raise OrderError(f"edit: expected one of {', '.join(CALIBRATED)}, got {name!r}; correct the name")
    draw, items = np.random.default_rng([seed, 57]), sorted({item for step in order.steps for item in step})
    places = range(len(order))
    choices = {"repeat": (items, places), "replace": (items, items), "without": (items,)}.get(name, (places, places))
    found: dict[Edit, None] = {}
    for _ in range(TRIES * count):
        arguments = tuple(int(draw.choice(of)) for of in choices)
        same = name != "repeat" and len(set(arguments)) < len(arguments)
        if len(found) < count and not same:
            found[Edit(name, tuple(sorted(arguments)) if name == "swap" else arguments)] = None
    if len(found) < count:
        raise OrderError(
            f"edit: expected {count} different edits `{name}`, got {len(found)} in {TRIES * count} draws; ask for fewer"
        )
    return list(found)


@dataclass(frozen=True)
class Query:
    """One question. order: a name, a list with one entry per step, an `Order`, or None for where all edits start.

    edits: applied to it in turn. readouts: what is asked for; None for the usual ones. id: given back with the answer.
    """

    order: Any = None
    edits: tuple[Edit, ...] = ()
    readouts: tuple[str, ...] | None = None
    id: Any = None


def only_edit(start: Any, edits: Sequence[Edit]) -> str | None:
    """The kind of edit among `CALIBRATED` that an order is one of, from how it is asked for; None for any other order.

    start: what is edited, as it is named: `identity` with one edit, or `swap:3,7` without more.
    """
    if not isinstance(start, str):  # a list, an array, a path
        return None
    if start != "identity" and not edits and start.partition(":")[0] in CALIBRATED:
        try:
            edits, start = [Edit.of(start)], "identity"
        except OrderError:
            return None
    if start != "identity" or len(edits) != 1 or edits[0].name not in CALIBRATED:
        return None
    (edit,) = edits
    return edit.name if edit.name != "without" or len(edit.arguments) == 1 else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_FIELDS = ("id", "order", "edits", "readouts")


def read_query(line: str) -> Query:
    """A query from a line: a name, a JSON list, or a JSON object of `order`, `edits`, `readouts` and `id`, each optional.

    OrderError for anything else.
    """
    text = line.strip()
    if text[:1] not in ("[", "{", '"'):
        return Query(text)
    try:
        found = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise OrderError(f"query: expected a name, a JSON list or a JSON object, got {error}; mend the line") from error
    return as_query(found)


def as_query(found: Any) -> Query:
    """A query from a value: a dict of the fields of a query, or an order."""
    if isinstance(found, Query):
        return found
    if not isinstance(found, Mapping):
        return Query(found)
    try:
        return _read_object(found)
    except OrderError as error:
        raise QueryError(str(error), found.get("id")) from error


class QueryError(OrderError):
    """A query that cannot be meant; `id` is its own, where that could be read."""

    def __init__(self, message: str, id: Any) -> None:
        super().__init__(message)
        self.id = id


def _read_object(found: Mapping[str, Any]) -> Query:
    if unknown := set(found) - set(_FIELDS):
        raise OrderError(f"query: expected {', '.join(_FIELDS)}, got {', '.join(sorted(unknown))}; correct the names")
    order, edits, readouts = found.get("order"), found.get("edits", []), found.get("readouts")
    if not (order is None or isinstance(order, (str, list, Order))):
        raise OrderError(f"query: expected `order` as a name or a list, got {order!r}; write [3, 1, 2, 0]")
    if not isinstance(edits, list):
        raise OrderError(f"query: expected `edits` as a list, got {edits!r}; write [{FORM}]")
    if not (
        readouts is None or (isinstance(readouts, list) and readouts and all(isinstance(r, str) for r in readouts))
    ):
        raise OrderError(f'query: expected `readouts` as a list of names, got {readouts!r}; write ["probe", "item:3"]')
    named = None if readouts is None else tuple(readouts)
    return Query(order, tuple(Edit.of(edit) for edit in edits), named, found.get("id"))
