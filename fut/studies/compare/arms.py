"""The arms of a comparison of update rules: how they are written, and which of them an arm is judged against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from estimators.errors import RuleError
from estimators.rules import RULES, make_rule
from fut.config.schema import USUAL
from fut.errors import UsageError
from fut.protocols import OWN_RULE, RuleChoice

CORRECTIONS, CORRECTED = "corrections", "_corrected"
FAMILIES = ("adamw", "sophia", "shampoo")
"""Rules that have a form which corrects for the noise of a step's items."""
FORMS: dict[str, dict[str, Any]] = {
    "cross-fitted": {"cross_fit": "leave_one_out", "correct_variance": False},
    "variance-corrected": {"cross_fit": "none", "correct_variance": True},
    "both": {"cross_fit": "leave_one_out", "correct_variance": True},
}
"""What `corrections` compares with the plain rule, by name."""


@dataclass(frozen=True)
class Arm:
    """One of the rules that are compared.

    Args:
        label: what it is called in tables.
        choice: the rule with its constants, and its rate where that is given.
    """

    label: str
    choice: RuleChoice


def arms_of(texts: Sequence[str], fill: int = 0) -> list[Arm]:
    """All arms of a list of texts, in their order, each once.

    Args:
        texts: `own`, `NAME` or `NAME:option=value:…` with `rate` among the options; `corrections`, or `corrections:FAMILY`, for
            the plain rules of AdamW, Sophia and Shampoo and their corrected forms.
        fill: steps that fill the memory of each.

    Raises:
        UsageError: for a text that is none, or fewer than two arms.
    """
    found: dict[str, Arm] = {}
    for text in texts:
        for arm in _of_text(text):
            found.setdefault(arm.label, replace(arm, choice=replace(arm.choice, fill=fill)))
    if len(found) < 2:
        raise UsageError(
            f"compare: expected at least two different rules, got {', '.join(found) or 'none'}; give --rule NAME twice or more"
        )
    return list(found.values())


def baseline(arm: Arm, arms: Sequence[Arm]) -> Arm:
    """What an arm is judged against: the plain form of a corrected rule where it is among the arms, else the first arm."""
    plain = arm.choice.name.removesuffix(CORRECTED)
    if plain != arm.choice.name:
        for other in arms:
            if other.choice.name == plain:
                return other
    return arms[0]


def _of_text(text: str) -> list[Arm]:
    name, *parts = text.split(":")
    if name == CORRECTIONS:
        families = parts or list(FAMILIES)
        if unknown := sorted(set(families) - set(FAMILIES)):
            raise UsageError(f"compare: expected corrections of {', '.join(FAMILIES)}, got {', '.join(unknown)}")
        return [arm for family in families for arm in _family(family)]
    options = dict(_option(text, part) for part in parts)
    rate = options.pop("rate", None)
    if rate is not None and not isinstance(rate, int | float):
        raise UsageError(f"compare: `{text}`: expected a number as rate, got {rate!r}; write rate=0.001")
    if name == OWN_RULE and options:
        raise UsageError(f"compare: `{text}`: expected no options of the run's own rule but its rate, got others")
    if name not in (OWN_RULE, *RULES):
        raise UsageError(f"compare: expected `own`, `corrections` or a rule of {', '.join(RULES)}, got `{name}`")
    return [Arm(text, RuleChoice(name, _completed(name, options), None if rate is None else float(rate)))]


def _family(name: str) -> list[Arm]:
    """The plain rule and its corrected forms, with the same constants."""
    plain = Arm(name, RuleChoice(name, _completed(name, {})))
    corrected = name + CORRECTED
    forms = [Arm(f"{name} {form}", RuleChoice(corrected, _completed(corrected, own))) for form, own in FORMS.items()]
    return [plain, *forms]


def _completed(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options with those that a configuration gives the plain rule where none are given; refused where they are wrong."""
    if name == OWN_RULE:
        return {}
    whole = dict(USUAL.get(name.removesuffix(CORRECTED), {})) | options
    try:
        make_rule(name, **whole)
    except RuleError as error:
        raise UsageError(f"compare: {error}") from error
    return whole


def _option(text: str, part: str) -> tuple[str, Any]:
    name, equals, value = part.partition("=")
    if not name or not equals:
        raise UsageError(f"compare: `{text}`: expected option=value behind a colon, got `{part}`; correct it")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
