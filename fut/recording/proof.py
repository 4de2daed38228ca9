"""Whether what was recorded is what happened: the first step's gradient made anew, and the whole window replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fut.errors import ModelError
from fut.models.autodiff import gradient_and_loss
from fut.models.objective import Objective
from fut.recording.items import Form, Item, target_count
from fut.recording.window import Window

FIRST_STEP = 1e-3
"""Largest difference of the first step's gradient from the one made anew, as a fraction of its norm."""
UNCLIPPED = 1e-4
"""How far the factor between the two may be from 1 for a gradient that was not clipped."""


@dataclass(frozen=True)
class FirstStep:
    """What the first step shows.

    weighting: `equal`; or `targets`, where an item counts by its targets, or by those after the first of each row
    (`shifted targets`). error: of the gradient, as a fraction of its norm. clip: bound on the norm that the gradient shows; None
    where it was not clipped.
    """

    weighting: str
    error: float
    clip: float | None

    def weights(self, form: Form, items: Sequence[Item]) -> list[float]:
        """What every item counts in its step; empty where all count alike."""
        if self.weighting == "equal":
            return []
        return [float(target_count(form, item, self.weighting != "targets")) for item in items]


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
    device = objective.device
    start = window.start.theta.to(device)
    items = [tuple(t.to(device) for t in item) for item in step.items]
    layout = objective.layout
    place = torch.cat(
        [torch.arange(layout.size)[s] for s, n in zip(layout.slices, layout.names, strict=True) if n in window.consumed]
    )
    gradients = torch.stack([gradient_and_loss(objective, start, item)[0].cpu()[place].double() for item in items])
    given = torch.cat([window.consumed[name].reshape(-1) for name in layout.names if name in window.consumed]).double()
    found = [(name, *_fit(given, gradients, shares)) for name, shares in _weightings(window)]
    name, factor, error = min(found, key=lambda each: each[2])
    if error > FIRST_STEP:
        raise ModelError(_unlike(window, objective, error))
    if abs(factor - 1) <= UNCLIPPED:
        return FirstStep(name, error, None)
    if factor > 1:
        raise ModelError(
            f"recorder: expected a step that consumes the mean gradient of its {len(items)} items, got {factor:.6g} times it; "
            "divide the loss by the number of micro-batches (a sum of losses is another training at other items)"
        )
    norm = given.norm().item() / factor
    return FirstStep(name, error, float(f"{given.norm().item() * (norm + 1e-6) / norm:.6g}"))


def _weightings(window: Window) -> list[tuple[str, list[float]]]:
    """Shares of the first step's items, under every reading that is possible."""
    items = window.steps[0].items
    readings = [("equal", [1.0 / len(items)] * len(items))]
    for shifted in (True, False):
        counts = [target_count(window.form, item, shifted) for item in items]
        if len(set(counts)) > 1 and all(counts):
            name = "shifted targets" if shifted else "targets"
            readings.append((name, [count / sum(counts) for count in counts]))
    return readings


def _fit(given: Tensor, gradients: Tensor, shares: Sequence[float]) -> tuple[float, float]:
    """The factor c for which c times the weighted mean is nearest to what was given, and what is left, relatively."""
    mean = torch.tensor(shares, dtype=gradients.dtype) @ gradients
    square = float(mean @ mean)
    factor = float(given @ mean) / square if square else 1.0
    return factor, float((given - factor * mean).norm() / given.norm().clamp(min=1e-30))


def _unlike(window: Window, objective: Objective, error: float) -> str:
    """Why the gradient may differ."""
    causes = [
        "gradients that a hook edits",
        "a loss that is not the recorded one (pass loss=)",
        "random numbers in the forward pass",
    ]
    if window.facts.get("dtype") not in ("float32", "float64"):
        causes.insert(0, f"parameters in {window.facts['dtype']}")
    return (
        f"recorder: expected the first step to consume the gradient of the {len(window.steps[0].items)} items forwarded, got one "
        f"that differs by {error:.2g} of its norm; likely causes: {'; '.join(causes)}"
    )


def clip_of(norms: Sequence[float]) -> float | None:
    """The bound that the gradients' norms show: the largest, where several have it; None where they all differ."""
    top = max(norms, default=0.0)
    alike = [norm for norm in norms if norm > top * (1 - 1e-5)]
    return float(f"{top:.6g}") if len(alike) > 1 and top else None
