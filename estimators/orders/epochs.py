"""Epochs: the passes of an order over the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .entries import Entries


def epochs(entries: Sequence[Entries]) -> list[Sequence[Entries]]:
    """The steps of each epoch, in turn; one epoch where the steps do not divide so.

    Epochs have equally many steps, and consume the same items with the same weights, each once.

    Args:
        entries: pairs of item and weight, step by step.
    """
    counts = Counter(item for step in entries for item, _ in step)
    passes = set(counts.values())
    count = passes.pop() if len(passes) == 1 else 1
    if count == 1 or len(entries) % count:
        return [entries]
    size = len(entries) // count
    parts = [entries[first : first + size] for first in range(0, len(entries), size)]
    consumed = [sorted(pair for step in part for pair in step) for part in parts]
    once = len({item for item, _ in consumed[0]}) == len(consumed[0])
    return parts if once and all(pairs == consumed[0] for pairs in consumed) else [entries]
