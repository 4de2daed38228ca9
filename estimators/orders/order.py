"""An order of items as an immutable value: which items every step of the window consumes, and with what weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np

from ..errors import OrderError
from ..numbers import LARGEST as WIDEST
from ..numbers import as_int, cut, shown, whole
from .entries import Entries, checked_weights, listed, read_item, read_items, read_step, sha256
from .epochs import epochs
from .samplers import OrderBatchSampler, OrderSampler, indexed

LEAST = 4
"""Steps of an epoch whose halves can both be permuted."""
TRIES = 64
"""Draws of a half's permutation, the identity among two being as likely as not."""
SHOWN = 32
"""Steps that the text of an order lists."""


@dataclass(frozen=True)
class Order:
    """For every step, the items that it consumes; the step's gradient is their weighted mean, sum(w g) / sum(w).

    steps: one tuple of item numbers per step. An empty tuple is a step with zero gradient (the optimizer's memory and
    decay still act). weights: one weight >= 0 per item of every step; None where all are one. An item of weight 0 stands
    in its step without taking part, and a step whose weights are all 0 trains like an empty one. Within a step items have
    no order. Edits return new orders, weights travelling with their items; nothing is changed in place.
    """

    steps: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        self._check_items()
        if self.weights is None:
            return
        plain = self._are_ones()
        if plain and [len(given) for given in self.weights] == [len(step) for step in self.steps]:
            object.__setattr__(self, "weights", None)  # what most orders are, without a closer look
            return
        if not isinstance(self.weights, (tuple, list)):
            raise OrderError(f"order: expected a tuple of weights per step, got {shown(self.weights)}; use Order.of")
        if len(self.weights) != len(self.steps):
            raise OrderError(
                f"order: expected weights for {len(self.steps)} steps, got {len(self.weights)}; give one list per step"
            )
        both = enumerate(zip(self.steps, self.weights, strict=True))
        weights = tuple(checked_weights(position, step, given) for position, (step, given) in both)
        plain = all(w == 1.0 for step in weights for w in step)
        object.__setattr__(self, "weights", None if plain else weights)

    def _are_ones(self) -> bool:
        """Whether all weights are ones, as they are in most orders."""
        lists = isinstance(self.weights, tuple) and set(map(type, self.weights)) <= {tuple}
        return lists and all(type(w) is float and w == 1.0 for given in self.weights or () for w in given)

    def _check_items(self) -> None:
        """Plain item numbers, step by step; what is none is refused, and numbers of numpy or torch become plain ones."""
        if type(self.steps) is tuple and set(map(type, self.steps)) <= {tuple}:
            items = list(chain.from_iterable(self.steps))
            if set(map(type, items)) <= {int} and (not items or -WIDEST < min(items) <= max(items) < WIDEST):
                return
        if not isinstance(self.steps, (tuple, list)):
            raise OrderError(f"order: expected a tuple of items per step, got {shown(self.steps)}; use Order.of")
        object.__setattr__(self, "steps", tuple(read_items(t, step) for t, step in enumerate(self.steps)))

    @classmethod
    def of(cls, sequence: Iterable[int | Iterable[int] | Mapping[str, Any]]) -> Order:
        """From item numbers, lists of item numbers, or `{"items": [3, 7], "weights": [1, 0.5]}`, one entry per step."""
        entries = listed(sequence)
        if set(map(type, entries)) == {int}:
            return cls(tuple(zip(cast("list[int]", entries), strict=True)))
        read = [read_step(position, entry) for position, entry in enumerate(entries)]
        return cls(tuple(step for step, _ in read), tuple(weights for _, weights in read))

    @classmethod
    def of_entries(cls, entries: Iterable[Iterable[tuple[int, float]]]) -> Order:
        """From pairs of item and weight, step by step."""
        steps = [tuple(step) for step in entries]
        return cls(tuple(tuple(i for i, _ in s) for s in steps), tuple(tuple(w for _, w in s) for s in steps))

    @property
    def entries(self) -> tuple[Entries, ...]:
        """Pairs of item and weight, step by step."""
        weights = self.weights or tuple((1.0,) * len(step) for step in self.steps)
        return tuple(tuple(zip(s, w, strict=True)) for s, w in zip(self.steps, weights, strict=True))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """The steps, each a tuple of item numbers."""
        return iter(self.steps)

    def __repr__(self) -> str:
        listed = self.tolist()
        if len(listed) > SHOWN:
            return f"<Order of {len(listed)} steps: {', '.join(map(str, listed[:SHOWN]))}, …>"
        return f"Order.of({listed})"

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

    def canonical(self, twins: Sequence[int] | None = None) -> Order:
        """The one form of all orders that train the same: no item of weight 0, a step's items ascending.

        Weights that are all alike in a step become one. twins: for every item, the item that stands for its content.
        """
        if self.weights is None:
            if twins is None and max(map(len, self.steps), default=0) <= 1:
                return self
            named = self.steps if twins is None else ([twins[i] for i in step] for step in self.steps)
            return Order(tuple(tuple(sorted(step)) for step in named))
        steps = []
        for step in self.entries:
            kept = sorted((i if twins is None else twins[i], w) for i, w in step if w > 0)
            alike = len({w for _, w in kept}) <= 1
            steps.append([(i, 1.0 if alike else w) for i, w in kept])
        return Order.of_entries(steps)

    def first(self, steps: int) -> Order:
        """The first `steps` steps; OrderError where there are fewer."""
        steps = whole(steps, "a whole number of steps", "correct that number")
        if not 0 < steps <= len(self.steps):
            raise OrderError(f"order: expected 1..{len(self.steps)} steps to take, got {steps}; correct that number")
        return Order(self.steps[:steps], None if self.weights is None else self.weights[:steps])

    def swap(self, a: int, b: int) -> Order:
        """What steps a and b consume, exchanged."""
        a, b = self._position(a), self._position(b)
        steps = list(self.entries)
        steps[a], steps[b] = steps[b], steps[a]
        return Order.of_entries(steps)

    def move(self, source: int, target: int) -> Order:
        """What step `source` consumes, consumed at step `target`; the steps between close up."""
        source, target = self._position(source), self._position(target)
        steps = list(self.entries)
        steps.insert(target, steps.pop(source))
        return Order.of_entries(steps)

    def drop(self, item: int) -> Order:
        """Without the item: a step left empty is removed, so that the run ends that much earlier."""
        item = self._holds(item)
        kept = [tuple((i, w) for i, w in step if i != item) for step in self.entries]
        return Order.of_entries(new for new, old in zip(kept, self.steps, strict=True) if new or not old)

    def without(self, items: Iterable[int]) -> Order:
        """The items weighted 0 wherever they occur: their steps train on what else they hold, and none is removed."""
        left_out = {self._holds(item) for item in listed(items)}
        return Order.of_entries([(i, 0.0 if i in left_out else w) for i, w in step] for step in self.entries)

    def repeat(self, item: int, position: int) -> Order:
        """The item consumed at step `position` in place of what that step consumed: 0,1,2,3 with (0, 3) is 0,1,2,0."""
        position, item = self._position(position), self._holds(item)
        entries = self.entries
        return Order.of_entries((*entries[:position], ((item, 1.0),), *entries[position + 1 :]))

    def replace(self, old: int, new: int) -> Order:
        """Every occurrence of item `old` replaced by item `new`."""
        old, new = self._holds(old), read_item(new)
        return Order.of_entries([(new if i == old else i, w) for i, w in step] for step in self.entries)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over step lengths and item numbers (int64, little endian), and over the weights (float64) where there
        are any: equal exactly for equal orders."""
        words = [word for step in self.steps for word in (len(step), *step)]
        return sha256(words, [w for step in self.weights or () for w in step])

    @property
    def multiset_digest(self) -> str:
        """SHA-256 over the sorted item numbers, and their weights where there are any: equal for orders that consume the
        same items equally often, with the same weights."""
        pairs = sorted(pair for step in self.entries for pair in step)
        return sha256([i for i, _ in pairs], [w for _, w in pairs] if self.weights else [])

    def tolist(self) -> list[Any]:
        """Item numbers where every step has one item, else a list per step; with weights, `{"items", "weights"}` for
        every step that has some other than one. `Order.of` reads all of them."""
        if self.weights is not None:
            both = zip(self.steps, self.weights, strict=True)
            return [list(s) if set(w) <= {1.0} else {"items": list(s), "weights": list(w)} for s, w in both]
        if all(len(step) == 1 for step in self.steps):
            return [step[0] for step in self.steps]
        return [list(step) for step in self.steps]

    def indices(self, samples: int = 1) -> list[int]:
        """Item numbers in the order in which they are consumed, as `datasets.Dataset.select` takes them; see `indexed`.

        samples: rows of a data set that make an item, consecutive ones; of each then all indices.
        """
        return [index for step in indexed(self.entries, samples) for index in step]

    def sampler(self, samples: int = 1) -> OrderSampler:
        """The same as a sampler of torch, for `DataLoader(..., sampler=...)` with a fixed batch size."""
        return OrderSampler(self.indices(samples))

    def batch_sampler(self, samples: int = 1) -> OrderBatchSampler:
        """A sampler of torch that gives one list a step, for `DataLoader(..., batch_sampler=...)`; see `indexed`."""
        return OrderBatchSampler(indexed(self.entries, samples))

    def _position(self, position: int) -> int:
        position = whole(position, "a whole number of a step", "correct that position")
        if not 0 <= position < len(self.steps):
            raise OrderError(f"order: expected a step 0..{len(self.steps) - 1}, got {position}; correct that position")
        return position

    def _holds(self, item: int) -> int:
        item = read_item(item)
        if not any(item in step for step in self.steps):
            raise OrderError(f"order: expected an item that the order holds, got {item}; correct that item")
        return item


NAMES = (
    "identity, reverse, random:SEED, random-steps:SEED, random-all:SEED, swap:A,B, move:A,B, drop:I, without:I,J,…, "
    "repeat:I,STEP, replace:I,J; of a run also sort:SCORE, folding:SCORE:N, zigzag:SCORE:N, segment:SCORE:N, "
    "stair:SCORE:N, saw:SCORE:N, with :desc for high to low (SCORE: length, loss, gradient-norm, perplexity-drop)"
)
"""Named orders, as they are written; those by a SCORE need a run, which alone knows its items."""


def named_order(spec: str, reference: Order) -> Order:
    """An order by name, relative to the reference order.

    `identity`, `reverse` (steps), `random:SEED` (items over all places of an epoch), `random-steps:SEED` (whole steps),
    `random-all:SEED` (items over the places of all epochs), `swap:3,7` (steps), `move:2,10` (from step, to step), `drop:4`
    (item), `without:3,5` (items, any number of them), `repeat:4,9` (item, step), `replace:4,9` (item, by item).
    """
    name, _, text = spec.partition(":")
    edits = {"swap": 2, "move": 2, "drop": 1, "repeat": 2, "replace": 2}
    draws = {"random": random_order, "random-steps": random_steps, "random-all": random_placements}
    if name in ("identity", "reverse") and not text:
        return reference if name == "identity" else Order.of_entries(reference.entries[::-1])
    if name not in (*draws, *edits, "without"):
        raise OrderError(f"order: expected a file, a list like 3,1,2,0, or one of {NAMES}; got {cut(spec)}")
    numbers = _numbers(spec, text, None if name == "without" else edits.get(name, 1))
    if name in draws:
        return draws[name](reference, numbers[0])
    return reference.without(numbers) if name == "without" else getattr(reference, name)(*numbers)


def _numbers(spec: str, text: str, count: int | None) -> list[int]:
    """`count` whole numbers, or any number of them for None."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) != (count or len(numbers)) or min(numbers) < 0:
        form = ",".join("N" * count) if count else "N,N,…"
        raise OrderError(
            f"order: expected `{spec.partition(':')[0]}:{form}` with whole numbers from 0, got {cut(spec)}"
        )
    return numbers


