"""`endpoint`: the parameters that another order leads to, as a file that loads back into the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fut.estimation import render
from fut.estimation.results import Endpoint
from fut.questions.context import QuestionContext
from fut.questions.question import ESTIMATOR, ORDER, Question, Request, option


@dataclass(frozen=True)
class EndpointRequest(Request[Endpoint]):
    """Parameters at the end of an order, written to a safetensors file.

    Args:
        order: a name, a list with one entry per step, a path to a file, or an `Order`.
        estimator: a method that rebuilds parameters (not `adjoint`, which estimates the read-out alone); None for the low-rank
            method where its terms are cached, else `replay-exact`.
        out: the file to write; None for a name made of the method and the order, inside the run.
        partial: accept an order shorter than the window.
        options: of the method, by name.
    """

    order: Any = option(help=ORDER)
    estimator: str | None = option(None, help=ESTIMATOR)
    out: Path | str | None = option(
        None, help="safetensors file to write; default: in the run", read=lambda flag, text: Path(text)
    )
    partial: bool = option(False, help="accept a list shorter than the window")
    options: Mapping[str, str] = field(default_factory=dict)


def ask(request: EndpointRequest, context: QuestionContext) -> Endpoint:
    """The file, and the probe loss evaluated at its parameters."""
    order = context.run.order(request.order, request.partial)
    out = None if request.out is None else Path(request.out)
    return context.service.endpoint(order, request.estimator, out, request.options)


ENDPOINT = Question(
    "endpoint",
    EndpointRequest,
    ask,
    render.endpoint,
    "Write the parameters that another order would have led to, and the probe loss evaluated there.",
)
