"""Memory of every stage at its height: one gradient measured, everything else counted in vectors of D numbers.

With V the bytes of one vector [D], s = 1 + the rule's buffers (a lifted state is s V), G the measured peak of one
gradient of the largest item and TEMPORARIES vectors inside one arithmetic step, the peak of a stage is

    planned = SAFETY * (problem + held + max over its phases of (phase)) + the libraries' share,

where `held` is what the stage keeps throughout (states, stacked gradients, tables) and a phase is a gradient, a
Hessian-vector product, an arithmetic step or an evaluation; each stage names its own. SAFETY covers scratch
inside kernels and the allocator's gaps, which are wide on the CPU for vectors that the C library keeps on its heap (those
below MAPPED bytes, measured: up to 1.7); LIBRARIES what torch, HDF5 and Zarr load when they are first used.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from estimators.rules.sizes import state_vectors
from estimators.sketch import Sketch
from fut.models import autodiff as derivatives
from fut.models.objective import Item
from fut.resources.memory import available_bytes, peak_bytes
from fut.training.problem import Problem, stacks

SAFETY, SAFETY_ON_HEAP, MAPPED = 1.3, 1.75, 32 << 20
LIBRARIES = {"cpu": 128 << 20, "cuda": 64 << 20}
"""Bytes beyond tensors: on the CPU code and tables that are loaded on first use, on CUDA the matrix products' workspace."""
TEMPORARIES = 6
HASHED = 1 << 18
"""Coordinates of a sketch's tile; twelve of its words of eight bytes per nonzero live at once."""
ATTENDED = 4
"""Gradients' memory that an exact product is taken for where it might not fit: tangents, and whole attention matrices."""


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call, the faster of two."""
    return min(timeit.repeat(call, number=1, repeat=2))


def numbers(item: Item) -> int:
    return sum(t.numel() for t in item)


@dataclass(frozen=True)
class Footprint:
    """Peaks of the stages of one problem [bytes beyond the process's start], each measured when it is first asked for."""

    problem: Problem

    # --- units

    @cached_property
    def theta(self) -> Tensor:
        return self.problem.objective.start()

    @property
    def vector(self) -> int:
        """V, bytes of one vector [D]."""
        return self.theta.numel() * self.theta.element_size()

    @cached_property
    def state(self) -> int:
        """s, vectors of one lifted state."""
        return state_vectors(self.problem.rule, self.problem.objective.layout)

    @cached_property
    def resident(self) -> int:
        """Bytes of the problem itself: the module, as it was built and as it is used, its start, and the data."""
        data = self.problem.data
        return 3 * self.vector + 2 * sum(
            t.nbytes for part in (data.items, data.probe, data.warmup) for item in part for t in item
        )

    @cached_property
    def largest(self) -> Item:
        """What a gradient costs most of: an item, a warm-up batch, or all items of a step, which train in one pass."""
        data = self.problem.data
        found = max((*data.items, *data.warmup), key=numbers)
        if not self._together or not self.problem.samples.items:
            return found
        return max(found, tuple(torch.cat(parts) for parts in zip(*self._together, strict=True)), key=numbers)

    @cached_property
    def _together(self) -> list[Item]:
        """Items of a step that train in one pass; none where they go one by one."""
        chosen = [self.problem.data.items[i] for i in self.problem.reference.steps[0]]
        return chosen if len(chosen) > 1 and derivatives.stackable(self.problem.objective, chosen) else []

    # --- measured

    def _gradient_of(self, item: Item) -> int:
        """Bytes of one gradient; in proportion to the largest item's where it might not fit, so that planning does."""
        _ = self.problem.objective.call  # a model that is yet to be built is no part of a gradient
        share = numbers(item) / max(numbers(self.largest), 1)
        if share > 1 and self._scarce(round(share * self.gradient)):
            return round(share * self.gradient)
        return peak_bytes(
            self.theta.device, lambda: derivatives.gradient(self.problem.objective, self.theta, item).sum().item()
        )

    def _scarce(self, nbytes: int) -> bool:
        """Whether these bytes are more than half of what is available."""
        available = available_bytes(self.theta.device)
        return available is not None and 2 * nbytes > available

    @cached_property
    def gradient(self) -> int:
        """G: bytes of one gradient of the largest item, or of the items of a step that train in one pass."""
        apart = len(self._together) if self._together and not self.problem.samples.items else 1
        return apart * self._gradient_of(self.largest)

    def pooled_gradient(self, pool: int) -> int:
        """Bytes of a gradient of a batch as large as `pool` of the largest items."""
        if pool == 1:
            return self.gradient
        if not self.problem.samples.items:  # no batch can be made of such items
            return pool * self.gradient
        [largest] = self.problem.objective.unrecorded([self.largest])
        return self._gradient_of(tuple(torch.cat([t] * pool) for t in largest))

    @cached_property
    def exact_product(self) -> int:
        """Bytes of one exact Hessian-vector product of the largest item."""
        objective, theta = self.problem.objective, self.theta
        if self._scarce(ATTENDED * self.gradient):
            return ATTENDED * self.gradient

        def call() -> float:
            return derivatives.hessian_vector(objective, theta, self.largest, theta).sum().item()

        if objective.exact_form is None:
            call()  # which form of product the model has is found without the measurement
        return peak_bytes(theta.device, call)

    @cached_property
    def evaluation(self) -> int:
        """Bytes of evaluating the loss of one probe chunk."""
        probe, _ = self.problem.data.probe[:1], self.problem.objective.call
        return peak_bytes(self.theta.device, lambda: derivatives.evaluate(self.problem.objective, self.theta, probe))

    @cached_property
    def probe_gradient(self) -> int:
        """Bytes of the read-out's gradient, chunk by chunk of the probe set."""
        with self.problem.objective.judging():
            return self._gradient_of(self.problem.data.probe[0]) + self.vector

    # --- stages

    def least(self) -> int:
        """Bytes that training takes at the very least, before anything is measured: its states and one gradient."""
        return (2 * self.state + 2) * self.vector

    def planned(self, tensors: int) -> int:
        """Bytes that a stage with these bytes of tensors is planned with."""
        device = self.theta.device.type
        safety = SAFETY_ON_HEAP if device == "cpu" and self.vector < MAPPED else SAFETY
        return round(safety * tensors) + LIBRARIES[device]

    def split(self, peak: int, passing: int = 0, held: int = 0) -> tuple[int, int]:
        """Bytes of the host's memory and of the device's, of a stage planned with `peak`. passing: of arrays on their way between
        the device and files, at a time; held: of scratch in memory."""
        if self.theta.device.type == "cpu":
            return peak + held, 0
        return LIBRARIES["cpu"] + 2 * passing + held, peak

    def training(self) -> int:
        """Reference run, or a retraining: the state it started from, the current and the next one, a step's gradients."""
        width = 1 if stacks(self.problem) else self.problem.config.data.per_step
        held = self.resident + (2 * self.state + 1) * self.vector
        step = (2 * self.state + 3 + width + TEMPORARIES) * self.vector
        return self.planned(held + max(self.gradient + width * self.vector, step, self.evaluation))

    def query(self, tables: int = 0, reading: int = 0) -> int:
        """One order by replay: its tables, the problem, its states, and its read-out, evaluated where nothing is said of it."""
        held = self.resident + 2 * self.state * self.vector + tables
        step = (2 * self.state + TEMPORARIES) * self.vector
        return self.planned(held + max(step, reading or self.evaluation))


def hashes(sketch: Sketch) -> int:
    """Bytes of the hashes of one tile of a sketch, of its sorted copies and of its entries."""
    if sketch.kind in ("identity", "coordinates"):
        return 8 * sketch.dimension
    nonzeros = 8 if sketch.kind == "sjlt" else 1
    return 96 * nonzeros * min(sketch.dimension if sketch.kind == "sjlt" else HASHED, HASHED)
