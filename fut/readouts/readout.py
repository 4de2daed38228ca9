"""Read-outs: the numbers that an order is asked about, each a differentiable function of the parameters.

A kind of read-outs is one file beside this one and one line in `BUILT_IN`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fut.display.scale import LOSS
from fut.errors import UsageError
from fut.readouts.accuracy import Accuracy
from fut.readouts.base import PROBE, Readout, ReadoutKind, UserFunction, require_same_value, shortened, suffix
from fut.readouts.group import GroupLoss
from fut.readouts.item import ItemLoss
from fut.readouts.probe import Probe
from fut.readouts.user import Functions, UserReadout
from fut.training.problem import Problem

__all__ = [
    "BUILT_IN",
    "PROBE",
    "READOUTS",
    "Functions",
    "Readout",
    "UserFunction",
    "caching_command",
    "check_registered",
    "gradient_cost",
    "is_built_in",
    "make_readouts",
    "one_readout",
    "readout_names",
    "require_same_value",
    "shortened",
    "suffix",
    "unit_of",
]

BUILT_IN: tuple[ReadoutKind, ...] = (
    Probe(),
    Accuracy(),
    ItemLoss(),
    GroupLoss(),
)
"""Kinds that have names of their own: one line each."""
READOUTS: tuple[ReadoutKind, ...] = (*BUILT_IN, UserReadout(BUILT_IN))
"""All kinds; the user's comes last, as it takes any name."""


def kind_of(spec: str) -> ReadoutKind:
    """The kind of read-outs that a specification is of."""
    return next(kind for kind in READOUTS if kind.matches(spec))


def is_built_in(spec: str) -> bool:
    """Whether a specification is of a kind that has names of its own."""
    return any(kind.matches(spec) for kind in BUILT_IN)


def unit_of(name: str, of_loss: str) -> str:
    """The unit of a read-out; "" for a user's function. of_loss: the unit of the run's loss."""
    unit = kind_of(name).unit
    return of_loss if unit == LOSS else unit


def readout_names(specs: Sequence[str], items: int) -> list[str]:
    """The read-outs that specifications stand for, each once: `items` as every `item:I`, `groups:8` as every `probe:Iof8`."""
    return list(dict.fromkeys(name for spec in specs for name in kind_of(spec).names(spec, items)))


def caching_command(specs: Sequence[str]) -> str:
    """What computes an expansion for these read-outs; a registered function is known to Python alone."""
    if all(":" in spec or not isinstance(kind_of(spec), UserReadout) for spec in specs):
        return f"fut cache RUN --terms adjoint --readouts {','.join(specs)}"
    return f'fut.open(RUN, readouts=...).cache(["adjoint"], readouts={list(specs)})'


def one_readout(spec: str, items: int) -> str:
    """The name of the single read-out that a question is about."""
    if not isinstance(spec, str):
        raise UsageError(f'readout: expected the name of one read-out, got {spec!r}; write readout="probe", say')
    names = readout_names([spec], items)
    if len(names) > 1 or spec == "items":
        raise UsageError(f"readout: expected one read-out, got `{spec}`, which is {len(names)}; ask for item:0, say")
    return names[0]


def gradient_cost(name: str, problem: Problem) -> int:
    """Gradient evaluations that a read-out's own gradient costs."""
    return kind_of(name).gradient_cost(problem)


def make_readouts(problem: Problem, specs: Sequence[str], user: Mapping[str, UserFunction]) -> list[Readout]:
    """The read-outs that specifications stand for. user: functions by the names they are registered under."""
    names = readout_names(specs, len(problem.data.items))
    return [kind_of(name).make(problem, name, user) for name in names]


def check_registered(user: Mapping[str, UserFunction]) -> dict[str, UserFunction]:
    """A user's functions by name; UsageError for a name that means something else, or for what cannot be called."""
    reserved = [name for kind in READOUTS for name in kind.reserved]
    for name, function in user.items():
        plain = isinstance(name, str) and name.replace("-", "_").isidentifier()
        if not plain or name in reserved:
            raise UsageError(
                f"readouts: expected names of letters, digits, _ and - other than {', '.join(reserved)}, "
                f"got {name!r}; rename the read-out"
            )
        if not callable(function):
            raise UsageError(
                f"readouts: expected `{name}` as a function of the module, got {type(function).__name__}; pass a function"
            )
    return dict(user)
