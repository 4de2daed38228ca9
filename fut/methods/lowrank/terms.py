"""Where the low-rank method's terms are, and how they are read while they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from estimators.state import State
from fut.artifacts.directory import ADJOINT
from fut.artifacts.identity import MANIFEST, read_identity, read_settings
from fut.methods.context import Context
from fut.methods.curvature_batches import drawn_samples, require_samples
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.expansion.stored import About, StoredExpansion, configured_about
from fut.methods.expansion.trajectory import TrajectoryFiles
from fut.methods.lowrank.config import LowRankConfig
from fut.methods.lowrank.spec import LowRankSpec
from fut.methods.stages import Prepared
from fut.models import autodiff as derivatives
from fut.models.objective import Item
from storage import TermStore

DIRECTORY = "lowrank"
LOW_RANK_KEY, REFRESH_KEY = 13, 17


@dataclass(frozen=True)
class LowRankFiles(Prepared):
    """The terms of one run in their directory.

    Args:
        directory: where they are, or will be.
        spec: what they are made of.
        start: the lifted state [D] that every order starts from.
    """

    directory: Path
    spec: LowRankSpec
    start: Callable[[], State]

    @cached_property
    def trajectory(self) -> TrajectoryFiles:
        """What is expanded about; scratch."""
        return TrajectoryFiles(self.spec.trajectory, self.scratch, self.start, self.owner)

    def open_terms(self) -> TermStore:
        return TermStore.create_or_open(self.terms_path, self.spec.term_specs(), self.identity, ITEM_BLOCK)

    @cached_property
    def lender(self) -> TermStore | None:
        """Terms of a complete expansion about the same trajectory, with the same anchors and all coordinates."""
        source = StoredExpansion(self.directory.parent / ADJOINT, self.problem.digest)
        return source.lender(self.problem, self.spec.about, self.spec.anchors)

    def batch(self, key: int, step: int) -> Item:
        """The batch drawn for a step, another one for every key."""
        require_samples(self.problem, "use --estimator retrain", "lowrank")
        items, draw = self.problem.samples.pooled, np.random.default_rng([self.spec.config.seed, key, step])
        return drawn_samples(items, self.spec.pooled * len(items[0][0]), draw)

    def mean_gradient(self, step: int, theta: Tensor) -> Tensor:
        """Gradient [D] of the loss on the refresh batch of a step."""
        return derivatives.gradient(self.problem.objective, theta, self._refresh_batch(step))

    @cached_property
    def _refresh_batch(self) -> Callable[[int], Item]:
        """The refresh batches, each drawn once: every order of a batch asks for them."""
        return cache(lambda step: self.batch(REFRESH_KEY, step))

    def theta(self, terms: TermStore, step: int) -> Tensor:
        """Parameters [D] of the trajectory before a step."""
        return torch.from_numpy(terms.read("centre", step)[0]).to(self.problem.device)

    def stored(self, values: Tensor) -> np.ndarray:
        """As the store takes the large terms: in single precision where it keeps 16 bits."""
        values = values if self.spec.config.dtype == "model" else values.float()
        return values.cpu().contiguous().numpy()


def open_low_rank(context: Context, config: LowRankConfig | None = None) -> LowRankFiles:
    """What the low-rank method reads, as it is stored; as configured where it is not."""
    if has_low_rank(context.path):
        identity = read_identity(context.path / DIRECTORY, context.owner)
        stored, about = read_settings(
            lambda: (LowRankConfig.model_validate(identity["lowrank"]), About.of(identity["adjoint"])),
            context.path / DIRECTORY,
        )
    else:
        stored, about = context.config.lowrank, configured_about(context)
    spec = LowRankSpec(context.problem, config or stored, about)
    return LowRankFiles(context.path / DIRECTORY, spec, lambda: context.state(0))


def has_low_rank(path: Path) -> bool:
    """Whether a run directory's low-rank terms were begun."""
    return (path / DIRECTORY / MANIFEST).exists()
