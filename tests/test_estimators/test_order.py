"""Orders: edits, names, digests, and what is refused."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.errors import OrderError
from estimators.orders.order import Order, named_order, random_order, random_orders, random_steps, shuffled_halves
from estimators.replay import OrderBatch

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


WEIGHTED = Order.of([{"items": [0, 1], "weights": [1, 0.5]}, [2, 3], {"items": [4, 5], "weights": [0, 2.0]}])


def test_weights_are_written_and_read_back() -> None:
    written = [{"items": [0, 1], "weights": [1.0, 0.5]}, [2, 3], {"items": [4, 5], "weights": [0.0, 2.0]}]
    assert WEIGHTED.tolist() == written
    assert Order.of(json.loads(json.dumps(written))) == WEIGHTED
    assert WEIGHTED.weights == ((1.0, 0.5), (1.0, 1.0), (0.0, 2.0))


def test_weights_of_one_are_no_weights() -> None:
    plain, ones = Order.of([[0, 1], [2]]), Order.of([{"items": [0, 1], "weights": [1, 1.0]}, {"items": [2]}])
    assert ones == plain
    assert ones.weights is None
    assert (ones.digest, ones.multiset_digest) == (plain.digest, plain.multiset_digest)
    assert Order(((0, 1),), ((1, 1),)) == Order(((0, 1),))


def test_digests_cover_weights() -> None:
    plain, other = Order(WEIGHTED.steps), Order.of([*WEIGHTED.tolist()[:2], {"items": [4, 5], "weights": [0, 3]}])
    assert len({o.digest for o in (WEIGHTED, plain, other)}) == 3
    assert len({o.multiset_digest for o in (WEIGHTED, plain, other)}) == 3
    assert WEIGHTED.swap(0, 2).multiset_digest == WEIGHTED.multiset_digest
    words = struct.pack("<9q", 2, 0, 1, 2, 2, 3, 2, 4, 5) + b"weights" + struct.pack("<6d", 1, 0.5, 1, 1, 0, 2)
    assert WEIGHTED.digest == hashlib.sha256(words).hexdigest()
    assert Order.of([{"items": [0], "weights": [-0.0]}]).digest == Order.of([{"items": [0], "weights": [0]}]).digest


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        (WEIGHTED.swap(0, 2), [((4, 0.0), (5, 2.0)), ((2, 1.0), (3, 1.0)), ((0, 1.0), (1, 0.5))]),
        (WEIGHTED.move(2, 0), [((4, 0.0), (5, 2.0)), ((0, 1.0), (1, 0.5)), ((2, 1.0), (3, 1.0))]),
        (WEIGHTED.drop(0), [((1, 0.5),), ((2, 1.0), (3, 1.0)), ((4, 0.0), (5, 2.0))]),
        (WEIGHTED.repeat(1, 2), [((0, 1.0), (1, 0.5)), ((2, 1.0), (3, 1.0)), ((1, 1.0),)]),
        (WEIGHTED.replace(5, 3), [((0, 1.0), (1, 0.5)), ((2, 1.0), (3, 1.0)), ((4, 0.0), (3, 2.0))]),
        (WEIGHTED.without([1, 2]), [((0, 1.0), (1, 0.0)), ((2, 0.0), (3, 1.0)), ((4, 0.0), (5, 2.0))]),
        (named_order("reverse", WEIGHTED), [((4, 0.0), (5, 2.0)), ((2, 1.0), (3, 1.0)), ((0, 1.0), (1, 0.5))]),
    ],
    ids=["swap", "move", "drop", "repeat", "replace", "without", "reverse"],
)
def test_edits_carry_weights_along(edited: Order, expected: list[Any]) -> None:
    assert list(edited.entries) == expected


def test_the_canonical_form_is_what_is_trained() -> None:
    same: list[list[Any]] = [
        [[1, 0], [2]],
        [{"items": [0, 5, 1], "weights": [2, 0, 2]}, {"items": [2], "weights": [0.5]}],
    ]
    assert [Order.of(o).canonical() for o in same] == [Order.of([[0, 1], [2]])] * 2
    assert Order.of([{"items": [3], "weights": [0]}]).canonical() == Order.of([[]])
    assert Order.of([[3, 4], [1]]).canonical([0, 1, 2, 3, 0]) == Order.of([[0, 3], [1]]), "equal items are one"
    assert WEIGHTED.canonical() == Order.of([{"items": [0, 1], "weights": [1, 0.5]}, [2, 3], [5]])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"items": [0, 1], "weights": [1]}, "one weight per item, got 1 for 2 items at step 1"),
        ({"items": [0, 1], "weights": [1, -1]}, "finite weights >= 0, got -1 at step 1"),
        ({"items": [0, 1], "weights": [1, float("nan")]}, "finite weights >= 0, got nan"),
        ({"items": [0, 1], "weights": [1, float("inf")]}, "finite weights >= 0, got inf"),
        ({"items": [0], "weights": [10**400]}, "finite weights >= 0"),
        ({"items": [0], "weights": [True]}, "finite weights >= 0, got True"),
        ({"items": [0], "weights": "1"}, "finite weights >= 0, got '1'"),
        ({"items": [0], "weight": [1]}, r"expected `items` and `weights`, got \['items', 'weight'\] at step 1"),
        ({"weights": [1]}, "expected `items` and `weights`"),
        ({"items": {"a": 1}}, "whole item numbers"),
    ],
)
def test_bad_weights_are_refused_by_name(step: dict[str, Any], message: str) -> None:
    with pytest.raises(OrderError, match=message):
        Order.of([[0], step]).check(6, 2)
    with pytest.raises(OrderError, match="expected weights for 1 steps, got 2"):
        Order(((0,),), ((1.0,), (0.5,)))


REBATCHED = Order.of([[0, 1, 2], [3, 4, 5], [6, 7, 8]])


def test_random_orders_of_several_items_a_step_make_new_batches() -> None:
    found = named_order("random:3", REBATCHED)
    assert sorted(i for step in found.steps for i in step) == list(range(9))
    assert [len(step) for step in found.steps] == [3, 3, 3]
    assert all(step == tuple(sorted(step)) for step in found.steps), "items of a step have no order"
    assert not {frozenset(s) for s in found.steps} & {frozenset(s) for s in REBATCHED.steps}
    together = [o for o in random_orders(REBATCHED, 800, 5) if any({0, 1} <= set(s) for s in o.steps)]
    assert 150 <= len(together) <= 250, "two items should meet in a step with probability 2/8"
    weighted = REBATCHED.without([4])
    assert sorted(p for s in random_order(weighted, 1).entries for p in s) == sorted(
        p for s in weighted.entries for p in s
    )


def test_random_steps_permutes_whole_steps() -> None:
    found = named_order("random-steps:3", REBATCHED)
    assert sorted(found.steps) == sorted(REBATCHED.steps)
    assert found == random_steps(REBATCHED, 3) != REBATCHED
    assert random_steps(REFERENCE, 7) == random_order(REFERENCE, 7), "with one item a step they are the same"


def test_random_orders_of_one_item_a_step_are_what_they_always_were() -> None:
    expected = [int(i) for i in np.random.default_rng([7]).permutation(6)]
    assert named_order("random:7", REFERENCE).tolist() == expected


def test_without_takes_any_number_of_items() -> None:
    assert named_order("without:3,5", REBATCHED) == REBATCHED.without([5, 3])
    assert named_order("without:1", REFERENCE).canonical() == Order.of([[0], [], [2], [3], [4], [5]])
    with pytest.raises(OrderError, match="an item that the order holds, got 9"):
        named_order("without:3,9", REBATCHED)
    with pytest.raises(OrderError, match="expected `swap:N,N` with whole numbers from 0, got `swap:3`"):
        named_order("swap:3", REFERENCE)
    for spec in ("without", "without:", "without:a", "without:-1"):
        with pytest.raises(OrderError, match="expected `without:N,N,…` with whole numbers"):
            named_order(spec, REBATCHED)


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6), st.booleans())
def test_plain_orders_take_a_short_way_to_the_same_form(steps: list[list[int]], named: bool) -> None:
    twins = [0, 1, 0, 3, 1, 5] if named else None
    plain, weighted = Order.of(steps), Order.of([{"items": s, "weights": [2.0] * len(s)} for s in steps])
    assert plain.canonical(twins) == weighted.canonical(twins)
    assert plain.canonical(twins).digest == weighted.canonical(twins).digest
    assert Order.of([tuple(s) for s in steps]) == Order.of_entries([[(i, 1.0) for i in s] for s in steps]) == plain


def test_plain_orders_are_packed_as_others_are() -> None:
    plain = [Order.of([2, 0, 1]), Order.of([1, 1, 0])]
    alone, among = OrderBatch.pack(plain), OrderBatch.pack([*plain, Order.of([[0, 1], [], [2]])])
    assert alone.items.tolist() == among.items[:2, :, :1].tolist()
    assert alone.weights.tolist() == among.weights[:2, :, :1].tolist()
    assert (alone.weights.dtype, alone.items.dtype) == (among.weights.dtype, among.items.dtype)


@given(st.integers(4, 24), st.integers(0, 2**32), st.integers(1, 3))
def test_halves_part_in_different_steps_and_both_has_either_change(steps: int, seed: int, per_step: int) -> None:
    reference = Order.of([[per_step * s + k for k in range(per_step)] for s in range(steps)])
    first, second, both = shuffled_halves(reference, seed)
    for step, of in enumerate(zip(reference.steps, first.steps, second.steps, both.steps, strict=True)):
        kept, one, other, together = of
        assert kept in (one, other), "a step is changed by one half alone"
        assert together == (other if one == kept else one), step
    assert {order.multiset_digest for order in (first, second, both)} == {reference.multiset_digest}


def test_halves_stay_in_their_epoch_and_need_four_steps() -> None:
    twice = Order.of([*range(8), *range(8)])
    for order in shuffled_halves(twice, 3):
        assert sorted(order.steps[:8]) == sorted(twice.steps[:8])
    assert shuffled_halves(twice, 3) != shuffled_halves(twice, 4)
    with pytest.raises(OrderError, match="expected 4 steps or more in an epoch, got 3"):
        shuffled_halves(Order.of(range(3)), 0)
