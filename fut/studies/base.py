"""What a study is: a question that is answered by retraining many orders, asked of protocols in place of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from estimators.orders.order import Order
from fut.estimation.order_noise import LocalAsker
from fut.progress import Progress
from fut.protocols import Answer, Archive, Truths

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
        local: what a run's own gradients say of the noise of its order, without training; None where there is no run.
    """

    reference: Order
    truths: Truths
    archive: Archive
    progress: Progress
    local: LocalAsker | None = None


@dataclass(frozen=True)
class Study(Generic[R, A]):
    """A study, as a registry lists it.

    Args:
        name: by which it is asked, and its answers are kept.
        help: what it finds out, in a sentence.
        request: the class of its requests: a frozen dataclass whose fields have defaults.
        ask: (request, context) -> answer, which it has kept in the archive under the study's name.
        aliases: other names that it goes by.
    """

    name: str
    help: str
    request: type[R]
    ask: Callable[[R, StudyContext], A]
    aliases: tuple[str, ...] = ()
