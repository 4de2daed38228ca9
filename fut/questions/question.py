"""Questions: what the front doors know of each, and what is asked, as one frozen object per question.

The command line's flags, the keyword arguments in Python and the JSON all are the request's fields. A field says its own
help, and where its flag is not plain, how the flag is written:

    @dataclass(frozen=True)
    class Middle(Request[Answer]):
        steps: int = option(4, help="steps that are moved")
        items: tuple[int, ...] = option((), help="comma-separated items", read=numbers)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from estimators.errors import OrderError
from estimators.numbers import as_int, cut, shown
from estimators.orders.order import Order
from fut.display.numbers import jsonable
from fut.errors import UsageError
from fut.questions.context import QuestionContext

A = TypeVar("A", covariant=True)
ORDER = "order"
"""Stands for the help of an order's flag, which lists the orders that have names."""


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line.

    help: a line. name: in place of the field's own. read: (flag, text) -> value; None for plain values. metavar: what stands for
    the text. many: whether it may be repeated; `read` then gets each. parts: several flags that make one value, by name;
    `join`: (values by name) -> value. largest: a whole number that may be asked for.
    """

    help: str = ""
    name: str | None = None
    read: Callable[[str, str], Any] | None = None
    metavar: str | None = None
    many: bool = False
    parts: Mapping[str, Flag] = field(default_factory=dict)
    largest: int = 10**6
    join: Callable[[Mapping[str, Any]], Any] | None = None


def option(default: Any = MISSING, **flag: Any) -> Any:
    """A field of a request with its flag; without a default it has to be given."""
    metadata = {"flag": Flag(**flag)}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


DIGITS = 20
"""Digits that no number of an item has."""
LARGEST_SEED = (1 << 63) - 1


def _whole(name: str, value: Any, largest: int) -> int:
    number = as_int(value)
    if number is None or not -largest <= number <= largest:
        raise UsageError(f"{name}: expected a whole number of at most {largest}, got {shown(value)}; correct it")
    return number


def _real(name: str, value: Any, largest: int) -> float:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.timedelta64)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise UsageError(f"{name}: expected a finite number, got {shown(value)}; correct it")


def _wholes(name: str, value: Any, largest: int) -> tuple[int, ...]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, (str, bytes, Mapping, Set)) or not isinstance(listed, Iterable):
        raise UsageError(f"{name}: expected a list of whole numbers, got {shown(value)}; write [0, 3, 7]")
    return tuple(_whole(name, part, largest) for part in listed)


NUMBERS: Mapping[str, Callable[[str, Any, int], Any]] = {
    "int": _whole,
    "float": _real,
    "Sequence[int]": _wholes,
    "tuple[int, ...]": _wholes,
}
"""What makes the value of a field a plain one, by the field's type: (name, value, largest) -> value."""


@dataclass(frozen=True)
class Request(Generic[A]):
    """What is asked of a run, and answered with an `A`. `__post_init__` refuses what cannot be meant, with a UsageError."""

    def __post_init__(self) -> None:
        """Make numbers of numpy and torch plain ones. UsageError, with the bound, for what is no number or beyond it."""
        for f in fields(self):
            value, kind = getattr(self, f.name), str(f.type).removesuffix(" | None")
            if kind in NUMBERS and value is not None:
                largest = f.metadata["flag"].largest if "flag" in f.metadata else LARGEST_SEED
                plain = NUMBERS[kind](f.name, value, LARGEST_SEED if f.name == "seed" else largest)
                object.__setattr__(self, f.name, plain)

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Request[A]:
        """From `as_dict`; UsageError for a field that there is not, or one that is missing."""
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(content) - set(known))
        required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        missing = [n for n in required if n not in content]
        if unknown or missing:
            raise UsageError(
                f"request: expected the fields {', '.join(known)}, got {', '.join(unknown) or 'none'} beside them and no "
                f"{', '.join(missing) or 'fewer'}; correct the names"
            )
        return cls(**content)

    def _tuples(self, *names: str) -> None:
        """Make sequences that were given as lists tuples, and a string a tuple of one; None as it is."""
        for name in names:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Order):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return jsonable(value)


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """A comma-separated list of whole numbers from 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= DIGITS for part in parts):
        raise UsageError(f"{flag}: expected whole numbers from 0 like 0,3,7, got {cut(text)}; correct the list")
    return tuple(int(part) for part in parts)


def names(flag: str, text: str) -> tuple[str, ...]:
    """A comma-separated list of names; empty for no text."""
    return tuple(text.split(",")) if text else ()


def names_if_any(flag: str, text: str) -> tuple[str, ...] | None:
    """The same; None for no text."""
    return names(flag, text) or None


def one_order(flag: str, text: str) -> tuple[str, ...]:
    """A single order, where several may be asked about."""
    return (text,)


def require_list(question: str, orders: Any) -> None:
    """OrderError where one order stands for a list of them."""
    if isinstance(orders, (str, Path, Order)):
        raise OrderError(f"{question}: expected a list of orders, got one, {orders!r}; write [{orders!r}]")


READOUT_HELP = (
    "probe, accuracy, item:I, or package.module:name of a function of the module; @STEP behind: after that step"
)
KNOWN = "say what retraining gave of an order, beside a named estimator's answer, as the answer where none is named"
ESTIMATOR = "estimator"
"""Stands for the help of a method's flag, which lists all methods."""


T = TypeVar("T")
R = TypeVar("R", bound=Request[Any])


@dataclass(frozen=True)
class Question(Generic[R, T]):
    """A question, as the command line and `run.ask` take it.

    Args:
        name: of the command.
        request: the class of its requests.
        ask: (request, context) -> answer.
        text: answer -> what is printed.
        help: what the command does, in a sentence.
        costs: (request, context) -> lines that are said before anything is computed.
        content: answer -> plain values for JSON; by default its `as_dict`.
        draw: (answer, PNG to write) -> that path; None for a question without a picture.
        picture: (answer, request) -> the picture's default path within the run.
        picture_help: what the picture shows.
        command: whether the command is made of the request's fields; False where it is written by hand.
        retrains: whether it retrains many orders, which an engine may do side by side.
    """

    name: str
    request: type[R]
    ask: Callable[[R, QuestionContext], T]
    text: Callable[[T], str]
    help: str
    costs: Callable[[R, QuestionContext], Sequence[str]] = lambda request, context: ()
    content: Callable[[T], dict[str, Any]] = operator.methodcaller("as_dict")
    draw: Callable[[T, Path], Path] | None = None
    picture: Callable[[T, R], str] | None = None
    picture_help: str = "PNG of the answer; default: in the run"
    command: bool = True
    retrains: bool = False
