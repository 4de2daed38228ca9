"""The coordinates of the parameters that are kept, and with which probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from fut.training.problem import Problem
from storage import CheckpointStore

ALL_UP_TO = 1 << 17
"""Parameters of a model of which all coordinates are kept, where nothing else is configured."""


def expected_coordinates(size: int, configured: int, sampled: int) -> int:
    """How many coordinates of `size` are kept, in expectation: as configured; by default (0) all of a small model and
    `sampled` of a large one."""
    return min(size, configured or (size if size <= ALL_UP_TO else sampled))


class Sample(ABC):
    """The coordinates that are kept, as a checkpoint store has them."""

    @property
    @abstractmethod
    def problem(self) -> Problem:
        """What is trained."""

    @property
    @abstractmethod
    def sampled(self) -> CheckpointStore:
        """Indices and probabilities, at step 0."""

    @cached_property
    def indices(self) -> Tensor:
        """Sampled coordinates, ascending [k]."""
        return torch.from_numpy(self.sampled.read_array(0, "indices")).to(self.problem.device)

    @cached_property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""
        return torch.from_numpy(self.sampled.read_array(0, "probabilities")).to(self.problem.device)
