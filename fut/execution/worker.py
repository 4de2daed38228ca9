"""What a process that does units of work for another one does: opens sites, does units, and brings home how that went."""

from __future__ import annotations

import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fut.errors import EngineError, FutWarning
from fut.execution.engine import Site
from fut.spoken import command_line

OPEN = 2
"""Sites that a worker holds open at once."""


@dataclass(frozen=True)
class Done:
    """What a unit gave, and what was said of it on the way."""

    value: Any
    said: list[FutWarning]


@dataclass(frozen=True)
class Failed:
    """What a unit raised."""

    error: Exception


class Worker:
    """Does units of the sites that it opened last.

    Args:
        fetch: gets a site from the reference by which it travels.
        paths: where modules are found by the process that asks; those that this one lacks are added.
    """

    def __init__(self, fetch: Callable[[Any], Site], paths: Sequence[str] = ()) -> None:
        self._fetch = fetch
        sys.path += [path for path in paths if path not in sys.path]
        self._opened: dict[str, Any] = {}

    def do(self, key: str, reference: Any, work: Callable[[Any, Any], Any], unit: Any) -> Done | Failed:
        """Do a unit of a site. Errors come back as values, with the command line's words, as the caller has its own."""
        with command_line(), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", FutWarning)
            try:
                value = work(self._site(key, reference), unit)
            except Exception as error:
                return Failed(_portable(error))
        return Done(value, [warning.message for warning in heard if isinstance(warning.message, FutWarning)])

    def _site(self, key: str, reference: Any) -> Any:
        if key not in self._opened:
            site = self._fetch(reference)
            torch.set_num_threads(site.threads)
            while len(self._opened) >= OPEN:
                del self._opened[next(iter(self._opened))]
            self._opened[key] = site.open()
        return self._opened[key]


def _portable(error: Exception) -> Exception:
    """An error that another process can read; in words where it cannot be sent."""
    try:
        again = pickle.loads(pickle.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error
    except Exception:  # whatever the error's class does when it is made again
        pass
    return EngineError("a worker failed: " + "".join(traceback.format_exception(error)).rstrip())
