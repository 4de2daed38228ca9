"""Edits of an order and queries about it, as users write them on a command line, in a line of JSON, and in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from estimators.errors import OrderError
from estimators.numbers import LARGEST, as_int, shown, whole
from estimators.orders.order import Order


def place_of(reference: Order, item: int, showing: int = -1) -> tuple[int, int]:
    """Step and place in the step of an item's first (0), second (1) …, last (-1) showing; OrderError where it has none."""
    item, showing = whole(item, "a whole number of an item"), whole(showing, "a whole number of a showing")
    places = [(s, k) for s, step in enumerate(reference.steps) for k, shown in enumerate(step) if shown == item]
    if not -len(places) <= showing < len(places):
        raise OrderError(
            f"map: expected an item that the reference order shows {showing + 1 if showing >= 0 else -showing} times or more, "
            f"got item {item}, which it shows {len(places)} times; name another item or showing"
        )
    return places[showing]


def with_item_at(reference: Order, item: int, step: int, showing: int = -1) -> Order:
    """The item's showing at another step, all others kept in their order.

    Steps keep their lengths, so that the items between close up by one place; with one item a step this is `Order.move`.
    With several the item keeps its place within the step, as far as the step has it. An item shown several times has the
    others of its showings stay in line.
    """
    item, step = whole(item, "a whole number of an item"), whole(step, "a whole number of a step")
    if not 0 <= step < len(reference) or not reference.steps[step]:
        raise OrderError(f"map: expected a step 0..{len(reference) - 1} that holds items, got {step}; correct it")
    starts = np.cumsum([0, *map(len, reference.steps)]).tolist()
    origin, place = place_of(reference, item, showing)
    pairs = [pair for entries in reference.entries for pair in entries]
    target = starts[step] + min(place, len(reference.steps[step]) - 1)
    pairs.insert(target, pairs.pop(starts[origin] + place))
    return Order.of_entries(pairs[first:last] for first, last in pairwise(starts))


EDITS = {"swap": 2, "move": 2, "drop": 1, "repeat": 2, "replace": 2, "without": None, "sort": None}
"""Edits and how many whole numbers each takes; `without` takes any number of items, `sort` a key.

swap: what two steps consume, exchanged. move: from a step to a step, those between closing up. drop: an item, with the step
that it leaves empty. repeat: an item, at a step, in place of what that consumed. replace: an item, by an item. without: items,
left out of their steps. sort: by `SCORE`, `SCORE:desc`, or a family as `folding:SCORE:4`.
"""
TRIES = 40
DIGITS = 20
"""Digits that no number of an item or a step has."""
FORM = '`swap:3,7`, ["swap", 3, 7] or ["sort", "loss"]'
CALIBRATED = ("swap", "move", "repeat", "replace", "without")
"""Edits that keep the number of steps, to a single one of which an estimator can be calibrated."""
Consumed = dict[int, float]
"""Weights of a step's items."""
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
            raise OrderError(f"edit: expected {FORM}, got {shown(written)}; correct the edit")
        if name not in EDITS:
            raise OrderError(f"edit: expected one of {', '.join(EDITS)}, got {shown(name)}; write {FORM}")
        return cls(name, _arguments(name, parts, written))

    def apply(self, order: Order, sort: Sort) -> Order:
        """The edited order."""
        if self.name == "sort":
            return sort(order, str(self.arguments[0]))
        if self.name == "without":
            return order.without([int(i) for i in self.arguments])
        edited: Order = getattr(order, self.name)(*self.arguments)
        return edited

    def __str__(self) -> str:
        return f"{self.name}:{','.join(map(str, self.arguments))}"


def _arguments(name: str, given: Sequence[Any], written: object) -> tuple[int | str, ...]:
    """What an edit takes: whole numbers, or a key. written: the edit, for the message."""
    if name == "sort":
        if len(given) != 1 or not isinstance(given[0], str) or not given[0]:
            raise OrderError(f'edit: expected a key to sort by, got {shown(written)}; write ["sort", "loss"]')
        return (given[0],)
    count, numbers = (
        EDITS[name],
        [number for number in map(as_int, given) if number is not None and 0 <= number < LARGEST],
    )
    if len(numbers) < len(given) or len(given) != (count or max(len(given), 1)):
        form = ",".join("N" * count) if count else "N,N,…"
        raise OrderError(f"edit: expected `{name}:{form}` with whole numbers from 0, got {shown(written)}; correct it")
    return tuple(numbers)


def _number(text: str) -> int | str:
    """A whole number, or the text itself, which is refused later."""
    return int(text) if text.strip().isdecimal() and len(text) < DIGITS else text


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
    most = math.prod(map(len, choices))
    if count > most:
        raise OrderError(f"edit: expected at most {most} different edits `{name}`, got {count}; ask for fewer")
    edits: dict[Edit, None] = {}
    for _ in range(TRIES * count):
        arguments = tuple(int(draw.choice(of)) for of in choices)
        same = name != "repeat" and len(set(arguments)) < len(arguments)
        if len(edits) < count and not same:
            edits[Edit(name, tuple(sorted(arguments)) if name == "swap" else arguments)] = None
    if len(edits) < count:
        raise OrderError(
            f"edit: expected {count} different edits `{name}`, got {len(edits)} in {TRIES * count} draws; ask for fewer"
        )
    return list(edits)


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


def edits_between(reference: Order, order: Order) -> list[str]:
    """Which of `swap`, `move`, `repeat`, `replace` and `without`, once, make the order from the reference order: several where
    neighbours change places or where an item has one place, none for any other order, the reference order included. Orders are
    compared by what their steps consume: give canonical ones."""
    old, new = reference.entries, order.entries
    if len(old) != len(new):
        return []
    changed = [step for step, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    if not changed:
        return []
    first, last = changed[0], changed[-1]
    kinds = ["swap"] if len(changed) == 2 and (old[first], old[last]) == (new[last], new[first]) else []
    before, after = old[first : last + 1], new[first : last + 1]
    if after in (before[1:] + before[:1], before[-1:] + before[:-1]):  # all between close up
        kinds.append("move")
    return kinds or _exchanged([(dict(old[step]), dict(new[step])) for step in changed], old)


def _exchanged(
    changed: Sequence[tuple[Consumed, Consumed]], reference: Sequence[Sequence[tuple[int, float]]]
) -> list[str]:
    """Which of `repeat`, `replace` and `without` gave steps another content, from their items and weights before and after."""
    shown = {item for step in reference for item, weight in step if weight > 0}
    gone, come = set[int](), set[int]()
    for before, after in changed:
        left, added = ({i for i, w in (a.items() - b.items()) if w > 0} for a, b in ((before, after), (after, before)))
        if not left or (added and [before[i] for i in left] != [after[i] for i in added]):
            return []
        gone, come = gone | left, come | added
    if len(gone) != 1 or len(come) > 1 or not come <= shown:
        return []
    (item,), everywhere = gone, sum(any(i == next(iter(gone)) for i, _ in step) for step in reference)
    if not come:
        return ["without"] if len(changed) == everywhere else []
    alone = len(changed) == 1 and len(changed[0][0]) == 1
    whole = not any(i == item for step in changed for i in step[1])
    return (["repeat"] if alone else []) + (["replace"] if whole and len(changed) == everywhere else [])
