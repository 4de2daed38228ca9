"""Whether what was recorded is what happened: the first step's gradient made anew, and the whole window replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fut.errors import ModelError
from fut.models.autodiff import gradient_and_loss
from fut.models.forward import SHIFTED, TARGETS
from fut.models.objective import Objective
from fut.recording.items import Item
from fut.recording.window import EQUAL, Window

FIRST_STEP = 1e-3
"""Largest difference of the first step's gradient from the one made anew, as a fraction of its norm."""
UNCLIPPED = 1e-4
"""How far the factor between the two may be from 1 for a gradient that was not clipped."""


@dataclass(frozen=True)
class FirstStep:
    """What the first step shows.

    weighting: what items count by, as in `Window`. error: of the gradient, as a fraction of its norm. clip: bound on the norm
    that the gradient shows; None where it was not clipped.
    """

    weighting: str
    error: float
    clip: float | None


def first_step(window: Window, objective: Objective) -> FirstStep:
    """Compare the gradient that the first step consumed with the items' own.

    Raises:
        ModelError: where no weighting of the items gives it; with the likely cause.
    """
    [step, *_] = window.steps
    if not step.items or not window.consumed:
        raise ModelError(
            "recorder: expected items forwarded before the first step of the window, got none; forward them through the watched "
            "model in training mode, or call `item(...)` for every micro-batch"
        )
    device, layout = objective.device, objective.layout
    start, consumed = window.start.theta.to(device), window.consumed
    places = [place for place, name in zip(layout.slices, layout.names, strict=True) if name in consumed]
    given = torch.cat([consumed[name].reshape(-1) for name in layout.names if name in consumed]).to(device)
    readings = _weightings(window, step.items)
    means = [torch.zeros_like(given) for _ in readings]
    for number, item in enumerate(window.items()[: len(step.items)]):
        whole = gradient_and_loss(objective, start, tuple(t.to(device) for t in item))[0]
        gradient = torch.cat([whole[place] for place in places])
        for mean, (_, shares) in zip(means, readings, strict=True):
            mean.add_(gradient, alpha=shares[number])
    found = [(name, *_fit(given, mean)) for mean, (name, _) in zip(means, readings, strict=True)]
    name, factor, error = min(found, key=lambda each: each[2])
    if error > FIRST_STEP:
        raise ModelError(_unlike(window, objective, error))
    if abs(factor - 1) <= UNCLIPPED:
        return FirstStep(name, error, None)
    if factor > 1:
        raise ModelError(
            f"recorder: expected a step that consumes the mean gradient of its {len(step.items)} items, got {factor:.6g} times "
            "it; divide the loss by the number of micro-batches (a sum of losses is another training at other items)"
        )
    norm = given.norm().item() / factor
    return FirstStep(name, error, float(f"{given.norm().item() * (norm + 1e-6) / norm:.6g}"))


def _weightings(window: Window, items: Sequence[Item]) -> list[tuple[str, list[float]]]:
    """Shares of the first step's items, under every reading that is possible."""
    readings = []
    for name in (EQUAL, SHIFTED, TARGETS) if window.weighting is None else (window.weighting,):
        counts = window.counts(items, name)
        if name in (EQUAL, window.weighting) or (len(set(counts)) > 1 and all(counts)):
            readings.append((name, [count / sum(counts) for count in counts]))
    return readings


def _fit(given: Tensor, mean: Tensor) -> tuple[float, float]:
    """The factor c for which c times the weighted mean is nearest to what was given, and what is left, relatively."""
    square = float((mean * mean).sum(dtype=torch.float64))
    factor = float((given * mean).sum(dtype=torch.float64)) / square if square else 1.0
    return factor, float((given - factor * mean).norm() / given.norm().clamp(min=1e-30))


def _unlike(window: Window, objective: Objective, error: float) -> str:
    """Why the gradient may differ."""
    causes = [
        "gradients of earlier steps that were not zeroed",
        "gradients that a hook edits",
        "clipping other than by the global norm",
        "a loss that is not the recorded one (pass loss=)",
        "random numbers that are not torch's in the forward pass",
    ]
    if window.facts.get("dtype") not in ("float32", "float64"):
        causes.insert(0, f"parameters in {window.facts['dtype']}")
    return (
        f"recorder: expected the first step to consume the gradient of the {len(window.steps[0].items)} items forwarded, got one "
        f"that differs by {error:.2g} of its norm; likely causes: {'; '.join(causes)}"
    )


def replay_errors(window: Window, theta: Callable[[int], Tensor]) -> dict[int, float]:
    """How far the window, trained anew, is from what was recorded, as a fraction of how far the parameters moved in all.

    Args:
        window: with snapshots of the training.
        theta: parameters [D] of the new training after so many steps.
    """
    errors = {}
    start, last = window.start.theta.cpu(), len(window.steps)
    moved = window.snapshots.get(last, theta(last)) - start
    for step, recorded in sorted(window.snapshots.items()):
        errors[step] = float((theta(step) - recorded).norm() / moved.norm().clamp(min=1e-30))
    return errors


def require_replayed(errors: Mapping[int, float], tolerance: float) -> None:
    """ModelError where one of `replay_errors` is above a tolerance; with the likely causes."""
    if (worst := max(errors.values(), default=0.0)) <= tolerance:
        return
    step = next(step for step, error in errors.items() if not error <= tolerance)
    raise ModelError(
        f"recorder: expected the window, trained anew, to end where the training did, got parameters that differ by "
        f"{worst:.2g} of how far they moved, first after step {step}; likely causes: a clip that was not said (clip=), a rate or "
        "another constant that was changed between steps, a tensor that something else than the optimizer writes, items that "
        "count by their targets in some steps"
    )


def clip_of(norms: Sequence[float]) -> float | None:
    """The bound that the gradients' norms show: the largest, where several have it; None where they all differ."""
    top = max(norms, default=0.0)
    alike = [norm for norm in norms if norm > top * (1 - 1e-5)]
    return float(f"{top:.6g}") if len(alike) > 1 and top else None
