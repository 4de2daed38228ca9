"""Every setting of a configuration, as its field describes it: key, default, values, meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fut.config.schema import Section
from fut.methods.settings import Config

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True)
class Setting:
    """A key of a configuration. default: as JSON has it; values: which it may have, in words; meaning: with its unit."""

    key: str
    default: Any
    values: str
    meaning: str

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def described() -> list[Setting]:
    """All settings, in the order of the configuration."""
    defaults = Config().model_dump(mode="json")
    return [
        Setting(f"{section}.{key}", defaults[section][key], _values(field), _meaning(field))
        for section, model in sections().items()
        for key, field in model.model_fields.items()
    ]


def sections() -> dict[str, type[Section]]:
    """The sections of a configuration by name."""
    found = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Section)}


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _values(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    kind = KINDS.get(field.annotation, "list") if isinstance(field.annotation, type) else "list"
    if get_origin(field.annotation) is dict:
        kind = "table"
    bounds = [
        f"{sign} {_number(getattr(m, name))}"
        for m in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(m, name)
    ]
    return ", ".join([kind, *bounds])


def _number(value: Any) -> str:
    power = value.bit_length() - 1 if isinstance(value, int) and value > 1 << 20 else 0
    return f"2^{power}" if power and value == 1 << power else f"{value:g}"
