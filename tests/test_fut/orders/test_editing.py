"""Edits and queries as they are written: read, composed, and refused."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest

from estimators.errors import OrderError
from estimators.orders.order import Order
from fut.orders.editing import CALIBRATED, EDITS, Edit, edited, edits_between, only_edit, random_edits
from fut.questions.whatif.query import Query, QueryError, as_query, read_query

ORDER = Order.of(range(6))


def backwards(order: Order, key: str) -> Order:
    """Stands for sorting: the items, highest number first."""
    assert key == "number"
    return Order.of(sorted((i for step in order.steps for i in step), reverse=True))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("swap:1,4", [0, 4, 2, 3, 1, 5]),
        (["move", 0, 3], [1, 2, 3, 0, 4, 5]),
        (("drop", 2), [0, 1, 3, 4, 5]),
        ("repeat:1,5", [0, 1, 2, 3, 4, 1]),
        ("replace:3, 0", [0, 1, 2, 0, 4, 5]),
        ("sort:number", [5, 4, 3, 2, 1, 0]),
        (["sort", "number"], [5, 4, 3, 2, 1, 0]),
    ],
)
def test_an_edit_is_the_orders_own(written: Any, expected: list[int]) -> None:
    edit = Edit.of(written)
    assert edit.apply(ORDER, backwards).tolist() == expected
    assert Edit.of(str(edit)) == Edit.of(edit) == edit


def test_items_left_out_keep_their_steps() -> None:
    assert Edit.of("without:1,3").apply(ORDER, backwards) == ORDER.without([1, 3])


def test_edits_compose_in_their_order() -> None:
    one, other = Edit.of("swap:0,1"), Edit.of("move:0,5")
    assert edited(ORDER, [one, other], backwards) == ORDER.swap(0, 1).move(0, 5)
    assert edited(ORDER, [other, one], backwards) == ORDER.move(0, 5).swap(0, 1)
    assert edited(ORDER, [Edit.of("sort:number"), one], backwards).tolist() == [4, 5, 3, 2, 1, 0]
    assert edited(ORDER, [], backwards) == ORDER


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("flip:1", "expected one of swap, move, drop"),
        ("swap:1", "expected `swap:N,N`"),
        ("swap:1,2,3", "expected `swap:N,N`"),
        ("swap:a,b", "whole numbers"),
        ("swap:-1,2", "whole numbers"),
        (["swap", 1.0, 2], "whole numbers"),
        (["swap", True, 2], "whole numbers"),
        (["swap", [1], 2], "whole numbers"),
        ("without:", "expected `without:N,N,…`"),
        (["without"], "expected `without:N,N,…`"),
        ("sort:", "a key to sort by"),
        (["sort", 3], "a key to sort by"),
        (["sort", "loss", "desc"], "a key to sort by"),
        ([], "expected `swap:3,7`"),
        (7, "expected `swap:3,7`"),
        ([3, 7], "expected `swap:3,7`"),
        ([["swap"], 7], "expected `swap:3,7`"),
    ],
)
def test_edits_that_cannot_be_meant(written: Any, said: str) -> None:
    with pytest.raises(OrderError, match=said):
        Edit.of(written)


def test_every_edit_is_refused_by_the_order_it_does_not_fit() -> None:
    for name, count in EDITS.items():
        if name != "sort":
            with pytest.raises(OrderError, match="got 9"):
                Edit.of([name, *[9] * (count or 1)]).apply(ORDER, backwards)


def test_queries_are_names_lists_and_objects() -> None:
    assert read_query(" random:7\n") == Query("random:7")
    assert read_query('"reverse"') == Query("reverse")
    assert read_query("3,1,2") == Query("3,1,2")
    assert read_query("[3, [1, 2]]") == Query([3, [1, 2]])
    full = {"id": "a", "order": "reverse", "edits": [["swap", 3, 7], "sort:loss"], "readouts": ["probe", "item:3"]}
    expected = Query("reverse", (Edit("swap", (3, 7)), Edit("sort", ("loss",))), ("probe", "item:3"), "a")
    assert read_query(json.dumps(full)) == as_query(full) == as_query(expected) == expected
    assert read_query("{}") == Query()
    assert as_query(ORDER) == Query(ORDER)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1, 2", "a JSON list or a JSON object"),
        ('{"order": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "a JSON list or a JSON object"),
        ('{"oder": "reverse"}', "expected id, order, edits, readouts, got oder"),
        ('{"order": 3}', "`order` as a name or a list"),
        ('{"edits": "swap:1,2"}', "`edits` as a list"),
        ('{"edits": [["flip", 1]]}', "expected one of swap"),
        ('{"readouts": "probe"}', "`readouts` as a list"),
        ('{"readouts": []}', "`readouts` as a list"),
        ('{"readouts": [1]}', "`readouts` as a list"),
    ],
)
def test_lines_that_cannot_be_meant(line: str, said: str) -> None:
    with pytest.raises(OrderError, match=said):
        read_query(line)


def test_a_bad_object_keeps_its_id() -> None:
    with pytest.raises(QueryError) as caught:
        read_query('{"id": 17, "edits": [["flip", 1]]}')
    assert caught.value.id == 17


@pytest.mark.parametrize("name", CALIBRATED)
def test_random_edits_are_different_seeded_and_change_something(name: str) -> None:
    found = random_edits(ORDER, name, 5, 3)
    assert found == random_edits(ORDER, name, 5, 3) != random_edits(ORDER, name, 5, 4)
    orders = {edit.apply(ORDER, backwards) for edit in found}
    assert len(set(found)) == 5
    assert all(len(order) == 6 for order in orders)
    assert len(orders) > 2


def test_random_swaps_are_uniform_over_pairs() -> None:
    drawn = [random_edits(Order.of(range(3)), "swap", 1, seed)[0].arguments for seed in range(300)]
    assert {pair: 70 <= drawn.count(pair) <= 130 for pair in [(0, 1), (0, 2), (1, 2)]} == dict.fromkeys(
        [(0, 1), (0, 2), (1, 2)], True
    ), "100 ± 8 each"


def test_random_edits_that_there_are_not() -> None:
    with pytest.raises(OrderError, match="expected 4 different edits `swap`, got 3"):
        random_edits(Order.of(range(3)), "swap", 4, 0)
    with pytest.raises(OrderError, match="expected one of swap, move"):
        random_edits(ORDER, "drop", 1, 0)


@pytest.mark.parametrize(
    ("start", "edits", "kind"),
    [
        ("identity", ["swap:0,1"], "swap"),
        ("identity", ["without:3"], "without"),
        ("move:0,1", [], "move"),
        ("identity", [], None),
        ("identity", ["without:3,4"], None),
        ("identity", ["swap:0,1", "swap:0,2"], None),
        ("identity", ["drop:1"], None),
        ("identity", ["sort:number"], None),
        ("swap:0,1", ["swap:0,2"], None),
        ("swap:x", [], None),
        ("random:3", [], None),
        ([0, 1], ["swap:0,1"], None),
        (ORDER, [], None),
    ],
)
def test_one_edit_of_the_reference_is_known_as_such(start: Any, edits: list[str], kind: str | None) -> None:
    assert only_edit(start, [Edit.of(edit) for edit in edits]) == kind


@pytest.mark.parametrize("steps", [(0, 1, 2, 3, 4), (0, 0, 1, 0, 0), (2, 2, 2, 2, 2)])
def test_one_edit_is_seen_in_what_steps_consume(steps: tuple[int, ...]) -> None:
    reference = Order.of(steps)
    made: dict[str, set[Any]] = {"swap": set(), "move": set()}
    for a, b in permutations(range(5), 2):
        made["swap"].add(reference.swap(a, b))
        made["move"].add(reference.move(a, b))
    for found in map(Order.of, set(permutations(steps))):
        expected = [kind for kind in ("swap", "move") if found in made[kind] and found != reference]
        assert edits_between(reference, found) == expected
    assert edits_between(reference, Order.of(steps[:4])) == []


def test_a_weighted_step_moves_with_its_weights() -> None:
    reference = Order.of([{"items": [0, 1], "weights": [1, 0.5]}, [2, 3], [4, 5]])
    assert edits_between(reference, reference.move(0, 2)) == ["move"]
    assert edits_between(reference, Order.of([[2, 3], [4, 5], [0, 1]])) == []
