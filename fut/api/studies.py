"""Studies of an opened run: what they are asked of, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fut.artifacts.archive import RunArchive
from fut.estimation.order_noise import local_noise
from fut.estimation.service import EstimationService
from fut.methods.context import Context
from fut.readouts.readout import PROBE
from fut.studies.base import Study, StudyContext
from fut.studies.registry import STUDIES


def study_context(context: Context, readout: str = PROBE) -> StudyContext:
    """What studies about an opened run are asked of.

    Args:
        context: the opened run.
        readout: what they are about.
    """
    context.readouts.admit([readout])
    truths = EstimationService(context).truths(readout)
    archive = RunArchive(context.path, context.owner)
    return StudyContext(context.reference, truths, archive, context.progress, local_noise(context, truths.readout))


def study_of(request: Any) -> Study[Any, Any] | None:
    """The study that a request is of; None for none."""
    return next((study for study in STUDIES if type(request) is study.request), None)


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
    return study.ask(request, study_context(context, getattr(request, "readout", PROBE)))
