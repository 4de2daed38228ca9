"""Entries of an order as they are written: item numbers, lists of them, weights; checked, and made plain numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from typing import Any

import numpy as np

from ..errors import OrderError
from ..numbers import shown, whole

Entries = tuple[tuple[int, float], ...]
"""What a step consumes: pairs of item and weight."""
LARGEST = 1e300
"""Weights up to this one can be summed."""
LONGEST = 10**8
"""Steps of an order, or items of a step, at most."""
UNORDERED = (str, bytes, bytearray, Mapping, Set, np.ma.MaskedArray)
"""What can be iterated over and is no list of numbers."""


def sha256(words: Sequence[int], weights: Sequence[float]) -> str:
    digest = hashlib.sha256(np.asarray(words, dtype="<i8").tobytes())
    if weights:
        digest.update(b"weights" + np.asarray(weights, dtype="<f8").tobytes())
    return digest.hexdigest()


def read_step(
    position: int, entry: int | Iterable[int] | Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Items and weights of one step, as written."""
    given = entry if isinstance(entry, Mapping) else {"items": entry}
    if "items" not in given or set(given) - {"items", "weights"}:
        raise OrderError(
            f"order: expected `items` and `weights`, got {sorted(map(str, given))} at step {position}; write "
            '{"items": [3, 7], "weights": [1, 0.5]}'
        )
    items = read_items(position, given["items"])
    return items, checked_weights(position, items, given.get("weights", (1.0,) * len(items)))


def read_items(position: int, entry: Any) -> tuple[int, ...]:
    single = not isinstance(entry, Iterable) or isinstance(entry, (str, bytes)) or getattr(entry, "ndim", 1) == 0
    items = (entry,) if single else listed(entry, f" at step {position}")
    where = f" at step {position}"
    return tuple(whole(item, "whole item numbers", "write [3, 1, 2, 0]", where) for item in items)


def length(sequence: Sized) -> int:
    try:
        return len(sequence)
    except (TypeError, OverflowError):  # an array without a dimension; a range beyond 64 bits
        return 0 if hasattr(sequence, "tolist") else LONGEST + 1


def read_item(item: Any) -> int:
    return whole(item, "a whole number of an item", "correct that item")


def listed(sequence: Any, where: str = "") -> list[Any]:
    """The entries of a sequence. Sets have no order, texts and times are no numbers, and a masked array may lack entries."""
    odd = isinstance(sequence, UNORDERED) or getattr(getattr(sequence, "dtype", None), "kind", "") in ("m", "M")
    if odd or not isinstance(sequence, Iterable) or (isinstance(sequence, Sized) and length(sequence) > LONGEST):
        raise OrderError(f"order: expected whole item numbers, got {shown(sequence)}{where}; write [3, 1, 2, 0]")
    if not hasattr(sequence, "tolist"):
        return list(sequence)
    plain = sequence.tolist()  # numpy, torch, pandas
    return plain if isinstance(plain, list) else [plain]


def checked_weights(position: int, step: Sequence[int], weights: object) -> tuple[float, ...]:
    """A step's weights as numbers, if they are finite, not negative, and one per item."""
    single = not isinstance(weights, Iterable) or isinstance(weights, UNORDERED) or getattr(weights, "ndim", 1) == 0
    given = (weights,) if single else tuple(listed(weights))
    for weight in given:
        number = isinstance(weight, (int, float, np.integer, np.floating)) and not isinstance(
            weight, (bool, np.timedelta64)
        )
        if not number or not 0 <= weight <= LARGEST:
            raise OrderError(
                f"order: expected finite weights >= 0, got {shown(weight)} at step {position}; write 0 to leave an item out"
            )
    if len(given) != len(step):
        raise OrderError(
            f"order: expected one weight per item, got {len(given)} for {len(step)} items at step {position}; "
            "make the lists equally long"
        )
    return tuple(float(weight) + 0.0 for weight in given)  # -0.0 is 0.0
