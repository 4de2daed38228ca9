"""All questions by name. To add one: a file or a folder beside this one, and one line here."""

from __future__ import annotations

from typing import Any

from fut.errors import UsageError
from fut.questions.accuracy.ask import VERIFY
from fut.questions.accuracy.leave_out import LDS
from fut.questions.bank import BANK
from fut.questions.calibrate import CALIBRATE
from fut.questions.curriculum.ask import SEARCH
from fut.questions.domains.ask import DOMAINS
from fut.questions.endpoint import ENDPOINT
from fut.questions.estimate import ESTIMATE
from fut.questions.memorization.ask import MEMORIZE
from fut.questions.question import Question, Request
from fut.questions.snr.ask import SNR
from fut.questions.trust.ask import TRUST
from fut.questions.whatif.ask import WHATIF
from fut.questions.whatif.stream import WHATIFS

QUESTIONS: tuple[Question[Any, Any], ...] = (
    ESTIMATE,
    ENDPOINT,
    TRUST,
    BANK,
    CALIBRATE,
    VERIFY,
    LDS,
    MEMORIZE,
    DOMAINS,
    SEARCH,
    SNR,
    WHATIF,
    WHATIFS,
)


def question_of(request: Request[Any]) -> Question[Any, Any]:
    """The question that a request is of; UsageError for none."""
    for question in QUESTIONS:
        if type(request) is question.request:
            return question
    raise UsageError(
        f"ask: expected a request of {', '.join(q.name for q in QUESTIONS)}, got {type(request).__name__}; add its question to "
        "fut/questions/registry.py"
    )
