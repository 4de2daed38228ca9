"""A function of the module of the user's own: registered by name, or named as `package.module:name`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import wraps

import torch
from torch import Tensor, nn

from fut.errors import FutError, ModelError, UntrustedError, UsageError
from fut.models.factory import NAMED, load_hook
from fut.readouts.base import Readout, ReadoutKind, UserFunction, averaged
from fut.training.problem import Problem


class Functions(Mapping[str, UserFunction]):
    """A user's read-outs by name: those that were given, and those that the caller names as `package.module:name`.

    A directory names some too; they are imported only where the caller trusts it.

    Args:
        given: by name.
        trust: whether any name may be imported.
    """

    def __init__(self, given: Mapping[str, UserFunction], trust: bool = False) -> None:
        self._given, self._trust = dict(given), trust

    def admit(self, names: Iterable[str]) -> None:
        """Import what the caller names as `package.module:name`; other names stay as they are."""
        for name in names:
            if name not in self._given and NAMED.fullmatch(name):
                self._given[name] = load_hook(name, "readout")

    def __getitem__(self, name: str) -> UserFunction:
        if name not in self._given and self._trust:
            self.admit([name])
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def _guarded(name: str, function: UserFunction) -> UserFunction:
    """The function, whose own errors are ModelErrors that name it; one that stops the program too."""

    @wraps(function)
    def call(module: nn.Module) -> Tensor:
        try:
            return function(module)
        except (FutError, MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            said = (str(error).splitlines() or [""])[0][:200]
            raise ModelError(
                f"read-out `{name}`: expected a function of the module, got {type(error).__name__}: {said}; mend it"
            ) from error

    return call


class UserReadout(ReadoutKind):
    """Whatever a function of the module gives; without a unit, unless it has an attribute `unit`."""

    form, unit = "package.module:name, or a name registered with `readouts=`", ""
    reserved: tuple[str, ...] = ()

    def __init__(self, others: Sequence[ReadoutKind]) -> None:
        """others: the kinds that are asked before it, which a refusal names."""
        self._known = ", ".join([*(kind.form for kind in others), self.form])

    def matches(self, spec: str) -> bool:
        """Anything: the last kind that is asked."""
        return True

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The function's value; kept to recognise it, as nothing else says what it is. UsageError for an unknown name."""
        if name in user:
            unit = getattr(user[name], "unit", "")
            return averaged(problem, name, str(unit), _guarded(name, user[name]), [()], pinned=True)
        if ":" in name:
            raise UntrustedError(
                f"readout: expected to be told that `{name}` may run, which the run directory alone names; pass --trust "
                "if you trust it, name it with --readout, or open the run with readouts="
            )
        raise UsageError(
            f"readout: expected {self._known}, got `{name}`; correct the name, or open the run with "
            f"readouts={{{name!r}: function}}"
        )
