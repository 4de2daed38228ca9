"""What a study is: a question that is answered by training again, asked of protocols in place of a run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from estimators.orders.order import Order
from fut.display.format import dumps
from fut.estimation.order_noise import LocalAsker
from fut.progress import Progress
from fut.protocols import Answer, Archive, Branches, Estimates, OtherRules, Truths

A = TypeVar("A", bound=Answer)
R = TypeVar("R")


@dataclass(frozen=True)
class StudyContext:
    """What a study is asked of.

    Args:
        reference: the order of the reference run.
        truths: the read-out that the study is about, of orders that are retrained.
        archive: where answers are kept.
        progress: hears of long work.
        branches: trainings that part at a step; None where there is no training, as on a table of truths.
        estimates: the same read-out by the default method, where it can answer now; None where it cannot.
        local: what a run's own gradients say of the noise of its order, without training; None where there is no run.
        rules: trainings of the same data by other update rules; None where there is no training.
    """

    reference: Order
    truths: Truths
    archive: Archive
    progress: Progress
    branches: Branches | None = None
    estimates: Estimates | None = None
    local: LocalAsker | None = None
    rules: OtherRules | None = None

    @property
    def consumed(self) -> int:
        """Items that one training run consumes: its gradients."""
        return sum(map(len, self.reference.steps))


def _as_json(answer: Answer) -> str:
    return dumps(answer.as_dict())


@dataclass(frozen=True)
class Study(Generic[R, A]):
    """A study, as a registry lists it. Its command is made of the request's fields, where these have flags.

    Args:
        name: by which it is asked, and its answers are kept.
        help: what it finds out, in a sentence.
        request: the class of its requests: a frozen dataclass whose fields have defaults.
        ask: (request, context) -> answer, which it has kept in the archive under the study's name.
        aliases: other names that it goes by.
        text: answer -> what is printed.
        costs: (request, context) -> lines that are said before anything is trained.
        content: answer -> plain values for JSON.
        draw: (answer, PNG to write) -> that path; None for a study without a picture.
        picture: (answer, request) -> the picture's default path within the run.
        picture_help: what the picture shows.
        command: whether the command is made of the request's fields; False where it is written by hand.
        retrains: whether it retrains many orders, which an engine may do side by side.
    """

    name: str
    help: str
    request: type[R]
    ask: Callable[[R, StudyContext], A]
    aliases: tuple[str, ...] = ()
    text: Callable[[A], str] = _as_json
    costs: Callable[[R, StudyContext], Sequence[str]] = lambda request, context: ()
    content: Callable[[A], dict[str, Any]] = operator.methodcaller("as_dict")
    draw: Callable[[A, Path], Path] | None = None
    picture: Callable[[A, R], str] | None = None
    picture_help: str = "PNG of the answer; default: in the run"
    command: bool = True
    retrains: bool = False
