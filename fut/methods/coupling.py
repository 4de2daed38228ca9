"""What a method cannot do with a rule, refused by name before anything is computed."""

from __future__ import annotations

from estimators.parameters import ParameterLayout
from estimators.rules.base import Rule
from fut.errors import UsageError
from fut.methods.base import Capabilities
from fut.training.problem import Problem

MATRIX = ParameterLayout(("matrix.weight",), ((512, 1024),))
"""By which memory is counted where no model is known: most parameters of a language model are in matrices as large."""
ALL = "all coordinates"
"""The condition under which a method takes a rule that couples coordinates."""
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
    require_smooth(problem, method)
    require_mean_gradient(problem, method)
    rule, size = problem.rule, problem.objective.size
    odd = {name: numbers for name, numbers in rule.buffers(problem.objective.layout).items() if numbers != size}
    if odd:
        found = ", ".join(f"{numbers} in `{name}`" for name, numbers in odd.items())
        raise UsageError(
            f"{method}: expected a rule with one number of memory for each of {size} parameters, got `{rule.name}` with {found}; "
            "use --estimator replay-exact or retrain"
        )
    require_uncut(problem, method, kept, f"set {setting} = {size}, or use --estimator replay-exact or retrain")


def require_smooth(problem: Problem, method: str) -> None:
    """UsageError for a rule whose derivative says nothing of how it answers a gradient."""
    if not problem.rule.smooth:
        raise UsageError(
            f"{method}: expected a rule with a derivative, by which it is linear in the gradients, got `{problem.rule.name}`, "
            "whose derivative says nothing; use --estimator replay, replay-exact or retrain"
        )


def require_mean_gradient(problem: Problem, method: str) -> None:
    """UsageError for a rule that reads more of a step than its mean gradient, which is all that is cached."""
    if needed := sorted(problem.rule.signals):
        others = "retrain" if "curvature" in needed else "replay-exact or retrain"
        raise UsageError(
            f"{method}: expected a rule that reads the mean gradient of a step, got `{problem.rule.name}`, which needs "
            f"{' and '.join(needed)}; use --estimator {others}"
        )


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
    require_smooth(problem, what)
    require_mean_gradient(problem, what)
    if problem.rule.coupling != "coordinate":
        raise UsageError(
            f"{what}: expected a rule that updates every coordinate by itself, in whose metric low-rank curvature is taken, got "
            f"`{problem.rule.name}` (coupling `{problem.rule.coupling}`); {advice}"
        )


def condition_of(can: Capabilities, rule: Rule) -> str | None:
    """Under which condition a method takes a rule: what the functions above refuse, before there is a problem.

    Args:
        can: the method's capabilities.
        rule: with its constants.

    Returns:
        "" for none, "all coordinates" where a sample of them would cut through what is updated together, and None where the
        method refuses the rule.
    """
    if can.trains or can.baseline:
        return ""
    if rule.signals and not (can.exact_curvature and "curvature" not in rule.signals):
        return None
    if can.needs_smooth and not rule.smooth:
        return None
    layout = rule.layout or MATRIX  # groups of tensors know the tensors that they are bound to alone
    if can.by_coordinate and any(numbers != layout.size for numbers in rule.buffers(layout).values()):
        return None
    if can.coupling == "coordinate" and rule.coupling != "coordinate":
        return None if can.metric else ALL
    return ""
