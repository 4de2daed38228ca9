"""Orders: edits, names, digests, and what is refused."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.errors import OrderError
from estimators.order import Order, named_order, random_order, random_orders

REFERENCE = Order.of(range(6))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("identity", [0, 1, 2, 3, 4, 5]),
        ("reverse", [5, 4, 3, 2, 1, 0]),
        ("swap:1,4", [0, 4, 2, 3, 1, 5]),
        ("move:0,3", [1, 2, 3, 0, 4, 5]),
        ("move:4,1", [0, 4, 1, 2, 3, 5]),
        ("drop:2", [0, 1, 3, 4, 5]),
        ("repeat:1,5", [0, 1, 2, 3, 4, 1]),
        ("replace:3,0", [0, 1, 2, 0, 4, 5]),
    ],
)
def test_named_orders(spec: str, expected: list[int]) -> None:
    assert named_order(spec, REFERENCE).tolist() == expected


def test_random_orders_are_seeded_permutations() -> None:
    assert named_order("random:7", REFERENCE) == random_order(REFERENCE, 7) != random_order(REFERENCE, 8)
    assert sorted(random_order(REFERENCE, 7).tolist()) == list(range(6))
    assert random_orders(REFERENCE, 3, 1) == random_orders(REFERENCE, 5, 1)[:3], "order i depends on (seed, i) alone"
    firsts = [o.tolist()[0] for o in random_orders(REFERENCE, 600, 3)]
    assert all(60 <= firsts.count(i) <= 145 for i in range(6)), "first items should be uniform: 100 ± 9 each"


@pytest.mark.parametrize(
    "spec",
    [
        *("", "backwards", "swap", "swap:1", "swap:1,2,3", "swap:a,b", "swap:1,9"),
        *("move:-1,2", "drop:9", "random:x", "reverse:2", "random:-1"),
    ],
)
def test_bad_names_say_what_was_expected(spec: str) -> None:
    with pytest.raises(OrderError, match="expected"):
        named_order(spec, REFERENCE)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ([0, 1, 2, 3, 4, 6], "expected items 0..5, got 6 at step 5"),
        ([0, 1, 2, 3, 4, -1], "got -1"),
        ([0, 1, 2, 3, 4], "expected 6 steps, got 5 .missing items: 5"),
        ([], "expected 6 steps, got 0"),
        ([0, 1, 2, 3, 4, 5, 0], "at most 6 steps"),
        ([0, 1, 2, 3, 4, None], "whole item numbers, got None at step 5"),
        ([0, 1, 2, 3, 4, "5"], "whole item numbers"),
        ([0, 1, 2, 3, 4, 5.0], "whole item numbers"),
        ([0, 1, 2, 3, 4, True], "whole item numbers"),
        ([0, 1, 2, 3, 4, [5, "a"]], "whole item numbers, got 'a' at step 5"),
    ],
)
def test_bad_sequences_are_refused_by_name(sequence: list[object], message: str) -> None:
    with pytest.raises(OrderError, match=message):
        Order.of(sequence).check(6, 6)  # type: ignore[arg-type]


def test_partial_orders_only_on_request() -> None:
    short = Order.of([0, 1, 2])
    assert short.check(6, 6, partial=True) is short
    assert Order.of([[0, 1], [], [2], [3], [4], [5]]).check(6, 6).steps[1] == ()


def test_digest_is_the_documented_hash() -> None:
    order = Order.of([[2, 0], [1]])
    words = struct.pack("<5q", 2, 2, 0, 1, 1)
    assert order.digest == hashlib.sha256(words).hexdigest()
    assert order.multiset_digest == hashlib.sha256(struct.pack("<3q", 0, 1, 2)).hexdigest()


@given(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5), st.randoms())
def test_digests_tell_orders_apart_and_multisets_alike(steps: list[list[int]], random: object) -> None:
    order = Order.of(steps)
    assert Order.of(order.tolist()) == order
    shuffled = list(steps)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = Order.of(shuffled)
    assert (other.digest == order.digest) == (other == order)
    assert other.multiset_digest == order.multiset_digest


def test_edits_return_new_orders() -> None:
    before = REFERENCE.tolist()
    REFERENCE.swap(0, 1), REFERENCE.drop(2), REFERENCE.move(0, 5)
    assert REFERENCE.tolist() == before
