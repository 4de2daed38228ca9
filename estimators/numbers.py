"""Whole numbers as users give them: one check, by which a number of numpy or torch becomes a plain one."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import OrderError

LARGEST = 1 << 62
"""Numbers of items and steps are below this one, and so can be hashed as 64-bit ones."""
SHOWN = 80
"""Characters of a value that a message shows."""
_REFUSED = (bool, np.bool_, np.timedelta64, np.ma.MaskedArray)


def whole(value: Any, what: str, advice: str = "correct that number", where: str = "") -> int:
    """A number of an item, a step or a seed as an `int`.

    Args:
        value: an integer of Python, numpy or torch.
        what: that it is the number of, for the message.
        advice: what to do about it, for the message.
        where: it was given, for the message.

    Raises:
        OrderError: for anything else: a float, a string, a truth value, a time, a masked entry, a number beyond 64 bits.
    """
    number = as_int(value)
    if number is None or not -LARGEST < number < LARGEST:
        raise OrderError(f"order: expected {what}, got {shown(value)}{where}; {advice}")
    return number


def as_int(value: Any) -> int | None:
    """An integer of Python, numpy or torch as an `int`; None for what is no whole number."""
    if type(value) is int:
        return value
    truth = str(getattr(value, "dtype", "")).endswith("bool")  # of torch
    if truth or isinstance(value, _REFUSED) or bool(getattr(value, "ndim", False)):
        return None
    try:
        return operator.index(value)
    except Exception:  # whatever an object of somebody else raises
        return None


def cut(text: str) -> str:
    """A text for a message, in marks: its beginning, where it is long."""
    return f"`{text}`" if len(text) <= SHOWN else f"`{text[:SHOWN]}…`"


def shown(value: Any) -> str:
    """A value for a message: its beginning, where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of too many digits, or an object without a sound repr
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
