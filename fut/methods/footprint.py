"""Memory of every stage at its height: one gradient measured, everything else counted in vectors of D numbers.

With V the bytes of one vector [D], s = 1 + the rule's buffers (a lifted state is s V), G the measured peak of one
gradient of the largest item and TEMPORARIES vectors inside one arithmetic step, the peak of a stage is

    planned = SAFETY * (problem + held + max over its phases of (phase)) + the libraries' share,

where `held` is what the stage keeps throughout (states, stacked gradients, tables) and a phase is a gradient, a
Hessian-vector product, an arithmetic step or an evaluation; each method below names its own. SAFETY covers scratch
inside kernels and the allocator's gaps, which are wide on the CPU for vectors that the C library keeps on its heap (those
below MAPPED bytes, measured: up to 1.7); LIBRARIES what torch, HDF5 and Zarr load when they are first used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from estimators.sketch import Sketch
from fut.methods.adjoint.anchor_count import pilot_items
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.control_variate import ROWS
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.adjoint.quadratic_directions import BUFFERS, SAMPLES, simulated_together
from fut.methods.adjoint.replay_curvature import products
from fut.methods.expansion.anchors import HELD, ITEM_BLOCK
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.terms import TermLayout
from fut.methods.reweighting.terms import Sensitivities
from fut.models import autodiff as derivatives
from fut.models.objective import Item
from fut.resources.memory import available_bytes, peak_bytes
from fut.training.problem import Problem

SAFETY, SAFETY_ON_HEAP, MAPPED = 1.3, 1.75, 32 << 20
LIBRARIES = {"cpu": 128 << 20, "cuda": 64 << 20}
"""Bytes beyond tensors: on the CPU code and tables that are loaded on first use, on CUDA the matrix products' workspace."""
GAPS = 0.5
"""Share of a product on the whole batch by which an ensemble's sweep exceeds it: small batches of two sizes leave the heap with
gaps."""
TEMPORARIES = 6
HASHED = 1 << 18
"""Coordinates of a sketch's tile; twelve of its words of eight bytes per nonzero live at once."""
ATTENDED = 4
"""Gradients' memory that an exact product is taken for where it might not fit: tangents, and whole attention matrices."""


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call, the faster of two."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def numbers(item: Item) -> int:
    return sum(t.numel() for t in item)


