"""While tests run, tensors that functions of `estimators` take and return are checked against their annotations, shapes included.

Import this before anything imports `estimators`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import TypeVar

import jaxtyping
from beartype import BeartypeConf, beartype

from estimators import shapes

assert not {n for n in sys.modules if n.startswith("estimators.")} - {"estimators.shapes"}, "imported too late to check"

# Of a list beartype checks one that it draws: not with the host's random numbers.
for module in [m for name, m in sys.modules.items() if name.startswith("beartype")]:
    if hasattr(module, "getrandbits"):
        setattr(module, "getrandbits", random.Random(0).getrandbits)  # noqa: B010

Function = TypeVar("Function", bound=Callable[..., object])


def checked(function: Function) -> Function:
    """beartype on what is annotated as tensors, which takes an integer where a float is meant, as Python does."""
    annotations = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in annotations.items() if "Tensor" in str(hint)}
    decorated: Function = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
    return decorated


for name in shapes.__all__:
    setattr(shapes, name, getattr(jaxtyping, name))
jaxtyping.install_import_hook("estimators", "checked_shapes.checked")