def random_order(reference: Order, *seed: int) -> Order:
    """A uniformly random permutation of the reference order's items over their places, from an explicit seed; epoch by epoch.

    Steps keep their lengths, so that with several items per step the batches are made anew; with one item per step these
    are the permutations of its steps. Weights travel with their items. OrderError for a seed below 0.
    """
    draw = _generator(seed)
    return Order.of_entries(step for part in epochs(reference.entries) for step in _shuffled(part, draw))


def random_placements(reference: Order, *seed: int) -> Order:
    """The same over the places of all epochs together."""
    return Order.of_entries(_shuffled(reference.entries, _generator(seed)))


def random_steps(reference: Order, *seed: int) -> Order:
    """A uniformly random permutation of the reference order's steps as they are, from an explicit seed; epoch by epoch."""
    draw, parts = _generator(seed), epochs(reference.entries)
    return Order.of_entries(part[i] for part in parts for i in draw.permutation(len(part)).tolist())


class Halves(NamedTuple):
    """Orders that part from the reference order in one half of the steps, in the other, and in both."""

    first: Order
    second: Order
    both: Order


def shuffled_halves(reference: Order, *seed: int) -> Halves:
    """Orders that permute the reference order's items within a half of its steps, drawn at random from an explicit seed.

    `first` permutes what one half of each epoch's steps consume among these, `second` the other half, each into another order
    where its items differ, and `both` has the changes of either: where what an order leads to is a sum over its steps, that is
    the sum of what the two change.

    Args:
        reference: of 4 steps or more in each epoch.
        seed: of the draw.

    Raises:
        OrderError: for fewer steps, or a seed below 0.
    """
    draw, made = _generator(seed), tuple[list[Entries], ...](([], [], []))
    for part in epochs(reference.entries):
        if len(part) < LEAST:
            raise OrderError(
                f"halves: expected {LEAST} steps or more in an epoch, got {len(part)}; use a longer window"
            )
        places = draw.permutation(len(part))
        halves = places[: len(part) // 2], places[len(part) // 2 :]
        changed = [_changed(part, sorted(half), draw) for half in halves]
        for entries, of in zip(made, (changed[0], changed[1], changed[0] | changed[1]), strict=True):
            entries += [of.get(step, kept) for step, kept in enumerate(part)]
    return Halves(*map(Order.of_entries, made))


def _changed(part: Sequence[Entries], half: Sequence[int], draw: np.random.Generator) -> dict[int, Entries]:
    """The steps of a half with their items permuted, drawn again where that is the order as it was."""
    kept = [part[step] for step in half]
    found = list(_shuffled(kept, draw))
    for _ in range(TRIES):
        if found != kept:
            break
        found = list(_shuffled(kept, draw))
    return dict(zip(half, found, strict=True))


def _shuffled(entries: Sequence[Entries], draw: np.random.Generator) -> Iterator[Entries]:
    """Steps of the same lengths, whose items are those of `entries`, permuted."""
    pairs = [pair for step in entries for pair in step]
    if all(len(step) <= 1 for step in entries):
        yield from (entries[i] for i in draw.permutation(len(entries)).tolist())
        return
    drawn = iter([pairs[i] for i in draw.permutation(len(pairs)).tolist()])
    yield from (tuple(sorted(next(drawn) for _ in step)) for step in entries)


def _generator(seed: tuple[int, ...]) -> np.random.Generator:
    numbers = [number for number in map(as_int, seed) if number is not None and number >= 0]
    if len(numbers) < len(seed):
        raise OrderError(f"random order: expected a seed of 0 or more, got {', '.join(map(shown, seed))}; correct it")
    return np.random.default_rng(numbers)


def random_orders(reference: Order, count: int, seed: int) -> list[Order]:
    """`count` independent uniformly random orders; order i depends on (seed, i) alone."""
    return [random_order(reference, seed, i) for i in range(count)]
