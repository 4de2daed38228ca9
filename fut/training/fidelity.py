"""Checks that an opened run is the run that was trained: same loss, same training step."""

from __future__ import annotations

from torch import Tensor

from fut.errors import ModelError
from fut.training.checkpoints import read_state
from fut.training.problem import Problem
from fut.training.trainer import step_loss, trained_on
from storage import CheckpointStore

TOLERANCE = 1e-4
"""How far, relatively, the same function's value at the same parameters may differ between two machines."""
LEAST = 0.1
"""Training losses below which the tolerance is that of this one: near 0 single precision rounds by more."""


def require_same_loss(problem: Problem, theta: Tensor, expected: float, where: str) -> None:
    """The same parameters must give the same loss: catches a changed forward pass or loss under the same names."""
    found = problem.probe_loss(theta)
    if abs(found - expected) > TOLERANCE * abs(expected):
        raise ModelError(
            f"{where}: expected the probe loss {expected:.6f} at the reference endpoint, got {found:.6f}; "
            "the model's forward pass or its loss is not the one the run was trained with"
        )


def require_same_training(problem: Problem, checkpoints: CheckpointStore, step: int, where: str) -> None:
    """The step that led to checkpoint `step` must have the training loss recorded there: catches what evaluation does not show,
    such as another dropout, a loss that differs while training, or other frozen weights."""
    if not step:
        return
    recorded = float(checkpoints.read(step).attributes["train_loss"])
    earlier = max(at for at in checkpoints.steps() if at < step)
    state = trained_on(problem, read_state(checkpoints, earlier, problem.device), earlier, step - 1)
    found = step_loss(problem, state.theta, step - 1)
    if not abs(found - recorded) <= TOLERANCE * max(abs(recorded), LEAST):
        raise ModelError(
            f"{where}: expected the training loss {recorded:.6f} in step {step - 1}, got {found:.6f}; the model in "
            "training mode (dropout, frozen weights, buffers) or its loss is not the one the run was trained with"
        )
