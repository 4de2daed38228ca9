"""`probe:2of8`: the mean loss on a group of like held-out samples; `groups:8` stands for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from fut.data.probe_groups import ALL, HEAD, group_item, parse_group
from fut.display.scale import LOSS
from fut.readouts.base import Readout, ReadoutKind, UserFunction, mean_loss
from fut.training.problem import Problem


class GroupLoss(ReadoutKind):
    """The mean loss on a group of held-out samples [nats/token], in evaluation mode."""

    form, unit, reserved = "groups:8, probe:2of8", LOSS, (ALL,)

    def matches(self, spec: str) -> bool:
        """Anything behind `probe:` or `groups:`."""
        return spec.partition(":")[0] in (HEAD, ALL) and ":" in spec

    def names(self, spec: str, items: int) -> list[str]:
        """The group, or all of them; UsageError for what is no group."""
        return [group.name for group in parse_group(spec) or ()]

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The group's mean loss; its value is kept to recognise it, as the held-out data say which samples it has."""
        problem.samples.require_probe("groups")
        groups = parse_group(name) or []
        return mean_loss(problem, name, group_item(problem.data, groups[0]), pinned=True)
