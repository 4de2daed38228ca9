"""A genetic algorithm over orders, as arXiv 2505.22042 searches curricula: selection, order crossover, swap mutation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fut.questions.curriculum.arrangements import Floats, Units
from fut.questions.curriculum.evaluator import Evaluator

POPULATION, ELITE, TOURNAMENT = 64, 4, 3
CROSSOVER, MUTATION = 0.9, 0.5
"""Probabilities that a child has two parents, and that it is mutated (by one swap, or more where a draw says so again)."""
IDLE = 30
"""Generations without a new order before the end."""


def genetic(evaluator: Evaluator, starts: Sequence[Units], draw: np.random.Generator) -> None:
    """Generations of POPULATION orders, the first of them `starts` and random ones, until the budget is spent.

    The ELITE best of a generation live on; the others are children of winners of tournaments. The paper does not state its
    rates; those above are ordinary ones.
    """
    space = evaluator.space
    population = [*starts, *(space.random(draw) for _ in range(POPULATION - len(starts)))][:POPULATION]
    values, idle = evaluator.values(population), 0
    while evaluator.left and idle < IDLE and len(space.items) > 1:
        elite = [population[i] for i in np.argsort(values, kind="stable")[:ELITE]]
        children = [space.repair(_child(population, values, draw)) for _ in range(POPULATION - len(elite))]
        idle = 0 if evaluator.fresh(children) else idle + 1
        population = elite + children
        values = evaluator.values(population)


def _child(population: Sequence[Units], values: Floats, draw: np.random.Generator) -> Units:
    child = _selected(population, values, draw)
    if draw.random() < CROSSOVER:
        child = order_crossover(child, _selected(population, values, draw), draw)
    child = child.copy()
    while draw.random() < MUTATION:
        a, b = draw.choice(len(child), 2, replace=False)
        child[a], child[b] = child[b], child[a]
    return child


def _selected(population: Sequence[Units], values: Floats, draw: np.random.Generator) -> Units:
    """The best of TOURNAMENT drawn at random."""
    drawn = draw.integers(len(population), size=TOURNAMENT)
    best: Units = population[drawn[values[drawn].argmin()]]
    return best


def order_crossover(first: Units, second: Units, draw: np.random.Generator) -> Units:
    """A stretch of the first parent in its places, the other units in the sequence that the second has from behind the
    stretch on, around the end (order crossover: Davis 1985)."""
    n = len(first)
    a, b = np.sort(draw.choice(n + 1, 2, replace=False))
    rest = np.roll(second, -b)
    rest = rest[~np.isin(rest, first[a:b])]
    child = first.copy()
    child[np.r_[b:n, 0:a]] = rest
    return child
