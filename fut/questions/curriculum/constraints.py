"""Constraints on an order: what stands first, what stands last, what stays together, what comes before what."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from estimators.errors import OrderError

Pair = tuple[int, int]


@dataclass(frozen=True)
class Constraints:
    """What every order of a search must keep to; items by number.

    prefix: items of the first places, in this order. suffix: of the last. blocks: sets of items that stand next to one
    another, in whatever order. precedence: pairs (a, b), a before b. Places are counted through the steps: with several items
    per step a block fills its steps one after the other, sharing the first and last of them with other items perhaps, and
    two items of one step, which have no order, stand in whichever is asked for.

    Sets that no order can keep to are refused by `check`, with an OrderError that names what contradicts what.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    precedence: tuple[Pair, ...] = ()

    @classmethod
    def of(
        cls,
        prefix: Iterable[int] = (),
        suffix: Iterable[int] = (),
        blocks: Iterable[Iterable[int]] = (),
        precedence: Iterable[Iterable[int]] = (),
    ) -> Constraints:
        """From lists; OrderError for a pair of `precedence` that is none."""
        pairs = [tuple(pair) for pair in precedence]
        for pair in pairs:
            if len(pair) != 2:
                raise OrderError(
                    f"constraints: expected two items, the earlier first, got {list(pair)}; write them as `3,7`"
                )
        return cls(tuple(prefix), tuple(suffix), tuple(tuple(b) for b in blocks), tuple((p[0], p[1]) for p in pairs))

    def __bool__(self) -> bool:
        return bool(self.prefix or self.suffix or self.blocks or self.precedence)

    @property
    def named(self) -> set[int]:
        """Every item that a constraint names."""
        pairs = {item for pair in self.precedence for item in pair}
        return {*self.prefix, *self.suffix, *(i for block in self.blocks for i in block), *pairs}

    def check(self, items: Sequence[int]) -> Constraints:
        """These constraints, if some order of `items` keeps to all of them; else an OrderError."""
        counts: dict[int, int] = {}
        for item in items:
            counts[item] = counts.get(item, 0) + 1
        for item in sorted(self.named):
            if counts.get(item, 0) != 1:
                raise OrderError(
                    f"constraints: expected items that the order holds once, got {item}, which it holds "
                    f"{counts.get(item, 0)} times; correct that item"
                )
        self._require_distinct()
        for block in self.blocks:
            self._require_whole(block)
        self._require_order(items)
        return self

    def _require_distinct(self) -> None:
        lists = {"prefix": self.prefix, "suffix": self.suffix, **{f"block {list(b)}": b for b in self.blocks}}
        for name, listed in lists.items():
            if twice := _repeated(listed):
                raise OrderError(f"constraints: expected each item once in {name}, got {twice[0]} twice; remove one")
        if twice := _repeated((*self.prefix, *self.suffix)):
            raise OrderError(
                f"constraints: expected prefix and suffix to share no item, got {twice[0]} in both; remove it from one"
            )
        if twice := _repeated([i for block in self.blocks for i in block]):
            raise OrderError(
                f"constraints: expected blocks that share no item, got {twice[0]} in two of them; join these blocks"
            )

    def _require_whole(self, block: tuple[int, ...]) -> None:
        if len(block) < 2:
            raise OrderError(f"constraints: expected a block of two items at least, got {list(block)}; leave it out")
        for name, ends in (("prefix", self.prefix), ("suffix", self.suffix)):
            places = sorted(ends.index(i) for i in block if i in ends)
            if places and len(places) < len(block):
                raise OrderError(
                    f"constraints: expected all items of a block in the {name} or none, got {len(places)} of block "
                    f"{list(block)}; complete the {name} or remove them from it"
                )
            if places and places[-1] - places[0] >= len(block):
                raise OrderError(
                    f"constraints: expected the block {list(block)} to stay together, got its items apart in the {name} "
                    f"{list(ends)}; reorder the {name}"
                )

    def _require_order(self, items: Sequence[int]) -> None:
        """No circle among the items, and none among the groups that stay together."""
        require_acyclic(self.precedence, lambda item: item, "items")
        group = self.group_of(items)
        between = [(a, b) for a, b in self.precedence if group[a] != group[b]]
        for a, b in between:
            if group[b] == "prefix" or group[a] == "suffix":
                where = f"{b} in the prefix" if group[b] == "prefix" else f"{a} in the suffix"
                raise OrderError(
                    f"constraints: expected {a} before {b}, got {where} without the other; drop one of the two demands"
                )
        for ends in (self.prefix, self.suffix):
            for a, b in self.precedence:
                if a in ends and b in ends and ends.index(a) > ends.index(b):
                    raise OrderError(
                        f"constraints: expected {a} before {b}, got {list(ends)}; reorder that list or drop the pair"
                    )
        require_acyclic(between, group.__getitem__, "blocks")

    def group_of(self, items: Iterable[int]) -> Mapping[int, Hashable]:
        """What every item stays together with: `prefix`, `suffix`, the number of its block, or itself alone."""
        groups: dict[int, Hashable] = {item: ("item", item) for item in items}
        groups |= {i: ("block", number) for number, block in enumerate(self.blocks) for i in block}
        return groups | dict.fromkeys(self.prefix, "prefix") | dict.fromkeys(self.suffix, "suffix")

    def as_dict(self) -> dict[str, list[object]]:
        return {
            "prefix": list(self.prefix),
            "suffix": list(self.suffix),
            "blocks": [list(block) for block in self.blocks],
            "precedence": [list(pair) for pair in self.precedence],
        }


def _repeated(items: Sequence[int]) -> list[int]:
    return [item for place, item in enumerate(items) if item in items[:place]]


def require_acyclic(pairs: Iterable[Pair], node: Callable[[int], Hashable], what: str) -> None:
    """OrderError, naming the circle, if pairs (a, b), a before b, form one among the nodes of their items."""
    before: dict[Hashable, set[Hashable]] = {}
    names: dict[Hashable, int] = {}
    for a, b in pairs:
        before.setdefault(node(b), set()).add(node(a))
        names.setdefault(node(a), a)
        names.setdefault(node(b), b)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        circle = " before ".join(str(names[n]) for n in error.args[1])
        through = "" if what == "items" else ", each with its block"
        raise OrderError(
            f"constraints: expected demands that some order meets, got a circle, {circle}{through}; drop one pair of it"
        ) from error
