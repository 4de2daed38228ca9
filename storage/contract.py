"""The contract of term stores and of the backends that hold their blocks, as checks to run on a backend of one's own.

A check takes an empty store of `SPECS`, `IDENTITY` and `ITEM_BLOCK`, and raises `ContractError` where the store breaks what the
check is named after. A check of errors asks for the error's class and for what its message has to name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .backends import backend_named
from .bfloat16 import from_bfloat16, to_bfloat16
from .errors import ContentError, IdentityError, MissingError
from .layout import Block, TermSpec
from .terms import TermStore

IDENTITY: dict[str, Any] = {"seed": 3, "rule": {"name": "adam", "betas": (0.9, 0.999)}}
SPECS = (
    TermSpec("gradient", (3, 10, 5), "float32"),
    TermSpec("update", (2, 7, 4), "float64"),
    TermSpec("half", (2, 10, 5), "bfloat16"),
)
ITEM_BLOCK = 4
_FIRST = Block(0, 0, 4)


class ContractError(AssertionError):
    """A store that breaks what readers and writers of terms presume."""


def check_backend(name: str, directory: Path) -> None:
    """Run every check on stores whose blocks lie in a backend.

    Args:
        name: of a registered backend.
        directory: an empty one, for the stores.

    Raises:
        ContractError: at the first check that fails.
    """
    for check in CHECKS:
        check(new_store(name, directory / check.__name__))
    if backend_named(name).durable:
        check_reopening(new_store(name, directory / check_reopening.__name__))


def new_store(backend: str, directory: Path) -> TermStore:
    """An empty store as checks take it, or the one that is there."""
    return TermStore.create_or_open(directory, SPECS, IDENTITY, ITEM_BLOCK, backend)


def check_description(terms: TermStore) -> None:
    """A store says what it holds: terms by name, the identity as JSON has it, the size of blocks."""
    _equal(terms.specs, tuple(sorted(SPECS, key=lambda spec: spec.name)), "specs")
    _equal(terms.identity, {"seed": 3, "rule": {"name": "adam", "betas": [0.9, 0.999]}}, "identity")
    _equal(terms.item_block, ITEM_BLOCK, "item_block")


def check_blocks(terms: TermStore) -> None:
    """Blocks are ascending and cover every item once."""
    _equal(terms.blocks("update"), [_FIRST, Block(0, 4, 7), Block(1, 0, 4), Block(1, 4, 7)], "blocks of `update`")
    for spec in SPECS:
        covered = [(block.step, item) for block in terms.blocks(spec.name) for item in range(block.first, block.last)]
        every = [(step, item) for step in range(spec.shape[0]) for item in range(spec.shape[1])]
        _equal(covered, every, f"items covered by blocks of `{spec.name}`")


def check_reading(terms: TermStore) -> None:
    """What is written is read, with its dtype; bfloat16 is rounded and comes as float32."""
    for name in ("gradient", "update"):
        written = fill(terms, name, 1)
        _same(terms.read(name, 1), written)
    exact = fill(terms, "half", 1)
    found = terms.read("half", 1)
    _same(found, from_bfloat16(to_bfloat16(exact)))
    _equal(bool((found == exact).all()), False, "that bfloat16 keeps every digit")


def check_reading_items(terms: TermStore) -> None:
    """`read_items` keeps the order and the repetition of items."""
    listed: list[Any] = [[0], [9, 0, 9, 4], range(10), np.array([8, 3], np.int32), []]
    for name in ("gradient", "half"):
        fill(terms, name, 0)
        for items in listed:
            found = terms.read_items(name, 0, items)
            _same(found, terms.read(name, 0)[np.array(items, int)])


def check_reading_needs_its_own_blocks_only(terms: TermStore) -> None:
    """Items are read while other blocks are missing; a missing block is named with the command that computes it."""
    block = Block(1, 4, 8)
    terms.write(block, {"gradient": values("gradient", block)})
    _same(terms.read_items("gradient", 1, [7, 5]), values("gradient", block)[[3, 1]])
    _refused(lambda: terms.read_items("gradient", 1, [5, 3]), MissingError, "items 0 to 3")
    words = "gradient of checkpoint index 1, items 0 to 3.*`fut cache RUN`"
    _refused(lambda: terms.read("gradient", 1), MissingError, words)


def check_missing(terms: TermStore) -> None:
    """A block is missing while any of its terms is."""
    _equal(terms.missing(["gradient"]), terms.blocks("gradient"), "missing blocks of an empty store")
    _equal(terms.missing(), sorted({b for spec in SPECS for b in terms.blocks(spec.name)}), "all missing blocks")
    terms.write(_FIRST, {"gradient": values("gradient", _FIRST)})
    _equal(_FIRST in terms.missing(["gradient"]), False, "that a written block is missing")
    _equal(_FIRST in terms.missing(["gradient", "half"]), True, "that a block is missing for another term")
    _equal(terms.missing_names(_FIRST), ["half", "update"], "terms missing of a block")
    _equal(terms.missing_names(_FIRST, ["gradient", "half"]), ["half"], "of two terms those missing")
    _equal(terms.missing_names(Block(2, 0, 4)), ["gradient"], "missing terms of a block that one term has")
    _equal(terms.progress(), (1, 9 + 4 + 6), "progress")
    for spec in SPECS:
        for step in range(spec.shape[0]):
            fill(terms, spec.name, step)
    _equal((terms.missing(), terms.progress()), ([], (19, 19)), "missing blocks and progress of a full store")


def check_discarding(terms: TermStore) -> None:
    """Discarded blocks are missing again; to discard what is absent changes nothing."""
    block = Block(0, 4, 8)
    fill(terms, "gradient", 0)
    fill(terms, "half", 0)
    terms.discard(block, ["gradient"])
    _equal(terms.missing_names(block, ["gradient", "half"]), ["gradient"], "missing terms after one was discarded")
    _refused(lambda: terms.read("gradient", 0), MissingError, "items 4 to 7")
    _same(terms.read_items("half", 0, [4]), from_bfloat16(to_bfloat16(values("half", block)))[:1])
    for _ in range(2):
        terms.discard(block)
        _equal(
            terms.missing_names(block, ["gradient", "half"]), ["gradient", "half"], "missing after all are discarded"
        )


def check_writing_again(terms: TermStore) -> None:
    """A block can be written again, and others stay as they are."""
    fill(terms, "update", 0)
    terms.write(Block(0, 4, 7), {"update": np.full((3, 4), 7.0)})
    _same(terms.read("update", 0)[4:], np.full((3, 4), 7.0))
    _same(terms.read("update", 0)[:4], values("update", _FIRST))


def check_copies(terms: TermStore) -> None:
    """The store keeps its own copy: who changes what they wrote or read does not change it."""
    given = values("gradient", _FIRST)
    terms.write(_FIRST, {"gradient": given})
    given[:] = 0
    for _ in range(2):
        found = terms.read_items("gradient", 0, range(4))
        _same(found, values("gradient", _FIRST))
        found[:] = 0


def check_refusal_of_what_does_not_fit(terms: TermStore) -> None:
    """A wrong name, block, shape or dtype is refused before anything is written."""
    fits = np.zeros((4, 5), np.float32)
    wrong: list[tuple[str, Block, Any]] = [
        ("other", _FIRST, fits),
        *(("gradient", block, fits) for block in (Block(0, 1, 5), Block(3, 0, 4), Block(-1, 0, 4), Block(0, 8, 12))),
        ("gradient", _FIRST, np.zeros((4, 4), np.float32)),
        ("gradient", _FIRST, np.zeros((3, 5), np.float32)),
        ("gradient", _FIRST, np.zeros((4, 5), np.float64)),
        ("gradient", _FIRST, np.zeros((4, 5), ">f4")),
        ("gradient", _FIRST, [[0.0] * 5] * 4),
        ("update", _FIRST, np.zeros((4, 4), np.float32)),
        ("half", _FIRST, np.zeros((4, 5), np.uint16)),
    ]
    for name, block, array in wrong:
        _refused(lambda n=name, b=block, a=array: terms.write(b, {n: a}), ContentError, "expected .*; got .*; ")
    _equal(terms.progress()[0], 0, "blocks written after refusals")


def check_refusal_of_what_is_not_finite(terms: TermStore) -> None:
    """NaN, infinity, and what overflows as it is stored are refused before anything is written."""
    for name in ("gradient", "update", "half"):
        for bad in (np.nan, np.inf, -np.inf):
            arrays = {spec.name: values(spec.name, _FIRST) for spec in SPECS}
            arrays[name][2, 1] = bad
            words = rf"finite values for {name} of .*item 2, coordinate 1"
            _refused(lambda arrays=arrays: terms.write(_FIRST, arrays), ContentError, words)
    largest = np.full((4, 5), np.finfo(np.float32).max)
    _refused(lambda: terms.write(_FIRST, {"half": largest}), ContentError, "bfloat16")
    _equal(terms.progress()[0], 0, "blocks written after refusals")
    terms.write(_FIRST, {"gradient": largest})


def check_refusal_of_what_is_outside(terms: TermStore) -> None:
    """Checkpoint indices and items that a term has not are refused."""
    fill(terms, "gradient", 0)
    for step in (-1, 3):
        _refused(lambda step=step: terms.read("gradient", step), ContentError, "from 0 to 2")
    items: list[Any] = [[-1], [10], [0.5], [[0, 1]], [True, False]]
    for wrong in items:
        _refused(lambda wrong=wrong: terms.read_items("gradient", 0, wrong), ContentError, "from 0 to 9")


def check_reopening(store: TermStore) -> None:
    """Another object finds the complete blocks, the missing ones and their backend, and may not write without the identity."""
    fill(store, "gradient", 1)
    fill(store, "half", 0)
    store.discard(Block(0, 4, 8), ["half"])
    for other in (TermStore.open(store.path), new_store(store.backend, store.path)):
        _equal((other.specs, other.identity), (store.specs, store.identity), "specs and identity, opened again")
        _equal((other.missing(), other.progress()), (store.missing(), store.progress()), "missing, opened again")
        _same(other.read("gradient", 1), store.read("gradient", 1))
        _same(other.read_items("half", 0, [0, 9]), store.read_items("half", 0, [0, 9]))
        _equal(other.check(), [], "damages")
    opened = TermStore.open(store.path)
    _refused(lambda: opened.write(_FIRST, {"gradient": values("gradient", _FIRST)}), IdentityError, "create_or_open")


CHECKS: tuple[Callable[[TermStore], None], ...] = (
    check_description,
    check_blocks,
    check_reading,
    check_reading_items,
    check_reading_needs_its_own_blocks_only,
    check_missing,
    check_discarding,
    check_writing_again,
    check_copies,
    check_refusal_of_what_does_not_fit,
    check_refusal_of_what_is_not_finite,
    check_refusal_of_what_is_outside,
)
"""What every store of terms keeps to; one in a durable backend to `check_reopening` besides."""


def values(name: str, block: Block) -> np.ndarray:
    """Numbers for a block, the same every time."""
    spec = next(spec for spec in SPECS if spec.name == name)
    rng = np.random.default_rng([len(name), block.step, block.first])
    return rng.normal(size=(block.last - block.first, spec.shape[2])).astype(spec.read_dtype)


def fill(terms: TermStore, name: str, step: int) -> np.ndarray:
    """Write all blocks of one checkpoint index; returns what was written [items, k]."""
    blocks = [block for block in terms.blocks(name) if block.step == step]
    for block in blocks:
        terms.write(block, {name: values(name, block)})
    return np.concatenate([values(name, block) for block in blocks])


def _equal(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise ContractError(f"{what}: expected {expected}, got {found}")


def _same(found: np.ndarray, expected: np.ndarray) -> None:
    if (found.dtype, found.shape) != (expected.dtype, expected.shape) or not np.array_equal(found, expected):
        raise ContractError(
            f"expected what was written, {expected.dtype} {expected.shape}, got other numbers: {found.dtype} {found.shape}"
        )


def _refused(call: Callable[..., object], error: type[Exception], words: str) -> None:
    try:
        call()
    except error as refusal:
        if not re.search(words, str(refusal)):
            raise ContractError(f"expected a {error.__name__} that says {words!r}, got: {refusal}") from refusal
        return
    except Exception as other:
        raise ContractError(f"expected a {error.__name__} that says {words!r}, got {other!r}") from other
    raise ContractError(f"expected a {error.__name__} that says {words!r}, got no error")
