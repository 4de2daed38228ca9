"""What questions that retrain orders have in common."""

from __future__ import annotations

from fut.questions.context import QuestionContext

LEAST = 3
"""Retrained orders below which nothing is fitted or compared."""


def retraining(context: QuestionContext, count: int) -> str:
    """What retraining that many orders costs, in a line."""
    run = context.run
    return f"retraining at most {count} orders of {run.steps} steps, {count * run.consumed} gradients"
