"""What every question keeps to: it knows protocols alone, its request is documented, and it is one line in the registry."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

import fut
from fut.api.questions import RunMethods, RunOrders
from fut.protocols import Archive, Estimates, RunFacts, Truths
from fut.questions.question import Question, Request
from fut.questions.registry import QUESTIONS

ROOT = Path(fut.__file__).parent
MOST = 26
"""Public members of a class."""


def public(of: Any) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_the_facade_is_small(small_run: fut.Run) -> None:
    assert len(public(small_run)) <= MOST, sorted(public(small_run))


@pytest.mark.parametrize("made", [RunOrders, RunMethods, RunFacts, Estimates, Truths, Archive])
def test_what_it_is_made_of_is_small(made: type) -> None:
    assert len(public(made)) <= MOST


@pytest.mark.parametrize("question", QUESTIONS, ids=[question.name for question in QUESTIONS])
def test_a_request_is_frozen_and_documents_every_field(question: Question[Any, Any]) -> None:
    assert issubclass(question.request, Request)
    fields = dataclasses.fields(question.request)
    texts = " ".join(filter(None, (base.__doc__ for base in question.request.__mro__ if base is not object)))
    for field in fields:
        assert f"{field.name}" in texts, f"{question.name}: `{field.name}` is not documented"
    parameters = question.request.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen


def test_questions_take_protocols_never_a_run() -> None:
    for file in sorted((ROOT / "questions").rglob("*.py")):
        names = {
            name
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        heavy = ("storage", "torch", "fut.api", "fut.artifacts", "fut.cli", "fut.report", "fut.training")
        slices = [f"fut.methods.{part.name}" for part in (ROOT / "methods").iterdir() if part.is_dir()]
        wrong = [n for n in names if n.startswith((*heavy, *slices, "fut.methods.context"))]
        assert wrong == [], f"{file.relative_to(ROOT)} imports {wrong}"


def test_a_request_of_no_question_is_refused(small_run: fut.Run) -> None:
    @dataclasses.dataclass(frozen=True)
    class Nobody(Request[int]):
        """Asked of nobody."""

    with pytest.raises(fut.UsageError, match="got Nobody; add its question to"):
        small_run.ask(Nobody())


def test_what_it_will_cost_is_said_before(small_run: fut.Run) -> None:
    from fut.questions.estimate import EstimateRequest

    lines: list[str] = []
    small_run.ask(EstimateRequest(["reverse"]), lines.append)
    assert lines == []
