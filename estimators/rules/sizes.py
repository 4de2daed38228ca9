"""How large the lifted states of a rule are."""

from __future__ import annotations

from ..parameters import ParameterLayout
from .base import Rule


def state_size(rule: Rule, layout: ParameterLayout) -> int:
    """Numbers in one lifted state: parameters and memory."""
    return layout.size + sum(rule.buffers(layout).values())


def state_vectors(rule: Rule, layout: ParameterLayout) -> int:
    """`state_size` in vectors [D], rounded up."""
    return -(-state_size(rule, layout) // max(layout.size, 1))
