"""The variants that `ablations.py` compares: estimators that differ from the default in one thing, on one reference run.

Every variant of the adjoint has a directory of its own; centres and sweeps that several have in common are computed once,
kept under `shared`, beside the variants, where a resumed build finds them done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from error_against_steps import SKETCH_SIZE, SketchedTables, changed
from frozen import FrozenSecondMoment
from torch import Tensor

import fut
from estimators.adjoint import DualTransition
from estimators.sketch import Sketch
from estimators.taylor import Moments
from fut.methods.adjoint import sweep
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.estimator import ALL, Adjoint, Rows
from fut.methods.adjoint.files import Expansion, SweepFiles
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.positions import Positions
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.base import Estimator
from fut.methods.context import Context
from fut.methods.curvature_batches import pooled_batch, pooled_products
from fut.methods.expansion.spec import Trajectory
from fut.methods.expansion.trajectory import TrajectoryFiles
from fut.methods.pairwise.replay import Replay, ReplayExact
from fut.methods.pairwise.store import term_layout
from fut.methods.pairwise.taylor import FirstOrderTaylor
from fut.methods.stages import build
from fut.models.autodiff import hessian_vector, hessian_vector_difference
from storage import fingerprint

EXACT_ORDERS, SEEDS = 16, (0, 1, 2)
DIFFERENCE_STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """A line of the record. make: the estimator, built. runs: gradients before the first order, in training runs.

    value: what is varied. seed: of the sample. orders: how many are asked, all of them for None. extra: what else is
    measured, by name.
    """

    group: str
    value: str
    make: Callable[[], Estimator]
    runs: Callable[[], float]
    seed: int = 0
    orders: int | None = None
    extra: Callable[[], dict[str, Any]] = dict


class AboutReference(Trajectory):
    """The reference run itself in the trajectory's place."""

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        return [tuple(step) for step in self.problem.reference.steps]


class ReferenceSpec(AdjointSpec):
    """An expansion about the reference run itself."""

    @cached_property
    def trajectory(self) -> Trajectory:
        return AboutReference(self.problem, False, self.config.num_runs, self.config.seed)


@dataclass(frozen=True)
class VariedExpansion(Expansion):
    """relative: step of the central differences. about_reference: the reference run itself in its place. batches: seed
    of the batches that curvature is taken on, whatever the configuration's."""

    relative: float = 3e-4
    about_reference: bool = False
    batches: int = 0

    def products(self, step: int, directions: Tensor) -> Tensor:
        """Products of the sweep on drawn batches."""
        config, places = self.spec.config.model_copy(update={"seed": self.batches}), self.trajectory.places(step)
        return pooled_products(self.problem, config, step, places, directions, len(self.spec.names), self.relative)

    @property
    def centre(self) -> str:
        """What the trajectory is called, which all expansions about it have in common."""
        kind = "-ensemble" * self.planned.trajectory.ensemble
        return f"centre-{'reference' if self.about_reference else self.planned.config.num_runs}{kind}"

    @property
    def swept(self) -> str:
        """What the sweep is called, which all expansions that differ in what comes after it have in common."""
        c = self.planned.config
        parts = (c.curvature, c.pool, c.draw, c.products, f"{self.relative:g}", c.functionals, self.batches)
        return "-".join(map(str, (self.centre, *parts)))

    @cached_property
    def trajectory(self) -> TrajectoryFiles:
        return TrajectoryFiles(self.planned.trajectory, self._beside(self.centre), self.start, self._owner(self.centre))

    @cached_property
    def sweep(self) -> SweepFiles:
        return SweepFiles(self._beside(self.swept), self.problem, self._owner(self.swept))

    def _beside(self, name: str) -> Path:
        return self.directory.parent / "shared" / name

    def _owner(self, name: str) -> str:
        return fingerprint({"run": self.problem.identity, "shared": name})


class Unweighted(Adjoint):
    """Order 0: the displacement without curvature, read linearly about the trajectory."""

    def _transition(self, block: slice, rows: Rows = ALL, owned: bool = False) -> DualTransition:
        whole = super()._transition(block, rows)
        return replace(whole, weights=lambda t: torch.zeros_like(whole.weights(t)))


