"""A function of the module of the user's own: registered by name, or named as `package.module:name`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fut.errors import UsageError
from fut.models.factory import load_hook
from fut.readouts.base import Readout, ReadoutKind, UserFunction, averaged
from fut.training.problem import Problem


class UserReadout(ReadoutKind):
    """Whatever a function of the module gives; without a unit."""

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
            function = user[name]
        elif ":" in name:
            function = load_hook(name, "readout")
        else:
            raise UsageError(
                f"readout: expected {self._known}, got `{name}`; correct the name, or open the run with "
                f"readouts={{{name!r}: function}}"
            )
        return averaged(problem, name, "", function, [()], pinned=True)
