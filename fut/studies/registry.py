"""All studies by name. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from typing import Any

from fut.errors import UsageError
from fut.registry import Registry
from fut.studies.base import Study
from fut.studies.branch.ask import BRANCH
from fut.studies.compare.ask import COMPARE
from fut.studies.noise.study import NOISE

STUDIES: Registry[Study[Any, Any]] = Registry(
    "study",
    "fut.studies",
    [
        BRANCH,
        COMPARE,
        NOISE,
    ],
    UsageError,
)


def study_of(request: object) -> Study[Any, Any] | None:
    """The study that a request is of; None for none."""
    return next((study for study in STUDIES if type(request) is study.request), None)
