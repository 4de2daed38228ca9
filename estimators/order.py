"""An order of items as an immutable value: which items every step of the window consumes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import OrderError


@dataclass(frozen=True)
class Order:
    """For every step, the items that it consumes; the step's gradient is their mean.

    steps: one tuple of item numbers per step. An empty tuple is a step with zero gradient (the optimizer's memory and
    decay still act). Edits return new orders; nothing is changed in place.
    """

    steps: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, sequence: Iterable[int | Iterable[int]]) -> Order:
        """From item numbers, or from lists of item numbers, one entry per step."""
        return cls(tuple(_step(position, entry) for position, entry in enumerate(sequence)))

    def __len__(self) -> int:
        return len(self.steps)

    def check(self, items: int, steps: int, partial: bool = False) -> Order:
        """This order, if it can be trained in a window of `steps` steps over `items` items; else an OrderError.

        partial: accept fewer steps than the window has (the run then ends early).
        """
        for position, step in enumerate(self.steps):
            for item in step:
                if not 0 <= item < items:
                    raise OrderError(
                        f"order: expected items 0..{items - 1}, got {item} at step {position}; correct that index"
                    )
        if len(self.steps) > steps:
            raise OrderError(
                f"order: expected at most {steps} steps, the length of the window, got {len(self.steps)}; shorten it"
            )
        if not self.steps or (len(self.steps) < steps and not partial):
            missing = sorted(set(range(items)) - {i for step in self.steps for i in step})
            names = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
            raise OrderError(
                f"order: expected {steps} steps, got {len(self.steps)}"
                + (f" (missing items: {names})" if missing else "")
                + "; add what is missing, write `drop:ITEM` to leave an item out, or ask for a partial order (`--partial`)"
            )
        return self

    def swap(self, a: int, b: int) -> Order:
        """What steps a and b consume, exchanged."""
        a, b = self._position(a), self._position(b)
        steps = list(self.steps)
        steps[a], steps[b] = steps[b], steps[a]
        return Order(tuple(steps))

    def move(self, source: int, target: int) -> Order:
        """What step `source` consumes, consumed at step `target`; the steps between close up."""
        source, target = self._position(source), self._position(target)
        steps = list(self.steps)
        steps.insert(target, steps.pop(source))
        return Order(tuple(steps))

    def drop(self, item: int) -> Order:
        """Without the item: a step left empty is removed, so that the run ends that much earlier."""
        self._holds(item)
        kept = [tuple(i for i in step if i != item) for step in self.steps]
        return Order(tuple(new for new, old in zip(kept, self.steps, strict=True) if new or not old))

    def repeat(self, item: int, position: int) -> Order:
        """The item consumed at step `position` as well, in place of what that step consumed."""
        position = self._position(position)
        self._holds(item)
        return Order((*self.steps[:position], (item,), *self.steps[position + 1 :]))

    def replace(self, old: int, new: int) -> Order:
        """Every occurrence of item `old` replaced by item `new`."""
        self._holds(old)
        return Order(tuple(tuple(new if i == old else i for i in step) for step in self.steps))

    @property
    def digest(self) -> str:
        """SHA-256 over step lengths and item numbers (int64, little endian): equal exactly for equal orders."""
        words = [word for step in self.steps for word in (len(step), *step)]
        return hashlib.sha256(np.asarray(words, dtype="<i8").tobytes()).hexdigest()

    @property
    def multiset_digest(self) -> str:
        """SHA-256 over the sorted item numbers: equal for orders that consume the same items equally often."""
        words = sorted(item for step in self.steps for item in step)
        return hashlib.sha256(np.asarray(words, dtype="<i8").tobytes()).hexdigest()

    def tolist(self) -> list[int] | list[list[int]]:
        """Item numbers where every step has one item, else a list per step; `Order.of` reads both."""
        if all(len(step) == 1 for step in self.steps):
            return [step[0] for step in self.steps]
        return [list(step) for step in self.steps]

    def _position(self, position: int) -> int:
        if not 0 <= position < len(self.steps):
            raise OrderError(f"order: expected a step 0..{len(self.steps) - 1}, got {position}; correct that position")
        return position

    def _holds(self, item: int) -> None:
        if not any(item in step for step in self.steps):
            raise OrderError(f"order: expected an item that the order holds, got {item}; correct that item")


def _step(position: int, entry: int | Iterable[int]) -> tuple[int, ...]:
    items: Sequence[object] = (entry,) if isinstance(entry, (int, np.integer)) else _listed(position, entry)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, np.integer)):
            raise OrderError(f"order: expected whole item numbers, got {item!r} at step {position}; write [3, 1, 2, 0]")
    return tuple(int(item) for item in items)  # type: ignore[call-overload]


def _listed(position: int, entry: object) -> Sequence[object]:
    if isinstance(entry, (str, bytes)) or not isinstance(entry, Iterable):
        raise OrderError(f"order: expected whole item numbers, got {entry!r} at step {position}; write [3, 1, 2, 0]")
    return tuple(entry)


def named_order(spec: str, reference: Order) -> Order:
    """An order by name, relative to the reference order.

    `identity`, `reverse`, `random:SEED`, `swap:3,7` (steps), `move:2,10` (from step, to step), `drop:4` (item),
    `repeat:4,9` (item, step), `replace:4,9` (item, by item).
    """
    name, _, text = spec.partition(":")
    edits = {"swap": 2, "move": 2, "drop": 1, "repeat": 2, "replace": 2}
    if name in ("identity", "reverse") and not text:
        return reference if name == "identity" else Order(reference.steps[::-1])
    if name != "random" and name not in edits:
        known = "identity, reverse, random:SEED, swap:A,B, move:A,B, drop:I, repeat:I,STEP, replace:I,J"
        raise OrderError(f"order: expected a file, a list like 3,1,2,0, or one of {known}; got `{spec}`")
    numbers = _numbers(spec, text, edits.get(name, 1))
    if name == "random":
        return random_order(reference, numbers[0])
    return getattr(reference, name)(*numbers)


def _numbers(spec: str, text: str, count: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or min(numbers) < 0:
        form = ",".join("N" * count)
        raise OrderError(f"order: expected `{spec.partition(':')[0]}:{form}` with whole numbers from 0, got `{spec}`")
    return numbers


def random_order(reference: Order, *seed: int) -> Order:
    """A uniformly random permutation of the reference order's steps, from an explicit seed."""
    permutation = np.random.default_rng(list(seed)).permutation(len(reference))
    return Order(tuple(reference.steps[i] for i in permutation))


def random_orders(reference: Order, count: int, seed: int) -> list[Order]:
    """`count` independent uniformly random orders; order i depends on (seed, i) alone."""
    return [random_order(reference, seed, i) for i in range(count)]
