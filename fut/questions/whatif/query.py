"""A what-if query: edits of an order, read from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estimators.errors import OrderError
from estimators.orders.order import Order
from fut.orders.editing import FORM, Edit
from fut.orders.parsing import json_value

FIELDS = ("id", "order", "edits", "readouts")


@dataclass(frozen=True)
class Query:
    """One question. order: a name, a list with one entry per step, an `Order`, or None for where all edits start.

    edits: applied to it in turn. readouts: what is asked for; None for the usual ones. id: given back with the answer.
    """

    order: Any = None
    edits: tuple[Edit, ...] = ()
    readouts: tuple[str, ...] | None = None
    id: Any = None


def read_query(line: str) -> Query:
    """A query from a line: a name, a JSON list, or a JSON object of `order`, `edits`, `readouts` and `id`, each optional.

    OrderError for anything else.
    """
    text = line.strip()
    if text[:1] not in ("[", "{", '"'):
        return Query(text)
    try:
        value = json_value(text)
    except ValueError as error:
        raise OrderError(f"query: expected a name, a JSON list or a JSON object, got {error}; mend the line") from error
    return as_query(value)


def as_query(value: Any) -> Query:
    """A query from a value: a dict of the fields of a query, or an order."""
    if isinstance(value, Query):
        return value
    if not isinstance(value, Mapping):
        return Query(value)
    try:
        return _read_object(value)
    except OrderError as error:
        raise QueryError(str(error), value.get("id")) from error


class QueryError(OrderError):
    """A query that cannot be meant; `id` is its own, where that could be read."""

    def __init__(self, message: str, id: Any) -> None:
        super().__init__(message)
        self.id = id


def _read_object(content: Mapping[str, Any]) -> Query:
    if unknown := set(content) - set(FIELDS):
        raise OrderError(f"query: expected {', '.join(FIELDS)}, got {', '.join(sorted(unknown))}; correct the names")
    order, edits, readouts = content.get("order"), content.get("edits", []), content.get("readouts")
    if not (order is None or isinstance(order, (str, list, Order))):
        raise OrderError(f"query: expected `order` as a name or a list, got {order!r}; write [3, 1, 2, 0]")
    if not isinstance(edits, list):
        raise OrderError(f"query: expected `edits` as a list, got {edits!r}; write [{FORM}]")
    if not (
        readouts is None or (isinstance(readouts, list) and readouts and all(isinstance(r, str) for r in readouts))
    ):
        raise OrderError(f'query: expected `readouts` as a list of names, got {readouts!r}; write ["probe", "item:3"]')
    named = None if readouts is None else tuple(readouts)
    return Query(order, tuple(Edit.of(edit) for edit in edits), named, content.get("id"))
