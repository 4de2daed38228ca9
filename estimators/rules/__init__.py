"""Update rules by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..errors import RuleError
from .adafactor import Adafactor
from .adam import Adam, AdamW
from .base import Rule
from .clock_matched import ClockMatchedAdamW, ClockMatchedLion, ClockMatchedMomentum
from .corrected_adam import CorrectedAdamW
from .corrected_shampoo import CorrectedShampoo
from .corrected_sophia import CorrectedSophia
from .grouped import Group, Grouped
from .lamb import LAMB
from .lion import Lion
from .mols import ModuleScaledAdamW
from .momentum import Momentum
from .muon import Muon
from .nadam import NAdam
from .radam import RAdam
from .sgd import SGD
from .shampoo import Shampoo
from .soap import SOAP
from .sophia import Sophia
from .swd import ScheduledDecayAdamW

__all__ = ["RULES", "SGD", "Adam", "AdamW", "Group", "Grouped", "Momentum", "described", "make_rule"]

REGISTERED: tuple[type[Rule], ...] = (
    SGD,
    Momentum,
    Adam,
    AdamW,
    NAdam,
    RAdam,
    LAMB,
    Lion,
    Adafactor,
    Muon,
    Shampoo,
    SOAP,
    Sophia,
    ScheduledDecayAdamW,
    ModuleScaledAdamW,
    ClockMatchedMomentum,
    ClockMatchedAdamW,
    ClockMatchedLion,
    CorrectedAdamW,
    CorrectedSophia,
    CorrectedShampoo,
    Grouped,
)
"""All rules, one line each. To add one: a file beside this one that passes `estimators/contract.py`, and a line here."""

BOUND = ("layout", "_partial")
"""Fields of a rule that are bound to parameters, not configured."""
RULES: dict[str, type[Rule]] = {rule.name: rule for rule in REGISTERED}
"""The rules by name."""


def make_rule(name: str, **options: object) -> Rule:
    """The rule called `name` with its constants: make_rule("adamw", betas=(0.9, 0.95), weight_decay=0.1, clip=1.0).

    Raises RuleError for an unknown name or option (the message lists the known ones) or a value out of range.
    """
    if name not in RULES:
        raise RuleError(f"expected a rule among {', '.join(RULES)}; got {name!r}; choose one of these names")
    known = [field.name for field in fields(RULES[name]) if field.name not in BOUND]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RuleError(
            f"the rule `{name}` expected options among {', '.join(known)}; got {', '.join(unknown)}; "
            "remove or rename what it does not know"
        )
    if "groups" in options:
        given = options["groups"]
        if not isinstance(given, list | tuple):
            raise RuleError(f"`groups`: expected a list of groups, got {given!r}; give a table for each")
        options["groups"] = tuple(g if isinstance(g, Group) else Group.parsed(g, make_rule) for g in given)
    return RULES[name](**options)  # type: ignore[arg-type]


def described(rule: Rule) -> tuple[str, dict[str, Any]]:
    """A rule's name and options, as `make_rule` and a configuration take them; the layout is no part of them."""
    options = {
        field.name: getattr(rule, field.name)
        for field in fields(rule)
        if field.name not in BOUND and getattr(rule, field.name) != field.default
    }
    if isinstance(rule, Grouped):
        options["groups"] = [_described_group(group) for group in rule.groups]
    return rule.name, {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _described_group(group: Group) -> dict[str, Any]:
    name, options = described(group.rule)
    return {"name": group.name, "rule": name, "options": options, "tensors": list(group.tensors), "scale": group.scale}
