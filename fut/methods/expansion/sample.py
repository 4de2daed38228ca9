"""The coordinates of the parameters that are kept, and with which probabilities."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fut.methods.stages import Prepared
from storage import CheckpointStore

ALL_UP_TO = 1 << 17
"""Parameters of a model of which all coordinates are kept, where nothing else is configured."""


def expected_coordinates(size: int, configured: int, sampled: int) -> int:
    """How many coordinates of `size` are kept, in expectation: as configured; by default (0) all of a small model and
    `sampled` of a large one."""
    return min(size, configured or (size if size <= ALL_UP_TO else sampled))


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
