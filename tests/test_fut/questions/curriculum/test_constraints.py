"""Constraints on orders: contradictions against all permutations, and every way of making an arrangement within them."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from estimators.errors import OrderError
from estimators.orders.order import Order
from fut.questions.curriculum.arrangements import Arrangements
from fut.questions.curriculum.assignment import FEW, assign, total
from fut.questions.curriculum.constraints import Constraints

ITEMS = 6


def met(order: list[int], c: Constraints) -> bool:
    """Whether an order keeps to the constraints, as they are defined."""
    place = {item: p for p, item in enumerate(order)}
    return (
        tuple(order[: len(c.prefix)]) == c.prefix
        and tuple(order[len(order) - len(c.suffix) :]) == c.suffix
        and all({*range(min(p), max(p) + 1)} == {*p} for p in ([place[i] for i in block] for block in c.blocks))
        and all(place[a] < place[b] for a, b in c.precedence)
    )


@st.composite
def any_constraints(draw: st.DrawFn) -> Constraints:
    """Constraints on ITEMS items, many of them contradictory."""
    item = st.integers(0, ITEMS - 1)
    ends = st.lists(item, max_size=2, unique=True)
    shuffled = draw(st.permutations(range(ITEMS)))
    cuts = draw(st.sampled_from([(), ((0, 2),), ((0, 3),), ((0, 2), (2, 4)), ((0, 3), (3, 6)), ((1, 5),)]))
    pairs = st.lists(st.tuples(item, item).filter(lambda p: p[0] != p[1]), max_size=4)
    return Constraints.of(draw(ends), draw(ends), [shuffled[a:b] for a, b in cuts], draw(pairs))


def refusal(constraints: Constraints) -> str:
    """Why they are refused; nothing where they are not."""
    try:
        constraints.check(range(ITEMS))
    except OrderError as error:
        return str(error)
    return ""


@given(any_constraints())
@settings(max_examples=200, deadline=None)
def test_what_is_refused_is_what_no_order_meets(constraints: Constraints) -> None:
    possible, why = any(met(list(order), constraints) for order in permutations(range(ITEMS))), refusal(constraints)
    if "or none, got" not in why:  # a block half in the prefix might just follow on it, and is refused all the same
        assert possible == (not why), why


@given(any_constraints(), st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_every_way_of_arranging_keeps_to_the_constraints(constraints: Constraints, seed: int) -> None:
    try:
        space = Arrangements(Order.of(range(ITEMS)), constraints)
    except OrderError:
        assume(False)
    draw = np.random.default_rng(seed)
    costs = draw.normal(size=(ITEMS, ITEMS))
    found = [space.first, space.random(draw), assign(space, costs), *space.neighbours(space.random(draw), draw)]
    for arrangement in found:
        assert sorted(arrangement.tolist()) == list(range(ITEMS))
        assert met(arrangement.tolist(), constraints), arrangement
        assert space.repair(arrangement).tolist() == arrangement.tolist(), "what keeps to them is left as it is"
    anything = np.stack([draw.permutation(ITEMS) for _ in range(40)] + found)
    assert space.keeps(anything).tolist() == [met(row.tolist(), constraints) for row in anything]


@given(any_constraints(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_an_assignment_is_the_least_sum_where_it_says_so(constraints: Constraints, seed: int) -> None:
    try:
        space = Arrangements(Order.of(range(ITEMS)), constraints)
    except OrderError:
        assume(False)
    costs = np.random.default_rng(seed).normal(size=(ITEMS, ITEMS))
    rows = np.array(list(permutations(range(ITEMS))))
    least = total(costs, rows[space.keeps(rows)]).min()
    found = float(total(costs, assign(space, costs)))
    inner = space.groups[1:-1]
    one_size = not space.pairs and len({len(units) for units in inner}) <= 1
    if one_size or (len(inner) <= FEW and not space.inner_pairs):
        assert found == pytest.approx(least)
    else:
        near = space.neighbours(assign(space, costs), np.random.default_rng(0))
        assert found >= least - 1e-12
        assert not len(near) or found <= total(costs, near).min() + 1e-12, "at least no move improves it"


def test_neighbours_are_all_swaps_and_insertions() -> None:
    space = Arrangements(Order.of(range(5)))
    rows = space.neighbours(np.arange(5), np.random.default_rng(0))
    found = {tuple(row) for row in rows.tolist()}
    order = Order.of(range(5))
    swaps = {tuple(order.swap(a, b).tolist()) for a in range(5) for b in range(a + 1, 5)}
    moves = {tuple(order.move(a, b).tolist()) for a in range(5) for b in range(5) if a != b}
    assert found == swaps | moves
    assert len(rows) == len(found), "each once"
    assert len(space.neighbours(np.arange(5), np.random.default_rng(0), limit=7)) == 7


def test_moves_within_a_step_are_no_moves() -> None:
    space = Arrangements(Order.of([[0, 1], [2, 3]]))
    orders = {space.order(row) for row in space.neighbours(space.first, np.random.default_rng(0))}
    assert Order.of([[0, 1], [2, 3]]) not in orders
    assert Order.of([[0, 2], [1, 3]]) in orders
    assert space.order(np.array([3, 0, 2, 1])) == Order.of([[0, 3], [1, 2]])


def test_units_of_an_item_that_occurs_twice_are_arranged() -> None:
    space = Arrangements(Order.of([0, 1, 0, 1, 2]), Constraints.of(prefix=[2]))
    assert space.order(space.first) == Order.of([2, 0, 1, 0, 1])
    table = np.array([[0, 0, 9], [0, 5, 9], [0, 5, 9], [5, 0, 9], [5, 0, 9.0]])
    assert space.order(assign(space, space.costs(table))) == Order.of([2, 0, 0, 1, 1])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown item": ({"prefix": [7]}, "got 7, which it holds 0 times"),
    "prefix repeats": ({"prefix": [1, 1]}, "each item once in prefix, got 1 twice"),
    "prefix and suffix": ({"prefix": [1], "suffix": [1]}, "share no item, got 1 in both"),
    "blocks share": ({"blocks": [[1, 2], [2, 3]]}, "blocks that share no item, got 2"),
    "block of one": ({"blocks": [[1]]}, r"two items at least, got \[1\]"),
    "block straddles the prefix": (
        {"prefix": [0, 1], "blocks": [[1, 2]]},
        r"the prefix or none, got 1 of block \[1, 2\]",
    ),
    "block apart in the prefix": ({"prefix": [1, 0, 2], "blocks": [[1, 2]]}, "to stay together, got its items apart"),
    "circle": ({"precedence": [[0, 1], [1, 2], [2, 0]]}, "a circle, .* before .* before .* before"),
    "itself": ({"precedence": [[1, 1]]}, "a circle, 1 before 1"),
    "circle of blocks": (
        {"blocks": [[0, 1], [2, 3]], "precedence": [[0, 2], [3, 1]]},
        "a circle, .* before .*, each with its block",
    ),
    "before the prefix": ({"prefix": [1], "precedence": [[2, 1]]}, "expected 2 before 1, got 1 in the prefix"),
    "after the suffix": ({"suffix": [1], "precedence": [[1, 2]]}, "expected 1 before 2, got 1 in the suffix"),
    "against the prefix": ({"prefix": [1, 2], "precedence": [[2, 1]]}, r"expected 2 before 1, got \[1, 2\]"),
    "no pair": ({"precedence": [[1, 2, 3]]}, "two items, the earlier first"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_named(case: str) -> None:
    given_, message = REFUSED[case]
    with pytest.raises(OrderError, match=message):
        Constraints.of(**given_).check(range(5))


def test_constraints_name_items_that_occur_once() -> None:
    with pytest.raises(OrderError, match="got 0, which it holds 2 times"):
        Arrangements(Order.of([0, 1, 0]), Constraints.of(prefix=[0]))


def test_a_start_without_weights_or_empty_steps_is_wanted() -> None:
    with pytest.raises(OrderError, match="empty steps"):
        Arrangements(Order.of([[0], []]))
    with pytest.raises(OrderError, match="weights"):
        Arrangements(Order.of([0, 1]).without([1]))
