"""Studies of an opened run: what they are asked of, and how they are asked."""

from __future__ import annotations

from typing import Any

from fut.artifacts.archive import RunArchive
from fut.errors import UsageError
from fut.estimation.order_noise import local_noise
from fut.estimation.service import EstimationService
from fut.methods.context import Context
from fut.readouts.readout import PROBE
from fut.studies.base import StudyContext
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


def ask_study(context: Context, request: Any, readout: str = PROBE) -> Any:
    """The answer of the study that a request is of; UsageError for none."""
    for study in STUDIES:
        if type(request) is study.request:
            return study.ask(request, study_context(context, readout))
    raise UsageError(
        f"study: expected a request of {', '.join(STUDIES.names)}, got {type(request).__name__}; add its study to "
        "fut/studies/registry.py"
    )
