"""While tests run, tensors that functions of `estimators` take and return are checked against their annotations, shapes included.

Import this before anything imports `estimators`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

from estimators import shapes

assert not {n for n in sys.modules if n.startswith("estimators.")} - {"estimators.shapes"}, "imported too late to check"

# Of a list beartype checks one that it draws: not with the host's random numbers.
for module in [m for name, m in sys.modules.items() if name.startswith("beartype")]:
    if hasattr(module, "getrandbits"):
        setattr(module, "getrandbits", random.Random(0).getrandbits)  # noqa: B010

Checked = TypeVar("Checked", bound=Callable[..., object])
CALL = jaxtyping.jaxtyped("context")
"""Within it a size has one value: that of the call."""


def tensors(function: Callable[..., object]) -> dict[str, Any]:
    """Annotations in which tensors are, by name. Where a name is known to type checkers alone, there are none."""
    found: dict[str, Any] = {}
    for name, hint in function.__annotations__.items():

        def one() -> None: ...

        one.__annotations__ = {name: hint}
        try:
            found |= get_type_hints(one, function.__globals__, include_extras=True)
        except NameError:
            continue
    return {name: hint for name, hint in found.items() if "Tensor" in str(hint)}


def checked(function: Checked) -> Checked:
    """A function with beartype on what is annotated as tensors; an integer passes for a float, as in Python.

    What says nothing of tensors is left as it is. Of a dataclass its `__init__` is checked.
    """
    if isinstance(function, type):
        if is_dataclass(function):
            setattr(function, "__init__", checked(function.__init__))  # noqa: B010
        return function
    annotations, function.__annotations__ = function.__annotations__, tensors(function)
    if not function.__annotations__:
        function.__annotations__ = annotations
        return function
    inner = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
    function.__annotations__ = annotations

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> object:
        with CALL:
            return inner(*arguments, **options)

    return call  # type: ignore[return-value]


for name in shapes.__all__:
    setattr(shapes, name, getattr(jaxtyping, name))
# jaxtyping's import hook puts `jaxtyped` on every function, whose calls cost ten times as much: half of all tests' time.
setattr(jaxtyping, "jaxtyped", lambda typechecker: typechecker)  # noqa: B010
jaxtyping.install_import_hook("estimators", "checked_shapes.checked")
