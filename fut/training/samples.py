"""Whether the first dimension of items is samples: then samples of several items may stand in one batch, and one may be split."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from fut.errors import UsageError
from fut.models import autodiff as derivatives
from fut.models.objective import Item, Objective
from fut.models.randomness import draws

IGNORED = -100
"""The label that torch's losses leave out."""
LOSS, GRADIENT = 1e-4, 1e-3
"""How far, relatively, a mean over parts may be from the loss or the gradient of the whole: rounding of single precision."""


@dataclass(frozen=True)
class Samples:
    """Whether items are made of samples. reason: why they are not; empty where they are."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


class DataSamples:
    """The same of both parts of a data set that are pooled or divided, each found when it is first asked for.

    Args:
        objective: the loss.
        items: what the orders permute.
        probe: held-out chunks.
    """

    def __init__(self, objective: Objective, items: Sequence[Item], probe: Sequence[Item]) -> None:
        self._objective, self._items, self._probe = objective, items, probe

    @cached_property
    def pooled(self) -> Sequence[Item]:
        """Items as rows of several of them are drawn into one batch."""
        return self._objective.unrecorded(self._items)

    @cached_property
    def items(self) -> Samples:
        """Of the items: whether rows of several may stand in one batch."""
        return find_samples(self._objective, self.pooled)

    @cached_property
    def probe(self) -> Samples:
        """Of the held-out chunks: whether one may be divided."""
        with self._objective.judging():
            return find_samples(self._objective, self._probe)

    def require_probe(self, field: str) -> None:
        """UsageError where the held-out data are not made of samples that can be told apart."""
        if not self.probe:
            raise UsageError(
                f"{field}: expected probe chunks whose first dimension is samples, to divide them, but, of the probe, "
                f"{self.probe.reason}; ask for the read-outs probe, item:I or a function of your own"
            )


def find_samples(objective: Objective, items: Sequence[Item]) -> Samples:
    """Whether every tensor of an item has a row per sample, and the item's loss is the mean over its samples.

    Looks at the shapes of all items, then at losses and gradients of a few at the starting parameters: of an item against
    those of its parts, and of parts of two items against the two together. The built-in loss is such a mean.
    """
    reason = _uneven(items) or _shapes(items)
    if not reason and not objective.built_in:
        reason = _no_mean(objective, items)
    return Samples(reason)


def _uneven(items: Sequence[Item]) -> str:
    for number, item in enumerate(items):
        rows = [len(t) for t in item]
        if len(set(rows)) != 1:
            return f"item {number} has tensors of {', '.join(map(str, rows))} rows"
        if not rows[0]:
            return f"item {number} has no rows"
    return ""


def _shapes(items: Sequence[Item]) -> str:
    shapes = {tuple((t.shape[1:], t.dtype) for t in item) for item in items}
    return f"items have {len(shapes)} shapes" if len(shapes) > 1 else ""


def _no_mean(objective: Objective, items: Sequence[Item]) -> str:
    """Why the loss is no mean over samples; empty where it is on all that is tried."""
    theta, devices = objective.start(), [objective.device] if objective.device.type == "cuda" else []

    def noisy() -> bool:
        with torch.no_grad():
            return draws(lambda: objective.noiseless(theta, items[0]), devices)

    with objective.judging() if noisy() else nullcontext():
        if noisy():
            return "the loss draws random numbers in evaluation mode too, an item's all at once"
        chosen = sorted({0, len(items) // 2, len(items) - 1, *_unlike(items)})
        halves = [_divided(items[number]) for number in chosen]
        try:
            for number, (first, second) in zip(chosen, halves, strict=True):
                rows = len(first[0]) + len(second[0])
                splits = [(first, second)] if len(second[0]) else []
                if rows > 2:
                    splits.append((_rows(items[number], [0]), _rows(items[number], range(1, rows))))
                for parts in splits:
                    if found := _differs(objective, theta, items[number], parts):
                        return f"the loss of item {number} is not the mean over its rows ({found})"
            for pair in pairwise([first for first, _ in halves]):
                whole = tuple(torch.cat(parts) for parts in zip(*pair, strict=True))
                if found := _differs(objective, theta, whole, pair):
                    return f"the loss of rows of two items is not the mean over them ({found})"
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the user's own code on another number of rows
            said = (str(error).splitlines() or [""])[0][:120]
            return f"the loss cannot be taken on some of an item's rows ({type(error).__name__}: {said})"
    return ""


def _unlike(items: Sequence[Item]) -> set[int]:
    """The items that count the fewest and the most numbers, by labels that are left out and zeros of masks; none where all count
    alike. A loss over the counted numbers of several rows is a mean over the rows only where these count alike."""
    counts = [sum(map(_left_out, item)) for item in items]
    return {counts.index(min(counts)), counts.index(max(counts))} if len(set(counts)) > 1 else set()


def _left_out(tensor: Tensor) -> int:
    """Entries that a loss leaves out: labels of -100, and zeros of a tensor of zeros and ones."""
    mask = tensor == 0
    return int((tensor == IGNORED).sum()) + (int(mask.sum()) if bool((mask | (tensor == 1)).all()) else 0)


def _divided(item: Item) -> tuple[Item, Item]:
    """An item's rows in two parts, mixed."""
    order = torch.randperm(len(item[0]), generator=torch.Generator().manual_seed(0)).tolist()
    half = (len(order) + 1) // 2
    return _rows(item, order[:half]), _rows(item, order[half:])


def _rows(item: Item, rows: Sequence[int]) -> Item:
    return tuple(t[list(rows)] for t in item)


def _differs(objective: Objective, theta: Tensor, whole: Item, parts: Sequence[Item]) -> str:
    """How the loss or the gradient of the whole differs from the mean over its parts, each weighted by its rows; else nothing."""
    g, loss = derivatives.gradient_and_loss(objective, theta, whole)
    found = [derivatives.gradient_and_loss(objective, theta, part) for part in parts]
    shares = [len(part[0]) / len(whole[0]) for part in parts]
    mean = sum(share * value for share, (_, value) in zip(shares, found, strict=True))
    scale = sum(share * abs(value) for share, (_, value) in zip(shares, found, strict=True))
    if not abs(mean - loss) <= LOSS * scale:
        return f"{loss:.6g}, the mean {mean:.6g}"
    slope = torch.stack([share * part for share, (part, _) in zip(shares, found, strict=True)]).sum(0)
    size = sum(share * part.norm().item() for share, (part, _) in zip(shares, found, strict=True))
    away = (slope - g).norm().item()
    return (
        ""
        if away <= GRADIENT * size
        else f"its gradient is {away / size if size else away:.2g} away from theirs, relatively"
    )
