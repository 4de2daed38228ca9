"""`snr`: which modules' gradients are signal, and which are noise?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fut.errors import UsageError
from fut.questions.context import QuestionContext
from fut.questions.question import Question, Request, option
from fut.questions.snr import render
from fut.questions.snr.result import ModuleSnr

LEAST = 3
"""Gradients of which an interval can be taken."""


@dataclass(frozen=True)
class SnrRequest(Request[ModuleSnr]):
    """Signal and noise of gradients, by module, over the steps of a run.

    Args:
        points: steps at which they are estimated, spread over the run, at least 1.
        gradients: items whose gradients are taken at each, at least 3.
        seed: of their draw.
        power: of the suggested scales, 1 to compensate what noise damps, -1 to damp it further.

    Raises:
        UsageError: for too few of them.
    """

    points: int = option(6, help="steps at which they are estimated, spread over the run")
    gradients: int = option(16, help="items whose gradients are taken at each")
    seed: int = option(0, help="seed of their draw")
    power: float = option(1.0, help="of the suggested scales: 1 compensates what noise damps, -1 damps it further")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 1 or self.gradients < LEAST:
            raise UsageError(
                f"snr: expected at least 1 point and {LEAST} gradients, got {self.points} and {self.gradients}; 6 and 16 are "
                "good numbers"
            )


def ask(request: SnrRequest, context: QuestionContext) -> ModuleSnr:
    """Estimate at every point; the answer is kept in the run."""
    run = context.run
    if run.items < LEAST:
        raise UsageError(f"snr: expected a run of at least {LEAST} items, got {run.items}; a noise needs more")
    count, signals = min(request.gradients, run.items), context.service.signals()
    steps = sorted({round(float(step)) for step in np.linspace(0, run.steps, request.points + 1)[1:]})
    with context.progress("gradients", len(steps) * count) as tick:
        points = signals.at(steps, count, request.seed, tick)
    found = ModuleSnr(signals.sizes, count, request.power, points)
    context.archive.keep("snr", request.as_dict(), found)
    return found


def _costs(request: SnrRequest, context: QuestionContext) -> Sequence[str]:
    return [f"{request.points * min(request.gradients, context.run.items)} gradients"]


def _picture(found: ModuleSnr, request: SnrRequest) -> str:
    return "answers/snr.png"


SNR = Question(
    "snr",
    SnrRequest,
    ask,
    render.text,
    "Signal and noise of the gradients by module, over the run: ratios, Adam's damping, suggested scales.",
    _costs,
    draw=render.draw,
    picture=_picture,
    picture_help="PNG of the ratios by step; default: answers/snr.png in the run",
)
