"""`accuracy`: the mean probability that is given to the correct next token of the probe set."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fut.errors import UsageError
from fut.models.transformer import next_token_loss
from fut.readouts.base import Readout, ReadoutKind, UserFunction, averaged
from fut.training.problem import Problem

ACCURACY, PROBABILITY = "accuracy", "probability"


class Accuracy(ReadoutKind):
    """A smooth accuracy on the probe set [probability], more is better."""

    form, unit, reserved = ACCURACY, PROBABILITY, (ACCURACY,)

    def matches(self, spec: str) -> bool:
        """`accuracy` alone."""
        return spec == ACCURACY

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The mean over the probe set; UsageError for a run with a loss of the user's own."""
        if problem.objective.loss_function is not next_token_loss:
            raise UsageError(
                "readout: expected the built-in next-token loss for `accuracy`, got a loss of your own, whose predictions "
                "are not known here; register a read-out of your own"
            )
        return averaged(problem, name, PROBABILITY, next_token_probability, problem.data.probe)

    def gradient_cost(self, problem: Problem) -> int:
        """One for every chunk of the probe set."""
        return len(problem.data.probe)


def next_token_probability(module: nn.Module, tokens: Tensor) -> Tensor:
    """Mean probability given to the correct next token, a smooth accuracy; tokens: [n, context + 1]."""
    logits = module(tokens[:, :-1])
    probability: Tensor = logits.softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).mean()
    return probability
