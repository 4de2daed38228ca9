"""Progress as a value that long work reports to: silent by default, tqdm on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from tqdm import tqdm

Tick = Callable[[], object]


class Progress(Protocol):
    """Called once per stage with its name and number of units; `with progress(label, total) as tick` then counts."""

    def __call__(self, label: str, total: int) -> AbstractContextManager[Tick]: ...


@contextmanager
def silent(label: str, total: int) -> Iterator[Tick]:
    """No output: the default of every function of the library."""
    yield lambda: None


@contextmanager
def terminal(label: str, total: int) -> Iterator[Tick]:
    """A tqdm bar on standard error after two seconds; nothing where standard error is not a terminal."""
    with tqdm(desc=label, total=total, delay=2.0, disable=None, dynamic_ncols=True, leave=False) as bar:
        yield bar.update