class Frozen(Adjoint):
    """The adjoint replayed with the trajectory's second moment; the sweep is the default's."""

    @cached_property
    def _seconds(self) -> Tensor:
        """v of the trajectory after every step, on the sample [T, k]."""
        expansion = self.expansion
        return torch.stack(
            [
                expansion.trajectory.state(t + 1).restrict(expansion.indices).memory["v"]
                for t in range(expansion.spec.steps)
            ]
        )

    def _transition(self, block: slice, rows: Rows = ALL, owned: bool = False) -> DualTransition:
        whole = super()._transition(block, rows)
        inner: Any = whole.inner
        frozen = FrozenSecondMoment(inner.rule, inner.rate, inner.gradients, lambda t: self._seconds[t, block])
        return replace(whole, inner=frozen)


class Workbench:
    """Builds variants of one reference run. directory: of the variants and what they share."""

    def __init__(self, run: fut.Run, directory: Path) -> None:
        self.run, self.directory = run, directory

    @cached_property
    def pairwise(self) -> Context:
        """With item gradients, updates and exact-direction products of every (checkpoint, item) pair, no sketch."""
        self.run.cache(["gradient", "norm", "update", "jvp"])
        return self.run.context

    def expansion(self, relative: float = 3e-4, about_reference: bool = False, **changes: Any) -> VariedExpansion:
        """One that differs from the default, which is about a mixture, as said; nothing is computed."""
        usual: dict[str, Any] = {"trajectory": "mixture", "coordinates": 10**9, "functionals": 0}
        config = AdjointConfig(**usual | changes)
        told = [f"{k}-{v}" for k, v in sorted(changes.items())] + [f"relative-{relative:g}"] * (relative != 3e-4)
        path = self.directory / ("-".join(told + ["reference"] * about_reference) or DEFAULT)
        start = lambda: self.run.context.state(0)  # noqa: E731
        end = lambda: self.run.context.state(self.run.steps).theta  # noqa: E731
        spec = (ReferenceSpec if about_reference else AdjointSpec)(self.run.context.problem, config, keeps=False)
        return VariedExpansion(path, spec, start, end=end, relative=relative, about_reference=about_reference)

    def build(self, expansion: VariedExpansion, kind: type[Adjoint] | type[Positions] = Adjoint) -> Estimator:
        """Compute it, and an estimator on it; its trajectory and sweep stay readable."""
        if not expansion.complete():
            with patch.object(sweep, "drawn_products", lambda of, step, along, answer: of.products(step, along)):
                build(EXPANSION, expansion)
        return kind(self.run.context, expansion=expansion)

    def varied(
        self, group: str, value: str, kind: type[Adjoint] | type[Positions] = Adjoint, **changes: Any
    ) -> Variant:
        expansion = self.expansion(**changes)
        return Variant(
            group,
            value,
            lambda: self.build(expansion, kind),
            lambda: EXPANSION.cost(expansion.spec).gradients / self.run.steps,
            changes.get("seed", 0),
        )

    def paired(self, group: str, value: str, make: Callable[[Context], Estimator], names: list[str]) -> Variant:
        """An estimator on the terms of every (checkpoint, item) pair."""
        runs = lambda: term_layout(self.pairwise).gradients(names) / self.run.steps  # noqa: E731
        return Variant(group, value, lambda: make(self.pairwise), runs)

    # --- the ablations

    def variants(self, groups: list[str]) -> Iterator[Variant]:
        """The default, then everything of the named groups."""
        yield self.varied(DEFAULT, DEFAULT)
        for group in groups:
            yield from getattr(self, f"_{group}")()

    def _centre(self) -> Iterator[Variant]:
        for count in (1, 2, 8):
            yield self.varied("centre", f"c = {count}", num_runs=count)
        yield self.varied("centre", "reference order", num_runs=1, about_reference=True)

    def _ensemble(self) -> Iterator[Variant]:
        for count, pool in ((2, 2), (4, 2), (8, 2), (8, 4), (16, 8)):
            yield self.varied(
                "ensemble", f"{count} runs, pool = {pool}", trajectory="ensemble", num_runs=count, pool=pool
            )
        yield self.varied("ensemble", "mixture of 8, pool = 4", num_runs=8, pool=4)

    def _anchors(self) -> Iterator[Variant]:
        for count in (2, 5, 9, self.run.steps):
            yield self.varied("anchors", "A = T" if count == self.run.steps else f"A = {count}", num_anchors=count)

    def _coordinates(self) -> Iterator[Variant]:
        for share in (8, 32, 128, 1024):
            for seed in SEEDS:
                kept = self.run.context.parameters // share
                yield self.varied("coordinates", f"k = D/{share}", coordinates=kept, seed=seed)

    def _curvature(self) -> Iterator[Variant]:
        yield self.varied("curvature", "items", curvature="items")
        for pool in (1, 4, 8):
            yield self.varied("curvature", f"pool = {pool}", pool=pool)
        for pool in (1, 2, 8):
            yield self.varied("curvature", f"pool = {pool}, drawn anew every step", pool=pool, draw="independent")

    def _precompute(self) -> Iterator[Variant]:
        """The estimator as it comes, but for all coordinates, with less and with more spent on it."""
        for runs, pool, anchors in (
            (2, 1, 2),
            (2, 1, 3),
            (4, 1, 3),
            (4, 2, 3),
            (8, 2, 3),
            (8, 4, 5),
            (16, 4, 5),
            (16, 8, 9),
        ):
            changes: dict[str, Any] = {"num_runs": runs, "pool": pool, "num_anchors": anchors}
            value = f"{runs} runs, pool = {pool}, A = {anchors}"
            yield self.varied("precompute", value, trajectory="ensemble", functionals=8, **changes)

    def _products(self) -> Iterator[Variant]:
        exact = self.varied("products", "exact", products="exact")
        yield replace(exact, extra=self.product_errors)
        for relative in DIFFERENCE_STEPS:
            if relative != 3e-4:
                yield self.varied("products", f"h = {relative:g}", relative=relative)

    def _order(self) -> Iterator[Variant]:
        yield self.varied("order", "positions", Positions)
        yield self.varied("order", "order 0 about the trajectory", Unweighted)
        yield self.paired("order", "replay (order 0 about the reference)", Replay, ["gradient", "norm"])
        exact = lambda: ReplayExact(self.run.context)  # noqa: E731
        yield Variant("order", "replay-exact (order 1)", exact, lambda: 0.0, orders=EXACT_ORDERS)

    def _moments(self) -> Iterator[Variant]:
        yield self.varied("moments", "adjoint, v of the trajectory", Frozen)
        kinds: tuple[Moments, ...] = ("reference", "replayed")
        for moments in kinds:
            terms = ["update", "jvp"]
            yield self.paired("moments", f"taylor1, {moments}", partial(sketched, moments=moments), terms)
            exact = lambda r, m=moments: FirstOrderTaylor(r, moments=m, reading="linear")  # noqa: E731
            yield self.paired("moments", f"taylor1, no sketch, {moments}", exact, terms)

    def product_errors(self) -> dict[str, Any]:
        """Relative error of central differences along the sweep's own direction, at three steps of the default's sweep."""
        expansion, problem, errors = self.expansion(), self.run.context.problem, dict[str, list[float]]()
        self.build(expansion)
        for step in (expansion.spec.steps // 4, expansion.spec.steps // 2, 3 * expansion.spec.steps // 4):
            state, rate, after = expansion.trajectory.state(step), problem.rate(step), expansion.sweep.costate(step + 1)
            pulled = [problem.rule.pullback(state, g, rate, after)[1] for g in expansion.trajectory.gradients_of(step)]
            direction, batch = torch.stack(pulled).mean(0)[0], pooled_batch(problem, expansion.spec.config, step)
            exact = hessian_vector(problem.objective, state.theta, batch, direction)
            for h in DIFFERENCE_STEPS:
                found = hessian_vector_difference(problem.objective, state.theta, batch, direction, h)
                errors.setdefault(f"{h:g}", []).append(((found - exact).norm() / exact.norm()).item())
        return {"product_errors": errors}


def sketched(context: Context, moments: Moments) -> FirstOrderTaylor:
    """The paper's estimator on the same terms seen through a JL sketch of the default kind and size."""
    exact = term_layout(context)
    found = FirstOrderTaylor(context, moments=moments, layout=changed(context, exact, sketch="sjlt", size=SKETCH_SIZE))
    sketch = Sketch("sjlt", 0, context.problem.objective.size, SKETCH_SIZE)
    found.tables = SketchedTables(FirstOrderTaylor(context, layout=exact).tables, sketch)
    return found
