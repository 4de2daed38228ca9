"""Orders from text: a file, an inline list, or a name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from estimators.errors import OrderError
from estimators.numbers import cut, shown
from estimators.orders.families import FAMILIES, FamilyName, arranged, family_name
from estimators.orders.order import Order, named_order
from fut.orders.files import is_order_file, read_order_file
from fut.orders.scores import MEASURES, difficulty
from storage import parse_json

if TYPE_CHECKING:
    from fut.methods.context import Context


OrderLike = Order | str | Path | Iterable[Any]
"""An order, or what stands for one: its name, a list with one entry per step, or a path to a file of it."""


def sorted_order(run: Context, spec: str, start: Order | None = None) -> Order | None:
    """The order behind a name like `sort:loss` or `folding:loss:4:desc`; None where it is no such name.

    start: whose items are sorted into its steps, by default the reference order. OrderError where every item has the same
    score, as batches of one shape have the same length.
    """
    named = family_name(spec)
    if named is None:
        return None
    measured = difficulty(run, named.key)
    if not measured.varies:
        raise OrderError(
            f"order: expected items that differ in {named.key} for `{spec}`, got {run.items} items of {measured.scores[0]:g} "
            f"{measured.unit} each; sort by another of {', '.join(k for k in MEASURES if k != named.key)}"
        )
    return arranged(start or run.reference, measured.scores, named.family, named.number, named.descending)


def named_orders(run: Context) -> dict[str, Order]:
    """Every named order that needs no choice, by a name that `run.order` reads: what a search is compared with.

    `identity`, `reverse`, and for every key of `MEASURES` in which the items differ, low to high and high to low: sorted, and
    the families with their usual number, as far as the run is long enough for it.
    """
    orders = {"identity": run.reference, "reverse": order_of(run, "reverse")}
    for key in MEASURES:
        measured = difficulty(run, key)
        for descending in (False, True) if measured.varies else ():
            for family, number in {"sort": None, **{name: f.usual for name, f in FAMILIES.items()}}.items():
                name = FamilyName(family, key, number, descending)
                try:
                    orders[str(name)] = arranged(run.reference, measured.scores, family, number, descending)
                except OrderError:  # fewer places than folds
                    continue
    return orders


WRITTEN = 6
"""Steps of a list that its short form has."""


def written(spec: OrderLike) -> str:
    """An order as it was asked for, in a few words: its name, its path, or the first entries of its list."""
    if isinstance(spec, (str, Path)):
        text = str(spec)
        return text if len(text) <= 40 else f"{text[:39]}…"
    listed = spec.tolist() if hasattr(spec, "tolist") else list(spec)
    return ",".join(map(str, listed[:WRITTEN])).replace(" ", "") + (",…" if len(listed) > WRITTEN else "")


def json_value(text: str) -> Any:
    """What a JSON text stands for; ValueError for none, for NaN, and for what is too large or too deep: see `storage`."""
    return parse_json(text)


def listed_order(spec: str | Path, reference: Order) -> list[Any] | None:
    """The entries behind an inline list or a file; None where the specification is a name like `random:7`.

    reference: into whose steps an index file is cut.
    """
    path = Path(spec)
    if isinstance(spec, Path) or is_order_file(path):
        return read_order_file(path, reference)
    text = spec.strip().removeprefix("[").removesuffix("]")
    inline = bool(text) and all(c in "0123456789,- " for c in text)
    if os.path.isfile(spec):  # not Path.is_file, which raises for a list longer than a file name may be
        return read_order_file(path, reference)
    return _parsed(text) if inline else None


def _parsed(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OrderError(f"order: expected whole numbers like 3,1,2,0, got {cut(text)}; correct the list") from error


def order_of(context: Context, spec: OrderLike, partial: bool = False) -> Order:
    """A checked order; `partial` accepts lists of fewer steps than the window."""
    items, steps = context.items, context.steps
    if isinstance(spec, Order):
        return spec.check(items, steps, partial=True)
    if not isinstance(spec, (str, Path, Iterable)):
        raise OrderError(
            f"order: expected a name, a path, a list of items or an Order, got {shown(spec)}; write [3, 1, 2, 0] or `reverse`"
        )
    if not isinstance(spec, (str, Path)):
        return Order.of(cast("Iterable[Any]", spec)).check(items, steps, partial)
    listed = listed_order(spec, context.reference)
    if listed is not None:
        return Order.of(listed).check(items, steps, partial)
    order = sorted_order(context, str(spec)) or named_order(str(spec), context.reference)
    return order.check(items, steps, partial=True)
