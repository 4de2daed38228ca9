"""Orders by score: every family against its definition written out, ties, several items a step, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.errors import OrderError
from estimators.orders.families import FAMILIES, FamilyName, arranged, family_name, folding, saw, segment, stair, zigzag
from estimators.orders.order import Order

REFERENCE = Order.of(range(9))
SCORES = [3.0, 1.0, 8.0, 0.0, 5.0, 7.0, 2.0, 6.0, 4.0]
RANKED = [3, 1, 6, 0, 8, 4, 7, 5, 2]


def test_the_families_are_their_definitions() -> None:
    ranked = list(range(12))
    assert folding(ranked, 3) == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert zigzag(ranked, 3) == [0, 3, 6, 9, 10, 7, 4, 1, 2, 5, 8, 11]
    assert segment([5, 3, 8, 0, 7, 1, 2, 4], 25) == [3, 5, 0, 1, 7, 8, 2, 4], "sorted at the ends, in place within"
    # 12 places in 2 sections: a stretch of one place to either side of the cut at 6
    assert stair(ranked, 2) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    ranked = list(range(30))
    middle = [12, 15, 13, 16, 14, 17]
    assert stair(ranked, 2) == [*range(12), *middle, *range(18, 30)]
    assert saw(ranked, 2) == [*range(12), 12, 15, 16, 13, 14, 17, *range(18, 30)]
    # ten sections of three: the stretches of one and a half place, rounded, meet and do not overlap
    assert sorted(stair(ranked, 10)) == ranked


def test_orders_by_score() -> None:
    assert arranged(REFERENCE, SCORES).tolist() == RANKED
    assert arranged(REFERENCE, SCORES, descending=True).tolist() == RANKED[::-1]
    assert arranged(REFERENCE, SCORES, "folding", 3).tolist() == [3, 0, 7, 1, 8, 5, 6, 4, 2]
    assert arranged(REFERENCE, SCORES, "folding").tolist() == arranged(REFERENCE, SCORES, "folding", 4).tolist()
    assert arranged(REFERENCE, SCORES, "zigzag", 3, True).tolist() == [2, 4, 6, 1, 8, 5, 7, 0, 3]


def test_equal_scores_keep_the_reference_order_both_ways() -> None:
    scores = [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert arranged(REFERENCE, scores).tolist() == [1, 3, 5, 7, 0, 2, 4, 6, 8]
    assert arranged(REFERENCE, scores, descending=True).tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7]


def test_finer_items_fill_the_steps_in_turn_and_keep_their_weights() -> None:
    reference = Order.of([[0, 1], {"items": [2, 3, 4], "weights": [1, 0.5, 2]}, [0]])
    found = arranged(reference, [4.0, 1.0, 5.0, 0.0, 3.0])
    assert found.entries == (((1, 1.0), (3, 0.5)), ((0, 1.0), (0, 1.0), (4, 2.0)), ((2, 1.0),))


@pytest.mark.parametrize("count", [2, 3, 5, 7, 8])
def test_two_halves_of_an_odd_number_hold_every_item_once(count: int) -> None:
    found = arranged(Order.of(range(count)), [float(-i) for i in range(count)], "segment", 50).tolist()
    assert sorted(found) == list(range(count))
    assert found[: count // 2] == list(range(count - count // 2, count))


@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=40),
    st.sampled_from([*FAMILIES, "sort"]),
    st.booleans(),
    st.data(),
)
def test_every_family_rearranges_the_same_items(
    scores: list[float], family: str, descending: bool, data: st.DataObject
) -> None:
    reference, number = Order.of(range(len(scores))), None
    if family != "sort":
        rule = FAMILIES[family]
        number = data.draw(st.integers(rule.least, rule.most or len(scores)))
    found = arranged(reference, scores, family, number, descending)
    assert found.multiset_digest == reference.multiset_digest
    if family == "sort":
        sorted_scores = np.asarray(scores)[found.tolist()] * (-1 if descending else 1)
        assert (np.diff(sorted_scores) >= 0).all()
    if family == "zigzag" and number is not None:
        rank = {item: r for r, item in enumerate(arranged(reference, scores, "sort", None, descending).tolist())}
        ranks, turns = [rank[item] for item in found.tolist()], 0
        for place in range(number):
            count = len(range(place, len(scores), number))
            one, turns = ranks[turns : turns + count], turns + count
            assert one == sorted(one, reverse=bool(place % 2)), "passes rise and fall in turn"
            assert turns in (0, len(ranks)) or abs(ranks[turns] - ranks[turns - 1]) < number, "without a jump"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sort:loss", FamilyName("sort", "loss", None, False)),
        ("sort:loss:desc", FamilyName("sort", "loss", None, True)),
        ("sort:loss:asc", FamilyName("sort", "loss", None, False)),
        ("folding:gradient-norm:5", FamilyName("folding", "gradient-norm", 5, False)),
        ("zigzag:loss:5:desc", FamilyName("zigzag", "loss", 5, True)),
        ("segment:loss", FamilyName("segment", "loss", 25, False)),
        ("reverse", None),
        ("swap:1,2", None),
    ],
)
def test_names_are_read_and_written(spec: str, expected: FamilyName | None) -> None:
    assert family_name(spec) == expected
    if expected is not None:
        assert family_name(str(expected)) == expected


@pytest.mark.parametrize(
    "spec", ["sort", "sort:", "sort:desc", "sort:loss:3", "folding:loss:x", "saw:loss:3:4", "saw::3"]
)
def test_names_that_cannot_be_read_are_refused(spec: str) -> None:
    with pytest.raises(OrderError, match=r"expected `(sort|folding|saw):SCORE"):
        family_name(spec)


def test_what_cannot_be_arranged_is_refused() -> None:
    for family, number, said in [
        ("folding", 1, "folds from 2 to 9 for `folding`, got 1"),
        ("folding", 10, "got 10"),
        ("segment", 51, "percent at each end from 1 to 50"),
        ("spiral", None, "one of sort, folding"),
        ("sort", 3, "without a number"),
    ]:
        with pytest.raises(OrderError, match=said):
            arranged(REFERENCE, SCORES, family, number)
    for scores, said in [
        (SCORES[:8], r"shape \[8\]"),
        ([*SCORES[:8], np.nan], "NaN"),
        ([*SCORES[:8], None], "NaN"),
        ([SCORES], r"shape \[1, 9\]"),
    ]:
        with pytest.raises(OrderError, match=said):
            arranged(REFERENCE, scores)  # type: ignore[arg-type]
