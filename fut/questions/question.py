"""What the front doors know of a question: its name, its request, how it is answered, told and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fut.questions.context import QuestionContext
from fut.questions.request import Request

A = TypeVar("A")
R = TypeVar("R", bound=Request[Any])


def _no_costs(request: Any, context: QuestionContext) -> Sequence[str]:
    """Nothing that costs."""
    return ()


def _as_dict(answer: Any) -> dict[str, Any]:
    content: dict[str, Any] = answer.as_dict()
    return content


@dataclass(frozen=True)
class Question(Generic[R, A]):
    """A question, as the command line and `run.ask` take it.

    Args:
        name: of the command.
        request: the class of its requests.
        ask: (request, context) -> answer.
        text: answer -> what is printed.
        help: what the command does, in a sentence.
        costs: (request, context) -> lines that are said before anything is computed.
        content: answer -> plain values for JSON; by default its `as_dict`.
        draw: (answer, PNG to write) -> that path; None for a question without a picture.
        picture: (answer, request) -> the picture's default path within the run.
        picture_help: what the picture shows.
        command: whether the command is made of the request's fields; False where it is written by hand.
    """

    name: str
    request: type[R]
    ask: Callable[[R, QuestionContext], A]
    text: Callable[[A], str]
    help: str
    costs: Callable[[R, QuestionContext], Sequence[str]] = _no_costs
    content: Callable[[A], dict[str, Any]] = _as_dict
    draw: Callable[[A, Path], Path] | None = None
    picture: Callable[[A, R], str] | None = None
    picture_help: str = "PNG of the answer; default: in the run"
    command: bool = True
