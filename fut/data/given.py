"""What a user gives as a part of a data set, as tuples of tensors: lists, arrays, the batches of a loader, rows of a table.

An element is an item as the loss receives it. Nothing is batched here: the first dimension of its tensors counts samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fut.errors import DataError

Names = tuple[str, ...]
"""Of an item's tensors, where items are mappings; empty where they are tuples."""


def given_items(
    part: str, given: Any, like: Names | None = None
) -> tuple[tuple[tuple[torch.Tensor, ...], ...], Names | None]:
    """All items of a part, each asked for once, as tuples; and the names of their tensors.

    Args:
        part: `items`, `probe` or `warmup`, for messages.
        given: an iterable of items, or a sequence of them by number. An item is a tuple or a list of tensors, a mapping of names
            to tensors, or one tensor. An array stands for a tensor, and a number for a tensor that holds it alone.
        like: names of the items before, which these are to have too; None where there are none before.

    Returns:
        The items, and the names of their tensors, in the order of the very first item; None of no item at all.

    Raises:
        DataError: for what is none of these, and for mappings of different names.
    """
    found: list[tuple[torch.Tensor, ...]] = []
    names = like
    for number, item in enumerate(_elements(part, given)):
        where = f"dataset: `{part}` {number}"
        own = tuple(map(str, item)) if isinstance(item, Mapping) else ()
        names = own if names is None else names
        if sorted(own) != sorted(names):
            raise DataError(
                f"{where}: expected {_named(names)} as in the first item, got {_named(own)}; make all items alike"
            )
        values = [item[name] for name in names] if isinstance(item, Mapping) else _parts(where, item)
        labels = names or range(len(values))
        found.append(tuple(_tensor(f"{where}, {label}", value) for label, value in zip(labels, values, strict=True)))
    return tuple(found), names


def _named(names: Names) -> str:
    return f"a mapping with {', '.join(sorted(names))}" if names else "a tuple of tensors"


def _elements(part: str, given: Any) -> Iterator[Any]:
    """The items of a part, in their order."""
    if isinstance(given, (str, bytes, Mapping)) or (isinstance(given, (torch.Tensor, np.ndarray)) and given.ndim < 2):
        raise DataError(
            f"dataset: expected a list of `{part}`, each a tuple of tensors or a mapping of names to tensors, got "
            f"{type(given).__name__}; write [(x, y) for x, y in zip(inputs, targets)]"
        )
    if hasattr(given, "column_names") and hasattr(given, "with_format"):
        given = given.with_format("torch")
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not hasattr(type(given), "__iter__"):
        return (given[number] for number in range(len(given)))
    if not isinstance(given, Iterable):
        raise DataError(
            f"dataset: expected a list of `{part}`, a loader or a data set with a length, got {type(given).__name__}; give its "
            "items as a list"
        )
    return iter(given)


def _parts(where: str, item: Any) -> list[Any]:
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return [item]
    if isinstance(item, (tuple, list)):
        if item and all(isinstance(value, (bool, int, float, np.generic)) for value in item):
            raise DataError(
                f"{where}: expected tensors, got a {type(item).__name__} of numbers; write (torch.tensor([…]),)"
            )
        return list(item)
    raise DataError(
        f"{where}: expected items as tuples of tensors or as mappings of names to tensors, got {type(item).__name__}; write "
        "(tokens,)"
    )


def _tensor(where: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (bool, int, float, np.generic)):
        value = [value]
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: expected a tensor, an array or a number, got {type(value).__name__}; convert it, or leave it out"
        ) from error
