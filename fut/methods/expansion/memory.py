"""Memory at its height of a trajectory."""

from __future__ import annotations

from fut.methods.expansion.spec import Trajectory
from fut.methods.footprint import TEMPORARIES, Footprint


def trajectory_memory(spec: Trajectory, f: Footprint) -> int:
    """For each item of the mixture its gradient and the state after it; then their means, and a stack. Of an ensemble the states
    of all runs, before and after a step, and their gradients, stacked."""
    if spec.ensemble:
        runs = f.resident + spec.count * (2 * f.state + 2) * f.vector
        step = (spec.count * (f.state + 2 + TEMPORARIES) + f.state) * f.vector
        return f.planned(runs + max(f.gradient, step))
    held = f.resident + (2 * f.state + spec.count * (f.state + 1)) * f.vector
    step = (2 * spec.count + f.state + 2 + TEMPORARIES) * f.vector
    return f.planned(held + max(f.gradient, step))
