"""The configuration of a run that trains what was recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from estimators.rules import described
from fut.errors import UsageError
from fut.recording.proof import FirstStep, clip_of
from fut.recording.window import EQUAL, Window

SAID = {"unit", "noise_key"}
"""What a user may say of the model."""


def configuration(
    window: Window, first: FirstStep | None, clip: float | None, own_loss: bool, settings: dict[str, Any]
) -> dict[str, Any]:
    """The sections of the configuration of a run that trains a window.

    Args:
        window: of all processes.
        first: what its first step showed.
        clip: bound on the gradient's norm that was said.
        own_loss: whether the loss is given as an object.
        settings: sections that the recording does not decide, and of `model` what is in `SAID`.

    Raises:
        UsageError: for settings that the recording decides.
    """
    name, options = described(replace(window.rule, clip=bound_of(window, first, clip)))
    items = [item for step in window.steps for item in step.items]
    weighting = weighting_of(window, first)
    weights = [] if weighting == EQUAL else window.counts(items, weighting)
    own: dict[str, Any] = {
        "data": {
            "items": len(items),
            "per_step": window.per_step,
            "weights": weights if len(set(weights)) > 1 else [],
        },
        "model": _model(window, own_loss),
        "rule": {"name": name, "options": options},
        "schedule": {
            "kind": "recorded",
            "rates": [float(s.rate) for s in window.steps],
            "groups": window.group_rates(),
        },
        "warmup": {"steps": 0},
    }
    if "model" in settings and set(settings["model"]) <= SAID:
        own["model"] |= settings.pop("model")
    if decided := sorted(own.keys() & settings.keys()):
        raise UsageError(
            f"recorder: expected settings that the recording does not decide, got `{decided[0]}`; remove it from `settings`"
        )
    return own | settings


def bound_of(window: Window, first: FirstStep | None, clip: float | None) -> float | None:
    """The bound on the gradient's norm: as said, or as the first step or the norms of all show it."""
    shown = first.clip if first else None
    return clip or shown or clip_of([float(step.norm) for step in window.steps if step.norm is not None])


def weighting_of(window: Window, first: FirstStep | None) -> str:
    """What items count by in their step."""
    return window.weighting or (first.weighting if first else EQUAL)


def _model(window: Window, own_loss: bool) -> dict[str, Any]:
    """Number format, noise, and the loss of the forward pass, as the configuration has them; no loss where one was given."""
    own = {"dtype": str(window.start.theta.dtype).removeprefix("torch.")}
    own |= {"noise": "recorded"} if window.noisy else {}
    own |= {"autocast": window.autocast} if window.autocast else {}
    if own_loss:
        return own
    loss = window.form.loss(window.per_step)
    return own | {"forward": list(loss.names), "constants": dict(loss.constants), "training": dict(loss.training)}
