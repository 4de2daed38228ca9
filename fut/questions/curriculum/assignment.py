"""The arrangement of least sum under a table of costs, within constraints: exact where that is a linear assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fut.questions.curriculum.arrangements import Arrangements, Floats, Units

FEW = 12
"""Groups up to which every sequence of them is weighed."""
ROUNDS = 400


def assign(space: Arrangements, costs: Floats) -> Units:
    """The arrangement [n] of least sum under costs [places, units], its sum over places.

    Exact without blocks and precedence, by linear assignment; with blocks if all that is moved about are blocks of one
    size (an assignment of blocks, each with one of its units), or at most FEW groups, by weighing every sequence of them
    (precedence between blocks included). Otherwise the free assignment is repaired and improved by moves, to a local optimum.
    """
    if not space.constraints:
        return _matched(costs)
    inner = space.groups[1:-1]
    sizes = {len(units) for units in inner}
    if not space.pairs and len(sizes) <= 1:
        return _framed(space, _equal_blocks(costs, inner, len(space.groups[0])) if inner else [])
    if len(inner) <= FEW and not space.inner_pairs:
        return _framed(space, _few_blocks(space, costs, inner))
    return _improved(space, costs)


def _matched(costs: Floats) -> Units:
    """The column of every row in the assignment of least sum."""
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(costs)[1], dtype=np.int64)


def total(costs: Floats, arrangements: Units) -> Floats:
    """Sums of arrangements [..., n] under costs [places, units]."""
    return np.asarray(costs[np.arange(len(costs)), arrangements].sum(axis=-1))


def _framed(space: Arrangements, middle: Sequence[int]) -> Units:
    return np.array([*space.groups[0], *middle, *space.groups[-1]], dtype=np.int64)


def _within(costs: Floats, units: Sequence[int], begin: int) -> tuple[float, list[int]]:
    """Least sum of a block's units over the places from `begin`, and their sequence."""
    part = costs[begin : begin + len(units)][:, list(units)]
    columns = _matched(part)
    return float(part[np.arange(len(part)), columns].sum()), [units[c] for c in columns]


def _equal_blocks(costs: Floats, blocks: Sequence[Sequence[int]], begin: int) -> list[int]:
    size = len(blocks[0])
    if size == 1:
        return _within(costs, [u for block in blocks for u in block], begin)[1]
    totals = [[_within(costs, block, begin + k * size) for block in blocks] for k in range(len(blocks))]
    sequence = _matched(np.array([[value for value, _ in row] for row in totals]))
    return [unit for k, b in enumerate(sequence) for unit in totals[k][b][1]]


def _few_blocks(space: Arrangements, costs: Floats, blocks: Sequence[Sequence[int]]) -> list[int]:
    """Dynamic programme over sets of placed blocks: where the next one begins depends on the set alone."""
    count, begin = len(blocks), len(space.groups[0])
    before = [0] * count  # as bits; groups are numbered from 1, the prefix being 0
    for a, b in space.outer_pairs:
        before[b - 1] |= 1 << (a - 1)
    known: dict[tuple[int, int], tuple[float, list[int]]] = {}
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for done in range(1 << count):
        if done not in best:
            continue
        value, placed = best[done]
        place = begin + len(placed)
        for g in range(count):
            if done >> g & 1 or before[g] & ~done:
                continue
            if (g, place) not in known:
                known[g, place] = _within(costs, blocks[g], place)
            after, total_after = done | 1 << g, value + known[g, place][0]
            if after not in best or total_after < best[after][0]:
                best[after] = (total_after, [*placed, *known[g, place][1]])
    return best[(1 << count) - 1][1]


def _improved(space: Arrangements, costs: Floats) -> Units:
    """From the repaired free assignment, the best move again and again until none improves."""
    free = _matched(costs)
    best, draw = space.repair(free), np.random.default_rng(0)
    for _ in range(ROUNDS):
        rows = space.neighbours(best, draw)
        values = total(costs, rows)
        if not len(rows) or values.min() >= total(costs, best) - 1e-15:
            break
        best = rows[values.argmin()]
    return best
