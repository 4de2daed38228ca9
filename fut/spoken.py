"""Messages as their reader writes: they are made with the command line's words, and leave the Python door with Python's.

`correct --items` becomes `` correct `items` ``, and the call follows a command: `` run `fut cache RUN --terms adjoint` (in Python
`run.cache("adjoint")`) ``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_COMMAND_LINE: ContextVar[bool] = ContextVar("command_line", default=False)
_COMMAND = re.compile(r"`fut ([a-z]+)((?: [^`]*)?)`")
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)(?:[ =](\d[\w.]*|[A-Z](?!\w)|(?:[a-z][\w:-]*)))?")
_PLAIN = {"text": "data.text", "set": "configuration", "trust": "trust=True"}
"""Options that Python has under another name."""
_VALUED = ("estimator", "readout", "device", "method", "edit")
"""Options behind which a word is their value."""
_ASKED = (
    "cache",
    "calibrate",
    "verify",
    "lds",
    "memorize",
    "domains",
    "search",
    "report",
    "whatif",
    "estimate",
    "endpoint",
)
_LISTED = {"terms", "readouts", "order", "items", "estimators"}
"""Options of those commands that are lists in Python."""
_FIRST = {"terms", "order"}
"""Options that are the first argument there."""


@contextmanager
def command_line() -> Iterator[None]:
    """Inside, messages stay as the command line says them."""
    token = _COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _COMMAND_LINE.reset(token)


def in_python(message: str) -> str:
    """A message with Python's words in place of the command line's."""
    parts = re.split(r"(`[^`]*`)", message)
    return "".join(
        _COMMAND.sub(_call, part) if part.startswith("`") else _OPTION.sub(_argument, part) for part in parts
    )


def _argument(found: re.Match[str]) -> str:
    option, value = found[1], found[2]
    rest = found[0][len(f"--{option}") :]
    name = _PLAIN.get(option, option.replace("-", "_"))
    if option in _PLAIN or value is None:
        return (name if "=" in name else f"`{name}`") + rest
    if option in _VALUED and value[0].islower():
        return f'{name}="{value}"'
    return f"`{name}`{rest}" if value[0].islower() else f"{name}={value}"


def _call(found: re.Match[str]) -> str:
    command, rest = found[1], found[2]
    try:
        words = shlex.split(rest)
    except ValueError:
        return found[0]
    if command not in _ASKED or any(c in rest for c in "…[{"):
        return found[0]
    given = [(w[2:], _value(w[2:], v)) for w, v in zip(words, [*words[1:], ""], strict=False) if w.startswith("--")]
    first = [value for option, value in given if option in _FIRST]
    named = [f"{option.replace('-', '_')}={value}" for option, value in given if option not in _FIRST]
    return f"{found[0]} (in Python `run.{command}({', '.join([*first, *named])})`)"


def _value(option: str, text: str) -> str:
    if not text or text.startswith("--"):
        return "True"
    if option in _LISTED:
        parts = [text] if option == "order" else text.split(",")
        listed = ", ".join(f'"{part}"' for part in parts)
        return listed if len(parts) == 1 and option == "terms" else f"[{listed}]"
    return text if re.fullmatch(r"[\d.]+", text) else f'"{text}"'


@contextmanager
def spoken() -> Iterator[None]:
    """Errors that are raised on purpose leave it with Python's words, unless the command line is speaking."""
    try:
        yield
    except Exception as error:
        if not _COMMAND_LINE.get() and len(error.args) == 1 and isinstance(error.args[0], str):
            if getattr(error, "spoken", False) or not type(error).__module__.startswith(
                ("fut.", "storage.", "estimators.")
            ):
                raise
            error.args = (in_python(error.args[0]),)
            error.spoken = True  # type: ignore[attr-defined]
        raise


def speaks_python(function: F) -> F:
    """A function of the Python door: see `spoken`."""

    @wraps(function)
    def call(*values: Any, **fields: Any) -> Any:
        with spoken():
            return function(*values, **fields)

    return cast("F", call)
