"""Errors of the composition root, and the exit status that each kind of error has on the command line."""

from __future__ import annotations

from estimators.errors import EstimatorError, OrderError, RuleError
from storage import ExistsError, IdentityError, StorageError


class FutError(Exception):
    """Root of this package's own errors."""


class UsageError(FutError, ValueError):
    """A request that cannot be meant: unknown option, unreadable configuration, unknown estimator."""


class UntrustedError(UsageError):
    """A run directory names code that would have to run, and the caller has not said that it may."""


class NoModuleError(IdentityError):
    """A run of a module that came as an object, which is not given again where something has to be computed with it."""


class DataError(FutError, ValueError):
    """A text that cannot be read or is too short, or items of the wrong form."""


class ModelError(FutError, ValueError):
    """A module that cannot be trained or replayed as a pure function."""


class FutWarning(UserWarning):
    """What is computed otherwise than asked, or cannot be vouched for, and why."""


class NotCachedError(FutError, LookupError):
    """An estimator whose terms are not in the run; the message names the command that computes them."""


class ResourceError(FutError, MemoryError):
    """A stage that would need more memory than the machine has; the message says how much of each."""


class BusyError(FutError, RuntimeError):
    """A run directory that another process is writing into."""


class EngineError(FutError, RuntimeError):
    """Work that other processes were to do and could not: they end, differ from this one, or nobody answers at the address."""


class ExtraError(FutError, ImportError):
    """An optional package that is not installed; the message names the extra that installs it."""


EXPECTED = (FutError, StorageError, EstimatorError)
"""Every error that the command line shows as one message, without a traceback."""


def exit_status(error: BaseException) -> int:
    """2 for a usage error (the request is wrong), 1 for everything else (the run, the disk, the numbers)."""
    return 2 if isinstance(error, (UsageError, OrderError, RuleError, ExistsError)) else 1
