"""Which methods take which update rules: the refusals of `fut/methods/coupling.py`, as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from estimators.rules import RULES, make_rule
from estimators.rules.base import Rule
from estimators.rules.kinds import MatrixRule
from fut.methods.coupling import MATRIX, condition_of
from fut.methods.registry import METHODS


@dataclass(frozen=True)
class RuleInfo:
    """An update rule by name.

    Args:
        name: as a configuration names it.
        summary: in one sentence.
        memory: numbers of memory for every parameter of a large matrix.
        coupling: what the update of a coordinate reads: its own gradient, its tensor's, its layer's, or all.
        smooth: whether its derivative says how it answers a gradient.
        signals: what it needs of a step beside the mean gradient.
        matrices: whether it takes matrices alone, and other tensors need a rule of their own in `grouped`.
        estimators: the methods that take it, and under which condition; "" for none.
    """

    name: str
    summary: str
    memory: float
    coupling: str
    smooth: bool
    signals: tuple[str, ...]
    matrices: bool
    estimators: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def rule_table() -> list[RuleInfo]:
    """Every registered rule, with its usual constants; `grouped` as one group of AdamW, since it is what its groups are."""
    return [_info(make_rule(name, **({"groups": [{"name": "all"}]} if name == "grouped" else {}))) for name in RULES]


def _info(rule: Rule) -> RuleInfo:
    buffers = rule.buffers(MATRIX)
    found = {m.name: condition for m in METHODS if (condition := condition_of(m.capabilities, rule)) is not None}
    summary = " ".join((rule.__doc__ or "").split("\n\n")[0].split())
    return RuleInfo(
        name=rule.name,
        summary=summary,
        memory=round(sum(buffers.values()) / MATRIX.size, 3),
        coupling=rule.coupling,
        smooth=rule.smooth,
        signals=tuple(sorted(rule.signals)),
        matrices=isinstance(rule, MatrixRule),
        estimators=found,
    )
