"""What a rule that updates coordinates together does not allow, refused by name before anything is computed."""

from __future__ import annotations

from fut.errors import UsageError
from fut.training.problem import Problem

UNCUT = "set cache.coordinates = 0 and cache again, or use --estimator replay-exact or retrain"
"""What to do where a rule does not allow a sample of the cached gradients' coordinates."""


def require_coordinates(problem: Problem, method: str, kept: int, setting: str) -> None:
    """UsageError for a rule by which a method cannot treat coordinates as it has to.

    Args:
        problem: whose rule it is.
        method: what is refused, by the name it is asked for by.
        kept: coordinates that the method keeps, in expectation; a sample of single ones where there are fewer than parameters.
        setting: the name of what is set to the number of coordinates.

    Raises:
        UsageError: where coordinates that the rule updates together would be separated by a sample, or where the rule's memory
            is not by coordinate.
    """
    rule, size = problem.rule, problem.objective.size
    odd = {name: numbers for name, numbers in rule.buffers(problem.objective.layout).items() if numbers != size}
    if odd:
        found = ", ".join(f"{numbers} in `{name}`" for name, numbers in odd.items())
        raise UsageError(
            f"{method}: expected a rule with one number of memory for each of {size} parameters, got `{rule.name}` with {found}; "
            "use --estimator replay-exact or retrain"
        )
    require_uncut(problem, method, kept, f"set {setting} = {size}, or use --estimator replay-exact or retrain")


def cut_apart(problem: Problem, kept: int) -> bool:
    """Whether a sample of so many coordinates would separate some that the rule updates together."""
    return kept < problem.objective.size and problem.rule.coupling != "coordinate"


def require_uncut(problem: Problem, method: str, kept: int, advice: str) -> None:
    """UsageError where a sample of coordinates would separate some that the rule updates together."""
    rule, size = problem.rule, problem.objective.size
    if cut_apart(problem, kept):
        raise UsageError(
            f"{method}: expected all {size} coordinates for the rule `{rule.name}`, which updates coordinates together (coupling "
            f"`{rule.coupling}`), got a sample of {kept}; {advice}"
        )


def require_metric(problem: Problem, what: str, advice: str) -> None:
    """UsageError unless how far the rule moves parameters per unit of gradient is a number for each of them: the metric."""
    if problem.rule.coupling != "coordinate":
        raise UsageError(
            f"{what}: expected a rule that updates every coordinate by itself, in whose metric low-rank curvature is taken, got "
            f"`{problem.rule.name}` (coupling `{problem.rule.coupling}`); {advice}"
        )
