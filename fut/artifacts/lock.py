"""One command at a time writes into a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fut.errors import BusyError

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold a run directory's lock, which ends with the process however it ends; BusyError while another process holds it."""
    if fcntl is None:
        yield
        return
    with (path / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BusyError(
                f"run {path}: expected to be alone, got another command at work on it (process {file.read().strip() or '?'}); "
                "wait for it, or stop it: what it has computed is kept"
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
