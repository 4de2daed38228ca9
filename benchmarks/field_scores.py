"""What every method of others answers about a run: its scores of the samples, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from field_gradients import log_odds_gradients, sequences, tapped
from field_methods import Projected, bm25, cosines, factors, influence, projection, tracin, trak
from torch import Tensor

import fut
from estimators.orders.order import random_orders
from fut.data.text import detokenize

PASS = 3.0
"""Gradients of a pass back through a step: the step's own, and one Hessian-vector product, which counts two."""
MODEL_SEED, MODELS, PROJECTION_SEED = 7000, 5, 0
WIDTHS, RIDGES = (128, 512, 1024), (0.01, 0.1, 1.0, 10.0)
WIDTH, RIDGE = 512, 0.1
DRAWS, DRAW_SEED, DAMPING, DAMPINGS = 2, 0, 0.1, (0.01, 0.1, 1.0, 10.0)
CHECKPOINTS = 5
RANDOM_SEED = 0
SETTINGS = {
    "trak": {"models": MODELS, "width": WIDTH, "ridge": RIDGE, "widths": WIDTHS, "ridges": RIDGES, "seed": MODEL_SEED},
    "ekfac": {"draws": DRAWS, "damping": DAMPING, "dampings": DAMPINGS},
    "tracin": {"checkpoints": CHECKPOINTS},
}
R = TypeVar("R")


@dataclass(frozen=True)
class Cost:
    """training_runs: gradients of sequences, in those of one training, the reference run aside. bytes: that are kept to answer
    further subsets. seconds: before the first answer. seconds_per_subset: of one more."""

    training_runs: float
    bytes: int
    seconds: float
    seconds_per_subset: float = 0.0


@dataclass(frozen=True)
class Answers:
    """Predicted effects of leaving out every subset, and their cost. has_unit: whether they are meant in nats/token."""

    effects: list[float]
    cost: Cost
    more: Mapping[str, Any] = field(default_factory=dict)
    has_unit: bool = True

    @classmethod
    def of_scores(cls, scores: Tensor, subsets: Sequence[Sequence[int]], cost: Cost, has_unit: bool = True) -> Answers:
        """Minus the sum of the scores that are left out."""
        return cls([-scores[list(left_out)].sum().item() for left_out in subsets], cost, {}, has_unit)


