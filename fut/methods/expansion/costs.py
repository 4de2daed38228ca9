"""Bytes of an expansion trajectory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


def centre_bytes(expansion: Expansion) -> int:
    """Bytes of scratch of the centre: its lifted states, its mixtures' gradients, and where an ensemble's runs stand."""
    state, mixture, steps = _state(expansion), expansion.config.mixture, expansion.steps
    runs = mixture * (steps + 2 * state) if expansion.ensemble else 0
    return ((state + mixture) * (steps + 1) + runs) * _vector_bytes(expansion)


def _state(expansion: Expansion) -> int:
    """Vectors [D] of a lifted state."""
    return expansion.problem.rule.state_vectors(expansion.problem.objective.layout)


def _vector_bytes(expansion: Expansion) -> int:
    start = expansion.problem.objective.start()
    return start.numel() * start.element_size()
