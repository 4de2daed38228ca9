"""Studies of an opened run: what they are asked of, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fut.artifacts.archive import RunArchive
from fut.estimation.order_noise import local_noise
from fut.estimation.service import EstimationService
from fut.methods.context import Context
from fut.methods.registry import default_estimator
from fut.readouts.readout import PROBE
from fut.resources.device import environment
from fut.studies.base import Study, StudyContext
from fut.training.branching import TrainedBranches
from fut.version import __version__


def study_context(context: Context, readout: str = PROBE) -> StudyContext:
    """What studies about an opened run are asked of.

    Args:
        context: the opened run.
        readout: what they are about.
    """
    context.readouts.admit([readout])
    service, method = EstimationService(context), default_estimator(context)
    truths = service.truths(readout)
    ready = service.is_ready(method, truths.readout)
    about = environment(context.device) | {"fut": __version__}
    return StudyContext(
        context.reference,
        truths,
        RunArchive(context.path, context.owner),
        context.progress,
        local_noise(context, truths.readout),
        TrainedBranches(context.problem, context.state(0), truths.unit, about),
        service.estimates(method, truths.readout, known=False) if ready else None,
    )


def ask_study(
    study: Study[Any, Any], context: Context, request: Any, say: Callable[[str], object] | None = None
) -> Any:
    """A study's answer, about the read-out that its request names, or the probe loss.

    Args:
        study: of the request.
        context: the opened run.
        request: what is asked.
        say: hears, before anything is computed, what it will cost.
    """
    if say is not None and hasattr(request, "orders"):
        count, config = request.orders, context.config
        say(f"retraining at most {count} orders of {context.steps} steps, {count * config.consumed} gradients")
    asked = study_context(context, getattr(request, "readout", PROBE))
    if say is not None:
        for line in study.costs(request, asked):
            say(line)
    return study.ask(request, asked)