def timed(work: Callable[[], R]) -> tuple[R, float]:
    """A result, and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def all_scores(run: fut.Run, subsets: Sequence[Sequence[int]]) -> dict[str, Answers]:
    """The answers of every method of others."""
    found: dict[str, Answers] = {}
    for one in (_trak, _ekfac, _dot_products, _words):
        for name, (scores, cost, has_unit) in one(run).items():
            found[name] = Answers.of_scores(scores, subsets, cost, has_unit)
    return found


Scored = dict[str, tuple[Tensor, Cost, bool]]


def passes(run: fut.Run, samples: float, probes: float) -> float:
    """Training runs of so many passes over all samples and so many gradients of the read-out, a gradient for each sequence."""
    gradients = samples * run.items + probes * len(sequences(run.context.problem.data.probe))
    return gradients / run.context.config.consumed


def _trak(run: fut.Run) -> Scored:
    """Over the reference run and runs in random orders; each beside a grid of its settings."""
    problem, tokens = run.context.problem, sequences(run.context.problem.data.items)
    orders = random_orders(run.reference, MODELS - 1, MODEL_SEED)
    began = time.perf_counter()
    matrix = projection(problem.objective.size, max(WIDTHS), PROJECTION_SEED).to(problem.objective.dtype)
    ends = [run.context.state(run.steps).theta, *(run.retrain(order).theta for order in orders)]

    def model(theta: Tensor) -> Projected:
        parts = [(g @ matrix, misses) for g, misses in log_odds_gradients(problem.objective, theta, tokens)]
        features, misses = (torch.cat(part) for part in zip(*parts, strict=True))
        return Projected(features, problem.probe_gradient(theta) @ matrix, misses)

    models = [model(theta) for theta in ends]
    seconds = time.perf_counter() - began
    found: Scored = {}
    for count, label in ((MODELS, "TRAK"), (1, "TRAK, one model")):
        cost = Cost(count - 1 + passes(run, count, count), 8 * run.items, seconds * count / MODELS)
        found[label] = (trak([one.first(WIDTH) for one in models[:count]], RIDGE), cost, True)
        for width in WIDTHS:
            for ridge in RIDGES:
                narrow = [one.first(width) for one in models[:count]]
                found[f"{label}, {width} numbers, ridge {ridge:g}"] = (trak(narrow, ridge), cost, True)
    return found


def _ekfac(run: fut.Run) -> Scored:
    """On all linear layers, at the end of the reference run."""
    problem, objective = run.context.problem, run.context.problem.objective
    theta, draw = run.context.state(run.steps).theta, torch.Generator().manual_seed(DRAW_SEED)
    tokens, probe = sequences(problem.data.items), sequences(problem.data.probe)

    def prepare() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        with objective.holding(theta, problem.data.items[0]) as module:
            drawn = [tapped(module, tokens, draw) for _ in range(DRAWS)]
            layers = {name: factors([one[name] for one in drawn]) for name in drawn[0]}
            samples = {name: one.gradients for name, one in tapped(module, tokens).items()}
            target = {name: one.gradients.mean(0) for name, one in tapped(module, probe).items()}
        return layers, target, samples

    (layers, target, samples), seconds = timed(prepare)
    cost = Cost(passes(run, DRAWS + 1, 1), 8 * run.items, seconds)
    found: Scored = {"EK-FAC": (influence(layers, target, samples, DAMPING), cost, True)}
    for damping in DAMPINGS:
        found[f"EK-FAC, damping {damping:g}"] = (influence(layers, target, samples, damping), cost, True)
    return found


def _dot_products(run: fut.Run) -> Scored:
    """Gradients of the samples with that of the read-out: at a few checkpoints, at every sample's own steps, at the end."""
    problem, steps, width = run.context.problem, run.steps, run.context.config.data.per_step

    @cache
    def target(step: int) -> Tensor:
        return problem.probe_gradient(run.context.state(step).theta)

    def products(step: int) -> Tensor:
        return problem.item_gradients(run.context.state(step).theta, range(run.items)) @ target(step)

    def own_steps() -> Tensor:
        total = torch.zeros(run.items, dtype=torch.float64)
        for t, items in enumerate(run.reference.steps):
            found = problem.item_gradients(run.context.state(t).theta, items) @ target(t)
            spread = torch.zeros_like(total).index_add(0, torch.tensor(items), found.double())
            total += tracin([(problem.rate(t), spread)], width)
        return total

    chosen = [steps * j // CHECKPOINTS for j in range(CHECKPOINTS)]
    several, at_several = timed(lambda: tracin([(problem.rate(t), products(t)) for t in chosen], width))
    own, at_own = timed(own_steps)
    end = run.context.state(steps).theta
    similar, at_end = timed(lambda: cosines(problem.item_gradients(end, range(run.items)), target(steps)))
    own_cost = 1 + steps * passes(run, 0, 1)
    return {
        "TracIn": (several, Cost(passes(run, CHECKPOINTS, CHECKPOINTS), 8 * run.items, at_several), False),
        "TracIn, own steps": (own, Cost(own_cost, 8 * run.items, at_own), False),
        "gradient cosine": (similar, Cost(passes(run, 1, 1), 8 * run.items, at_end), False),
    }


def _words(run: fut.Run) -> Scored:
    """BM25 between samples and held-out sequences, and scores drawn at random."""
    data, config = run.context.problem.data, run.context.config.data
    documents, queries = (
        [text for item in part for text in detokenize(item, config)] for part in (data.items, data.probe)
    )
    found, seconds = timed(lambda: bm25(documents, queries))
    drawn = torch.randn(run.items, generator=torch.Generator().manual_seed(RANDOM_SEED), dtype=torch.float64)
    return {
        "BM25": (found, Cost(0.0, 8 * run.items, seconds), False),
        "random": (drawn, Cost(0.0, 8 * run.items, 0.0), False),
    }
