"""Update rules by name."""

from __future__ import annotations

from dataclasses import fields

from ..errors import RuleError
from .adam import Adam, AdamW
from .base import Rule
from .momentum import Momentum
from .sgd import SGD

__all__ = ["RULES", "SGD", "Adam", "AdamW", "Momentum", "make_rule"]

REGISTERED: tuple[type[Rule], ...] = (
    SGD,
    Momentum,
    Adam,
    AdamW,
)
"""All rules, one line each. To add one: a file beside this one that passes `estimators/contract.py`, and a line here."""

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in REGISTERED}
"""The rules by name."""


def make_rule(name: str, **options: object) -> Rule:
    """The rule called `name` with its constants: make_rule("adamw", betas=(0.9, 0.95), weight_decay=0.1, clip=1.0).

    Raises RuleError for an unknown name or option (the message lists the known ones) or a value out of range.
    """
    if name not in RULES:
        raise RuleError(f"expected a rule among {', '.join(RULES)}; got {name!r}; choose one of these names")
    known = [field.name for field in fields(RULES[name]) if field.name != "layout"]  # which is bound, not configured
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RuleError(
            f"the rule `{name}` expected options among {', '.join(known)}; got {', '.join(unknown)}; "
            "remove or rename what it does not know"
        )
    return RULES[name](**options)  # type: ignore[arg-type]