@dataclass(frozen=True)
class Footprint:
    """Peaks of the stages of one problem [bytes beyond the process's start], each measured when it is first asked for."""

    problem: Problem
    expansion: Expansion
    layout: TermLayout

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
        return self.problem.rule.state_vectors(self.problem.objective.layout)

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
        together = [data.items[i] for i in self.problem.reference.steps[0]]
        if len(together) < 2 or not derivatives.stackable(self.problem.objective, together):
            return found
        return max(found, tuple(torch.cat(parts) for parts in zip(*together, strict=True)), key=numbers)

    # --- measured

    def _gradient_of(self, item: Item) -> int:
        """Bytes of one gradient; in proportion to the largest item's where it might not fit, so that planning does."""
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
        """G: bytes of one gradient of the largest item."""
        return self._gradient_of(self.largest)

    def pooled_gradient(self, pool: int) -> int:
        """Bytes of a gradient of a batch as large as `pool` of the largest items."""
        return self.gradient if pool == 1 else self._gradient_of(tuple(torch.cat([t] * pool) for t in self.largest))

    @cached_property
    def product(self) -> int:
        """Bytes of the sweep's Hessian-vector product: a gradient of as many items as are pooled, and three vectors."""
        config = self.expansion.config
        pool = config.pool if config.curvature == "pooled" else self.problem.config.data.per_step
        return pool * self.exact_product if config.products == "exact" else self.pooled_gradient(pool) + 3 * self.vector

    @cached_property
    def exact_product(self) -> int:
        """Bytes of one exact Hessian-vector product of the largest item."""
        objective, theta = self.problem.objective, self.theta
        if self._scarce(ATTENDED * self.gradient):
            return ATTENDED * self.gradient
        call = lambda: derivatives.hessian_vector(objective, theta, self.largest, theta).sum().item()  # noqa: E731
        return peak_bytes(theta.device, call)

    @cached_property
    def evaluation(self) -> int:
        """Bytes of evaluating the loss of one probe chunk."""
        probe = self.problem.data.probe[:1]
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

    def training(self) -> int:
        """Reference run, or a retraining: the state it started from, the current and the next one, a step's gradients."""
        width = 1 if self.problem.stacked else self.problem.config.data.per_step
        held = self.resident + (2 * self.state + 1) * self.vector
        step = (2 * self.state + 3 + width + TEMPORARIES) * self.vector
        return self.planned(held + max(self.gradient + width * self.vector, step, self.evaluation))

    def centre(self) -> int:
        """The centre: for each item of the mixture its gradient and the state after it; then their means, and a stack. Of an
        ensemble the states of all runs, before and after a step, and their gradients, stacked."""
        mixture = self.expansion.config.mixture
        if self.expansion.ensemble:
            runs = self.resident + mixture * (2 * self.state + 2) * self.vector
            step = (mixture * (self.state + 2 + TEMPORARIES) + self.state) * self.vector
            return self.planned(runs + max(self.gradient, step))
        held = self.resident + (2 * self.state + mixture * (self.state + 1)) * self.vector
        step = (2 * mixture + self.state + 2 + TEMPORARIES) * self.vector
        return self.planned(held + max(self.gradient, step))

    def sweep(self) -> int:
        """The backward sweep of r read-outs: mixture gradients, and for each item a costate pulled back and a sensitivity."""
        mixture, readouts, s = self.expansion.config.mixture, self.swept, self.state
        places = self.expansion.places_count + 1
        held = self.resident + (s + places + readouts * s + mixture * (readouts * (s + 1) + 2)) * self.vector
        step = readouts * (mixture + 3 * s + TEMPORARIES) * self.vector
        start = self.resident + (s + 2 + readouts) * self.vector + self.probe_gradient + self.functionals()
        gaps = round(GAPS * self.product) if self.expansion.ensemble else 0
        return self.planned(max(held + self.product, held + step, start) + gaps)

    def low_rank(self) -> int:
        """The replay's curvature: where runs stand, a state, Krylov vectors, turned and scaled to Ritz vectors, and a product."""
        rows, places = products(self.expansion), self.expansion.places_count + 1
        held = self.resident + (rows + places + self.state + 4) * self.vector
        gaps = round(GAPS * self.product) if self.expansion.ensemble else 0
        return self.planned(held + max(self.product + gaps, (3 * rows + TEMPORARIES) * self.vector))

    @property
    def swept(self) -> int:
        """r + m, rows of the sweep: read-outs, and functionals of the first."""
        return len(self.expansion.names) + self.expansion.functionals

    def functionals(self) -> int:
        """Finding functionals: simulated displacements and what their bends are, and simulated orders while they are replayed."""
        m = self.expansion.functionals
        if not m:
            return 0
        together = min(SAMPLES * m, simulated_together(self.vector))
        return (2 * SAMPLES * m + 2 * m + BUFFERS * together + self.expansion.config.mixture) * self.vector

    def sample(self) -> int:
        """Drawing coordinates: simulated orders, and an evaluation."""
        runs = self.expansion.config.mixture * self.state if self.expansion.ensemble else 0  # whose ends are evaluated
        simulated = 0 if self.expansion.whole else self.simulated()
        return self.planned(self.resident + (self.state + runs) * self.vector + max(simulated, self.evaluation))

    def simulated(self) -> int:
        """Simulated orders, m states and noise, and scores in double precision."""
        config, s, d = self.expansion.config, self.state, self.theta.numel()
        m, fine = config.simulated, self.expansion.fine
        r = len(self.expansion.names) if self.expansion.of_all else self.swept
        vectors = m * (3 * s + TEMPORARIES + 2 * r + fine) + s * (2 + fine) + 2 * config.mixture
        scores = (m * (r + fine) + self.expansion.rank) * self.vector + 8 * d * (4 * m * (1 + fine) + r + 8)
        if self.expansion.rank:  # one anchor's and the next, and what they answer
            vectors += 2 * self.expansion.rank + 3 * m + 2 * r
        simulated = vectors * self.vector + (
            self.held_items if self.expansion.of_all else 8 * d * (2 * config.mixture + 3)
        )
        return max(simulated, scores)

    @property
    def held_items(self) -> int:
        """Item gradients on all coordinates that are kept in memory for reading them again, and a block of them interpolated."""
        items = self.problem.config.data.items
        rows = min(ITEM_BLOCK, items)
        every = len(self.expansion.anchors) * items * self.vector
        return min(every, max(2 * rows * self.vector, HELD)) + 3 * rows * self.vector

    def anchors(self) -> int:
        """Anchors: gradients of the last block of items and of this one, then stacked, and what is kept of them."""
        rows = min(ITEM_BLOCK, self.problem.config.data.items)
        kept = (
            0
            if self.expansion.controlled
            else 3 * rows * self.expansion.expected_coordinates * self.theta.element_size()
        )
        held = self.resident + (self.state + 2 * rows) * self.vector + kept
        return self.planned(max(held + max(self.gradient, rows * self.vector), self.choosing()))

    def choosing(self) -> int:
        """Choosing how many anchors: a few items' gradients at three steps, one interpolated, and what surrounds a step."""
        if self.expansion.config.anchors:
            return 0
        rows = len(pilot_items(self.expansion))
        around = 2 * self.state + self.state * self.expansion.fine
        return self.resident + (around + 6 * rows) * self.vector

    def fold(self) -> int:
        """Folding: two states, and a step's weights and costates, each read and sampled; then item gradients on all coordinates,
        as many as are kept in memory, and a block of them interpolated; the samples' weights and sums."""
        e, items = self.expansion, self.problem.config.data.items
        states = (2 * self.state + 2 * self.state * e.fine + 2) * self.vector
        k, width = e.expected_coordinates, self.theta.element_size()
        sampled = k * items * width * (2 * len(e.anchors) + 4)  # gradients of the sample, and between its anchors
        if e.of_all:
            states += 32 * e.fine * self.theta.numel() + self.held_items * e.controlled
        if e.controlled:
            sampled += 16 * ROWS * k
        simulated = self.simulated() if e.whole else 0  # before the table, which is held by what they find
        read = (
            2 * max(self.swept, e.rank) * self.vector
        )  # a step's weights, or a checkpoint's Ritz vectors, before they are sampled
        return self.planned(self.resident + max(read, states + sampled, simulated))

    def reweighting(self, wanted: Sensitivities) -> int:
        """The sweep along the reference run: a step's item gradients, a state, and every read-out's costate and weights."""
        n, r, s = wanted.per_step, len(wanted.names), self.state
        held = self.resident + (n + s + r * (s + 3)) * self.vector
        product = self.exact_product if wanted.config.products == "exact" else self.gradient + 3 * self.vector
        pull = (2 * s * r + TEMPORARIES) * self.vector
        taken = 2 * n * self.vector + self.gradient  # all at once, before they are one stack
        return self.planned(held + max(taken, product, pull, 2 * self.vector * r))

    def pairwise(self, names: Sequence[str]) -> int:
        """Pairwise terms: gradients, states and updates of a block of items, then products of its updates one by one."""
        rows, s = min(self.layout.config.item_block, self.layout.items), self.state
        stored = rows * self.layout.sample.size * self.theta.element_size() if "gradient" in names else 0
        held = self.resident + (s + rows) * self.vector + stored  # what the block before was written from, or encoded
        phases = [rows * self.vector + self.gradient, rows * self.vector + stored]
        if {"update", "jvp", "second"} & set(names):
            phases += [rows * (2 * s + TEMPORARIES) * self.vector, 3 * rows * self.vector + hashes(self.layout.sketch)]
        if {"jvp", "second"} & set(names):
            exact = self.layout.config.products == "exact" and "jvp" in names
            product = self.exact_product if exact else self.gradient + 3 * self.vector
            phases.append((3 * rows + s + TEMPORARIES) * self.vector + product)
        return self.planned(held + max(phases))


def footprint_of(problem: Problem, adjoint: AdjointConfig, cache: CacheConfig) -> Footprint:
    """The footprint of a problem under an expansion's and a cache's configuration; nothing is read or written."""
    expansion = Expansion(Path(), problem, adjoint, lambda: problem.rule.init(problem.objective.start()))
    return Footprint(problem, expansion, TermLayout.of(problem, cache))


def hashes(sketch: Sketch) -> int:
    """Bytes of the hashes of one tile of a sketch, of its sorted copies and of its entries."""
    if sketch.kind in ("identity", "coordinates"):
        return 8 * sketch.dimension
    nonzeros = 8 if sketch.kind == "sjlt" else 1
    return 96 * nonzeros * min(sketch.dimension if sketch.kind == "sjlt" else HASHED, HASHED)
