"""`probe@16`: a read-out after the first 16 steps of the window, in place of its end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fut.errors import UsageError
from fut.readouts.base import Readout, ReadoutKind, UserFunction
from fut.training.problem import Problem

AT = "@"
NAMED = re.compile(r"([^@]+)@([1-9][0-9]{0,8})")


def base_of(name: str) -> str:
    """The read-out that is taken, whenever it is."""
    return name.partition(AT)[0]


def step_of(name: str) -> int | None:
    """After how many steps a read-out is taken; None for the end of the window."""
    found = NAMED.fullmatch(name)
    return int(found[2]) if found else None


def after(name: str, step: int) -> str:
    """The name of a read-out after so many steps."""
    return f"{name}{AT}{step}"


class AfterSteps(ReadoutKind):
    """Another read-out, after some steps of the window, in its unit: what an order places later counts nothing."""

    form, unit = "probe@STEP", ""
    reserved: tuple[str, ...] = ()

    def __init__(self, kinds: Sequence[ReadoutKind]) -> None:
        """kinds: of the read-outs that can be taken earlier."""
        self._kinds = kinds

    def matches(self, spec: str) -> bool:
        """Anything with an `@`."""
        return AT in spec

    def names(self, spec: str, items: int) -> list[str]:
        """What the read-out in front of the `@` stands for, each after those steps; UsageError for what is no step."""
        step = step_of(spec)
        if step is None:
            raise UsageError(f"readout: expected `probe@STEP` with a step from 1, got `{spec}`; correct the step")
        return [after(name, step) for name in self._kind(spec).names(base_of(spec), items)]

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The read-out with its step; UsageError for a step that the window does not have."""
        step, steps = step_of(name), problem.config.steps
        if step is None or step > steps:
            raise UsageError(
                f"readout: expected a step from 1 to {steps} behind the `@`, got `{name}`; correct the step"
            )
        return replace(self._kind(name).make(problem, base_of(name), user), name=name, step=step)

    def _kind(self, name: str) -> ReadoutKind:
        return next(kind for kind in self._kinds if kind.matches(base_of(name)))
