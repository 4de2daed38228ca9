"""What branch and hold found: the effect, the pairs behind it, and what shows that they are pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from fut.display.numbers import jsonable
from fut.protocols import BranchPair, BranchPlan
from fut.studies.paired import PairedEffect

CHANGES = {
    "optimizer": ("memory", "counters"),
    "path": ("theta",),
    "order": (),
    "schedule": (),
    "averages": (),
}
"""What of the state a treatment of a source may change at the branch."""


@dataclass(frozen=True)
class BranchEffect:
    """The average treatment effect of one source of memory, treated minus control.

    Args:
        plan: what was done.
        half_lives: of the optimizer's buffers, in steps.
        units: of every metric, by name.
        pairs: the arms of every seed.
        effects: by metric, at the horizon.
        environment: versions, machine, and how random numbers are keyed.
        estimated: the method, and its differences by seed, where the answer could be had without training.
        note: which seeds' orders diverged, and are left out; empty for none.
    """

    plan: BranchPlan
    half_lives: Mapping[str, float]
    units: Mapping[str, str]
    pairs: Sequence[BranchPair]
    effects: Mapping[str, PairedEffect]
    environment: Mapping[str, Any]
    estimated: tuple[str, tuple[float, ...]] | None = None
    note: str = ""

    @property
    def unit(self) -> str:
        """Of the loss."""
        return self.units["loss"]

    def deltas(self, metric: str = "loss") -> list[float]:
        """Treated minus control at the horizon, by seed."""
        return [pair.readings[-1].treated[metric] - pair.readings[-1].control[metric] for pair in self.pairs]

    def course(self, metric: str = "loss") -> tuple[list[int], list[list[float]]]:
        """Steps at which both arms were read, and treated minus control there, by seed."""
        steps = [reading.step for reading in self.pairs[0].readings]
        return steps, [[r.treated[metric] - r.control[metric] for r in pair.readings] for pair in self.pairs]

    @cached_property
    def distances(self) -> dict[str, float]:
        """How far the arms' predictions are apart at the horizon, mean over seeds; 0 where nothing was changed."""
        ends = [pair.readings[-1].distances for pair in self.pairs]
        return {name: sum(end[name] for end in ends) / len(ends) for name in ends[0]}

    @cached_property
    def checks(self) -> dict[str, bool | None]:
        """The design's own checks.

        Returns:
            `repeatable`: the first control, trained again, has the same bytes. `only_its_source`: at the branch no buffer
            differs but those of the source. `same_items`: both arms train on the same items (None where the treatment
            changes them on purpose). `null_is_zero`: with the treatment `nothing`, all differences are exactly 0; None for
            other treatments.
        """
        first = self.pairs[0].digests
        allowed = CHANGES[self.plan.source]
        touched = {
            name
            for pair in self.pairs
            for name, digest in pair.digests["branch"].items()
            if digest != pair.digests["treated"][name]
        }
        null = None
        if self.plan.treatment == "nothing":
            null = all(delta == 0 for name in self.effects for delta in self.deltas(name)) and all(
                pair.digests["end control"] == pair.digests["end treated"] for pair in self.pairs
            )
        multisets = all(a.multiset_digest == b.multiset_digest for a, b in (pair.orders for pair in self.pairs))
        return {
            "repeatable": first["repeated control"] == first["end control"],
            "only_its_source": all(name.startswith(allowed) for name in touched) if allowed else not touched,
            "same_items": None if self.plan.treatment.startswith("with-replacement") else multisets,
            "null_is_zero": null,
        }

    def checklist(self) -> dict[str, Any]:
        """The reporting checklist of arXiv 2601.21624, filled in."""
        return {
            "source and treatment": f"{self.plan.source}: {self.plan.treatment}{', clamped' if self.plan.clamp else ''}",
            "branch, window, horizon [steps]": [self.plan.at, self.plan.window, self.plan.horizon],
            "half-lives of memory [steps]": dict(self.half_lives),
            "seeds": len(self.pairs),
            "random streams": {
                "order": f"by seed number, root {self.plan.seed}",
                "treatment": f"stream of the source by seed number, root {self.plan.seed}",
                "forward pass": self.environment["noise_of_the_forward_pass"],
            },
            "order hashes": [[a.digest, b.digest] for a, b in (pair.orders for pair in self.pairs)],
            "multiset hashes": [
                [a.multiset_digest, b.multiset_digest] for a, b in (pair.orders for pair in self.pairs)
            ],
            "buffer hashes": [dict(pair.digests) for pair in self.pairs],
            "probe": self.environment["probe_sha256"],
            "environment": {k: v for k, v in self.environment.items() if k != "probe_sha256"},
            "checks": self.checks,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the effect by metric, the pairs, the checks and the checklist."""
        steps, course = self.course()
        content = {
            "plan": asdict(self.plan),
            "orientation": "treated minus control",
            "units": dict(self.units),
            "effects": {name: effect.as_dict() for name, effect in self.effects.items()},
            "deltas": {name: self.deltas(name) for name in self.effects},
            "distances": self.distances,
            "course": {"steps": steps, "loss": course},
            "estimated": None
            if self.estimated is None
            else {"method": self.estimated[0], "loss": list(self.estimated[1]), "interval": None},
            "note": self.note,
            "checks": self.checks,
            "checklist": self.checklist(),
        }
        found: dict[str, Any] = jsonable(content)
        return found
