"""Where the expansion about the reference run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from estimators.state import State
from fut.artifacts.directory import MANIFEST
from fut.artifacts.identity import read_identity, read_settings
from fut.methods.context import Context
from fut.methods.expansion.stored import Sampled
from fut.methods.reweighting.config import ReweightingConfig
from fut.methods.reweighting.spec import ReweightingSpec
from fut.readouts.readout import UserFunction
from fut.training.problem import item_gradient_chunks
from fut.training.tensor_store import TensorStore

DIRECTORY = "reweighting"


@dataclass(frozen=True)
class ReweightingFiles(Sampled):
    """One expansion about the reference run in its directory.

    Args:
        directory: where it is, or will be.
        spec: what it is made of.
        state: the reference run's lifted state [D] before a step.
        user: a user's own read-outs, by name.
    """

    directory: Path
    spec: ReweightingSpec
    state: Callable[[int], State]
    user: Mapping[str, UserFunction] = field(default_factory=dict)

    @cached_property
    def swept(self) -> TensorStore:
        """Weights and injections [r, D] of every step, values and Gram matrices; scratch."""
        return TensorStore(self.scratch / "sweep", self.owner)

    @cached_property
    def costates(self) -> TensorStore:
        """The costate before the last step swept, and the sum of squared responses so far [r, D]; scratch."""
        return TensorStore(self.scratch / "costate", self.owner)

    def item_gradients(self, step: int) -> Tensor:
        """Gradients [n, D] of a step's own items at the reference run's parameters, always all in one call."""
        return self.problem.at(step).item_gradients(self.state(step).theta, self.problem.reference.steps[step])

    def chunks(self, step: int) -> Iterator[Tensor]:
        """The same, some at a time [c, D]."""
        return item_gradient_chunks(self.problem.at(step), self.state(step).theta, self.problem.reference.steps[step])


def stored_config(context: Context) -> ReweightingConfig | None:
    """The configuration of a run's expansion about its reference run; None where there is none yet."""
    directory = context.path / DIRECTORY
    if not (directory / MANIFEST).exists():
        return None
    identity = read_identity(directory, context.owner)
    return read_settings(
        lambda: ReweightingConfig.model_validate(identity["reweighting"] | {"readouts": identity["readouts"]}),
        directory,
    )


def open_reweighting(context: Context, config: ReweightingConfig | None = None) -> ReweightingFiles:
    """The expansion about the reference run, as it is stored; with the run's own configuration where there is none."""
    chosen = config or stored_config(context) or context.config.reweighting
    spec = ReweightingSpec(context.problem, chosen)
    return ReweightingFiles(context.path / DIRECTORY, spec, context.state, context.readouts.user)
