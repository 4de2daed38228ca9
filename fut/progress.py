"""Progress as a value that long work reports to: a bar on a terminal and in a notebook, nothing on a pipe."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from tqdm import tqdm

Tick = Callable[[], object]
DELAY = 2.0
"""Seconds after which work that is not done yet shows a bar."""
EVERY = 1.0
"""Seconds after which a bar is drawn again, so that one long unit of work is seen to go on."""


class Progress(Protocol):
    """Called once per stage with its name and number of units; `with progress(label, total) as tick` then counts."""

    def __call__(self, label: str, total: int) -> AbstractContextManager[Tick]: ...


@contextmanager
def silent(label: str, total: int) -> Iterator[Tick]:
    """No output."""
    yield lambda: None


@contextmanager
def terminal(label: str, total: int) -> Iterator[Tick]:
    """A bar on standard error after two seconds; nothing where standard error is neither a terminal nor a notebook's."""
    if not watched():
        yield lambda: None
        return
    with tqdm(desc=label, total=total, delay=DELAY, dynamic_ncols=True, leave=False) as bar, _drawn(bar):
        yield bar.update


def watched() -> bool:
    """Whether somebody sees standard error as it is written."""
    return in_notebook() or bool(getattr(sys.stderr, "isatty", lambda: False)())


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def _drawn(bar: tqdm[Any]) -> Iterator[None]:
    """Draw a bar from time to time, whether or not its work ticks."""
    done = threading.Event()

    def draw() -> None:
        wait = DELAY
        while not done.wait(wait):
            bar.refresh()
            wait = EVERY

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
