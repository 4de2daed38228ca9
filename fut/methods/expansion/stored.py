"""A run's expansion as other methods see it: what it is about, and the item gradients that it can lend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from estimators.adjoint import spread_anchors
from fut.artifacts.directory import ADJOINT, MANIFEST
from fut.artifacts.identity import read_identity
from storage import CheckpointStore, TermSpec, TermStore, fingerprint

if TYPE_CHECKING:
    from fut.methods.context import Context
    from fut.training.problem import Problem
from functools import cached_property

import torch
from torch import Tensor

from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.stages import Prepared


class About(NamedTuple):
    """What of the adjoint's configuration decides a trajectory of mixtures, and its anchors. runs: transitions in every step;
    anchors: 0 where they are chosen by a sweep; seed: of the orders."""

    runs: int
    anchors: int
    seed: int

    @classmethod
    def of(cls, fields: dict[str, Any]) -> About:
        return cls(fields["num_runs"], fields["num_anchors"], fields["seed"])

    @property
    def identity(self) -> dict[str, int]:
        return {"num_runs": self.runs, "num_anchors": self.anchors, "seed": self.seed}


def configured_about(context: Context) -> About:
    """That of the run's expansion, as it is stored; as configured where there is none."""
    stored = StoredExpansion(context.path / ADJOINT, context.owner)
    return About.of(stored.fields if stored.begun else context.config.adjoint.model_dump())


@dataclass(frozen=True)
class StoredExpansion:
    """An expansion on disk, read alone.

    Args:
        directory: where it is.
        run: the digest of the run that it must belong to.
    """

    directory: Path
    run: str

    @property
    def begun(self) -> bool:
        return (self.directory / MANIFEST).exists()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What it pins."""
        return read_identity(self.directory, self.run)

    @property
    def fields(self) -> dict[str, Any]:
        """The configuration that it pins."""
        found: dict[str, Any] = self.identity["adjoint"]
        return found

    def _store(self, part: str) -> CheckpointStore:
        return CheckpointStore(self.directory / part, fingerprint(self.identity))

    def lender(self, problem: Problem, about: About, anchors: list[int]) -> TermStore | None:
        """Its terms, if it is complete, about the same trajectory of mixtures with the same anchors, and has all coordinates."""
        if not self.begun or About.of(self.fields) != about or self.fields["trajectory"] != "mixture":
            return None
        sample = self._store("sample")
        if not (self.directory / "terms").exists() or not sample.has(0):
            return None
        terms = TermStore.open(self.directory / "terms", self.identity)
        if self._anchors(problem) != anchors or len(sample.read_array(0, "indices")) < problem.objective.size:
            return None
        return terms if terms.item_block == ITEM_BLOCK and not terms.missing() else None

    def _anchors(self, problem: Problem) -> list[int]:
        """The steps of its anchors; none where they are to be chosen yet."""
        if self.fields["num_anchors"]:
            rate = problem.rate if self.fields["spacing"] == "rate" else None
            return spread_anchors(problem.config.steps, self.fields["num_anchors"], rate)
        chosen = self._store("anchors")
        found: list[int] = chosen.read_array(0, "anchors").tolist() if chosen.has(0) else []
        return found


class Sampled(Prepared):
    """What a preparation left, with the coordinates that are kept."""

    @cached_property
    def sampled(self) -> CheckpointStore:
        """Indices and probabilities, at step 0."""
        return self.store("sample")

    @property
    def opened(self) -> bool:
        return self.sampled.has(0)

    @property
    def pinned(self) -> list[str]:
        names: list[str] = self.spec.names
        return names

    def term_specs(self) -> list[TermSpec]:
        specs: list[TermSpec] = self.spec.term_specs(len(self.indices))
        return specs

    def open_terms(self) -> TermStore:
        return TermStore.create_or_open(self.terms_path, self.term_specs(), self.identity, ITEM_BLOCK)

    @cached_property
    def indices(self) -> Tensor:
        """Sampled coordinates, ascending [k]."""
        return self._read("indices")

    @cached_property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""
        return self._read("probabilities")

    def _read(self, name: str) -> Tensor:
        return torch.from_numpy(self.sampled.read_array(0, name)).to(self.spec.problem.device)
