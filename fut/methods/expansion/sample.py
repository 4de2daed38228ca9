"""The coordinates of the parameters that are kept, and with which probabilities."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fut.methods.stages import Prepared
from storage import CheckpointStore


class Sampled(Prepared):
    """What a preparation left, with the coordinates that are kept."""

    @cached_property
    def sampled(self) -> CheckpointStore:
        """Indices and probabilities, at step 0."""
        return CheckpointStore(self.directory / "sample")

    @property
    def opened(self) -> bool:
        return self.sampled.has(0)

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
