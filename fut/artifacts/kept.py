"""What can be kept in a run directory, and what cannot: a run may lie where nothing can be written."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fut.errors import FutWarning

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class NotKeptWarning(FutWarning):
    """Something was computed that could not be kept in the run: it is computed again when it is asked for again."""


@contextmanager
def keeping(what: str, place: Path) -> Iterator[None]:
    """Write something that need not be kept: where the directory is read-only, that is said, and the work goes on.

    Args:
        what: in words, for what is said.
        place: where it would lie.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        say_not_kept(what, place)


def say_not_kept(what: str, place: Path) -> None:
    """Warn of something that was computed and is not kept.

    Args:
        what: in words.
        place: where it would lie.
    """
    said = f"{place}: expected a directory that can be written to, got a read-only one; {what} is not kept"
    warnings.warn(said, NotKeptWarning, stacklevel=3)
