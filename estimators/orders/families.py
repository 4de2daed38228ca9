"""Orders made from a score per item: sorted, and the families that visit the sorted list several times.

Every family rearranges the reference order's places ranked by score, lowest first; items of equal score keep the reference
order. Ranked high to low (`desc`), each family is the same with "lowest" and "highest" exchanged. The sorted items fill the
reference order's steps in turn, so that steps keep their lengths; an item that the reference consumes several times is
ranked as often, and weights travel with their items.

`folding` is from "Data Efficacy for Language Model Training" (arXiv 2506.21545); `zigzag`, `segment`, `stair` and `saw`
follow "Demystifying Data Organization for Enhanced LLM Training" (arXiv 2605.30334), without its random parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import OrderError
from .order import Order

Places = list[int]


def folding(ranked: Sequence[int], folds: int) -> Places:
    """`folds` passes over the sorted list, each taking every `folds`-th place, the first from place 0, the next from 1, …

    Every pass rises through the whole range of scores: [0 1 2 3 4 5] in 2 folds is [0 2 4 1 3 5].
    """
    return [place for first in range(folds) for place in ranked[first::folds]]


def zigzag(ranked: Sequence[int], folds: int) -> Places:
    """`folding` with every second pass reversed, so that scores rise and fall without a jump: [0 2 4 5 3 1]."""
    passes = [list(ranked[first::folds]) for first in range(folds)]
    return [place for number, one in enumerate(passes) for place in (one[::-1] if number % 2 else one)]


def segment(ranked: Sequence[int], percent: int) -> Places:
    """Three segments: the lowest `percent` % of the places, then the middle, then the highest `percent` %.

    Each segment keeps the reference order within, so that scores decide what stands at the two ends of training, and no more.
    """
    size = min(round(len(ranked) * percent / 100), len(ranked) // 2)
    parts = ranked[:size], ranked[size : len(ranked) - size], ranked[len(ranked) - size :]
    return [place for part in parts for place in sorted(part)]


def stair(ranked: Sequence[int], sections: int) -> Places:
    """The sorted list cut into `sections` equal sections, the stretch around every cut between two of them folded.

    A stretch reaches a tenth of the list to either side of its cut, and at most half a section; it is taken in three folds.
    Between the stretches the list stays sorted.
    """
    return _around_cuts(ranked, sections, folding)


def saw(ranked: Sequence[int], sections: int) -> Places:
    """`stair` with zigzag in place of folding around the cuts, so that scores fall back by degrees and not at once."""
    return _around_cuts(ranked, sections, zigzag)


STRETCH, STRETCH_FOLDS = 0.1, 3


def _around_cuts(ranked: Sequence[int], sections: int, arrange: Callable[[Sequence[int], int], Places]) -> Places:
    count, places, done = len(ranked), list[int](), 0
    reach = round(count * min(STRETCH, 0.5 / sections))
    for cut in (round(count * s / sections) for s in range(1, sections)):
        first, last = max(cut - reach, done), min(cut + reach, count)
        places += [*ranked[done:first], *arrange(ranked[first:last], STRETCH_FOLDS)]
        done = last
    return [*places, *ranked[done:]]


@dataclass(frozen=True)
class Family:
    """A rearrangement of ranked places by one whole number, its usual value and the values it may have.

    most: None for as many as there are places.
    """

    arrange: Callable[[Sequence[int], int], Places]
    parameter: str
    usual: int
    least: int
    most: int | None = None


FAMILIES: dict[str, Family] = {
    "folding": Family(folding, "folds", 4, 2),
    "zigzag": Family(zigzag, "folds", 4, 2),
    "segment": Family(segment, "percent at each end", 25, 1, 50),
    "stair": Family(stair, "sections", 3, 2),
    "saw": Family(saw, "sections", 3, 2),
}


@dataclass(frozen=True)
class FamilyName:
    """What a name like `folding:loss:4:desc` asks for. number: None where the family is `sort`, which has none."""

    family: str
    key: str
    number: int | None
    descending: bool

    def __str__(self) -> str:
        words = [self.family, self.key, *([] if self.number is None else [str(self.number)])]
        return ":".join([*words, *(["desc"] if self.descending else [])])


def family_name(spec: str) -> FamilyName | None:
    """The parts of `sort:SCORE` or `FAMILY:SCORE[:NUMBER]`, `:asc` or `:desc` behind; None where it begins otherwise.

    OrderError for a name that begins like one and cannot be read.
    """
    family, *words = spec.strip().split(":")
    if family != "sort" and family not in FAMILIES:
        return None
    direction = words.pop() if words and words[-1] in ("asc", "desc") else "asc"
    numbers = words[1:]
    limit = 0 if family == "sort" else 1
    if not words or not words[0] or len(numbers) > limit or not all(n.isdecimal() for n in numbers):
        form = f"{family}:SCORE" + (f":NUMBER ({FAMILIES[family].parameter})" if limit else "")
        raise OrderError(f"order: expected `{form}`, then perhaps `:desc`, got `{spec}`; write `{family}:loss`, say")
    number = int(numbers[0]) if numbers else FAMILIES[family].usual if limit else None
    return FamilyName(family, words[0], number, direction == "desc")


def arranged(
    reference: Order,
    scores: Sequence[float],
    family: str = "sort",
    number: int | None = None,
    descending: bool = False,
) -> Order:
    """The order of a family, from the reference order and one score per item [items].

    family: `sort`, `folding`, `zigzag`, `segment`, `stair` or `saw`. number: that family's own; None for its usual one.
    OrderError for an unknown family, a number out of its range, or scores that are missing or not finite.
    """
    pairs = [pair for step in reference.entries for pair in step]
    values = _checked(scores, max((item for item, _ in pairs), default=-1) + 1)
    sign = -1.0 if descending else 1.0
    ranked = sorted(range(len(pairs)), key=lambda place: sign * values[pairs[place][0]])
    if family in FAMILIES:
        ranked = FAMILIES[family].arrange(ranked, _number(family, number, len(pairs)))
    elif family != "sort" or number is not None:
        wanted = "a family without a number for `sort`" if family == "sort" else f"one of sort, {', '.join(FAMILIES)}"
        raise OrderError(f"order: expected {wanted}, got `{family}` with {number}; correct the name")
    drawn = iter([pairs[place] for place in ranked])
    return Order.of_entries(sorted(next(drawn) for _ in step) for step in reference.steps)


def _checked(scores: Sequence[float], items: int) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or len(values) < items or not np.isfinite(values).all():
        got = "NaN or infinity" if values.ndim == 1 and len(values) >= items else f"shape {list(values.shape)}"
        raise OrderError(
            f"order: expected a finite score for each of {items} items, got {got}; give one number per item"
        )
    return values


def _number(family: str, number: int | None, places: int) -> int:
    rule = FAMILIES[family]
    value, most = rule.usual if number is None else number, rule.most or places
    if not rule.least <= value <= most:
        raise OrderError(
            f"order: expected {rule.parameter} from {rule.least} to {most} for `{family}`, got {value}; correct the number"
        )
    return value
