"""The error tree: every storage error is also the builtin that a caller would expect to catch."""

from __future__ import annotations

import errno
from dataclasses import dataclass


class StorageError(Exception):
    """Root of everything that this package raises on purpose."""


class MissingError(StorageError, FileNotFoundError):
    """Something that was asked for has not been written (or not completely)."""


class ExistsError(StorageError, FileExistsError):
    """Something whole would have been overwritten."""


class DamagedError(StorageError, OSError):
    """What lies on disk is not what was written."""


class IdentityError(StorageError, ValueError):
    """What lies on disk belongs to something else than what was asked for."""


class ContentError(StorageError, ValueError):
    """What was given cannot be stored: wrong name, shape, dtype or values."""


class DiskFullError(StorageError, OSError):
    """The disk has not the room; `errno` is ENOSPC."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


class RemoteError(StorageError, OSError):
    """A directory at a URL that cannot be reached, or that somebody else has written to meanwhile."""


@dataclass(frozen=True)
class Damage:
    """One damaged file, as found by a `check()`."""

    path: str
    reason: str
