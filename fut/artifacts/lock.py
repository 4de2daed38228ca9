"""One command at a time writes into a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fut.errors import BusyError
from storage import require_plain, writing

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
_LONGEST = 32
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


def _opened(path: Path) -> TextIO:
    """The lock's file, never one that a link of its name leads to."""
    return os.fdopen(os.open(path / LOCK, _FLAGS, 0o666), "r+", encoding="ascii", errors="replace")


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold a run directory's lock, which ends with the process however it ends; BusyError while another process holds it.

    Of a run at a URL it is the local copy's lock; all of the run is fetched first, and what was written is uploaded at the end.
    """
    with _locked(path), writing(path):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    require_plain(path)
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(_LONGEST).strip() or "?"
            raise BusyError(
                f"run {path}: expected to be alone, got another command at work on it (process {holder}); "
                "wait for it, or stop it: what it has computed is kept"
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
