"""All studies by name. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from typing import Any

from fut.studies.base import Study
from fut.studies.order_noise import ORDER_NOISE

REGISTERED: tuple[Study[Any, Any], ...] = (
    ORDER_NOISE,
)  # fmt: skip
"""All studies, one line each."""

STUDIES: dict[str, Study[Any, Any]] = {study.name: study for study in REGISTERED}
"""The studies by name."""
