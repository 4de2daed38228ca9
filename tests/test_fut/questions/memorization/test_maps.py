"""Cells, maps and what follows from them, on arrays: no model, no run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from estimators.errors import OrderError
from estimators.intervals import conformal_quantile
from estimators.orders.order import Order
from fut.estimation.results import Changes
from fut.orders.editing import place_of, with_item_at
from fut.questions.memorization.maps import (
    ABSENT,
    KINDS,
    Cells,
    Maps,
    ProbeGroups,
    by_kind,
    check_cells,
    distance_scales,
    draw_cells,
    effect_scales,
    estimate_maps,
    fit_cells,
    fit_maps,
    heatmap_error,
)
from fut.questions.memorization.render import memorization
from fut.questions.memorization.result import LossMaps, Memorization
from fut.report.sections.memorization import EQUAL, remembered

ITEMS, STEPS = 5, 5
REFERENCE = Order.of(range(STEPS))
GROUPS = ProbeGroups([[0, 2], [1, 3]], [[0.5, 0.1], [0.1, 0.5], [0.3, 0.3], [0.9, 0.2], [0.0, 0.1]])


def truth_of(order: Order, name: str) -> float:
    """A made-up read-out: how late its item stands, seen by itself and, less, by the group of its parity and by the probe."""
    at = {item: step for step, held in enumerate(order.canonical().steps) for item in held}
    if name.startswith("item:"):
        item = int(name.removeprefix("item:"))
        return 0.1 * (item + 1) * at.get(item, 20)
    share = {"probe": 0.01, "probe:0of2": 0.02, "probe:1of2": 0.03}[name]
    return share * sum(step * (item + 1) ** 2 for item, step in at.items())


def estimate(orders: Sequence[Order], names: Sequence[str]) -> Changes:
    values = np.array([[truth_of(o, n) - truth_of(REFERENCE, n) for n in names] for o in orders])
    return Changes(values, np.full_like(values, 4e-6))


def test_an_item_at_another_step_is_the_move_of_its_step() -> None:
    for source in range(STEPS):
        for target in range(STEPS):
            assert with_item_at(REFERENCE, source, target) == REFERENCE.move(source, target)


def test_with_several_items_a_step_the_others_close_up_by_one_place() -> None:
    batches = Order.of([[0, 1], [2, 3], [4, 5]])
    assert with_item_at(batches, 1, 2).tolist() == [[0, 2], [3, 4], [5, 1]]
    assert with_item_at(batches, 4, 0).tolist() == [[4, 0], [1, 2], [3, 5]]
    assert with_item_at(batches, 3, 1) == batches
    uneven = Order.of([[0, 1, 2], [3], [4, 5]])
    assert with_item_at(uneven, 2, 1).tolist() == [[0, 1, 3], [2], [4, 5]]
    weighted = Order.of([{"items": [0, 1], "weights": [1, 0.5]}, [2, 3]])
    assert with_item_at(weighted, 1, 1).entries[1] == ((3, 1.0), (1, 0.5))


def test_one_of_several_showings_is_moved() -> None:
    twice = Order.of([0, 1, 2, 0, 1, 2])
    assert with_item_at(twice, 0, 5).tolist() == [0, 1, 2, 1, 2, 0]
    assert with_item_at(twice, 0, 1, showing=0).tolist() == [1, 0, 2, 0, 1, 2]
    assert place_of(twice, 1) == (4, 0)
    with pytest.raises(OrderError, match="got item 1, which it shows 2 times"):
        place_of(twice, 1, 2)
    with pytest.raises(OrderError, match="got item 7, which it shows 0 times"):
        with_item_at(twice, 7, 0)
    with pytest.raises(OrderError, match=r"expected a step 0\.\.5 that holds items, got 6"):
        with_item_at(twice, 0, 6)


def test_every_cell_is_its_order(ticks: list[int]) -> None:
    maps = estimate_maps(estimate, REFERENCE, range(ITEMS), GROUPS, tick=lambda: ticks.append(1))
    assert len(ticks) == ITEMS
    assert maps.effects.shape == (4, ITEMS, STEPS)
    for i in range(ITEMS):
        names = [f"item:{i}", GROUPS.names[GROUPS.near[i]], GROUPS.names[GROUPS.far[i]], "probe"]
        for j in range(STEPS):
            moved = REFERENCE.move(i, j)
            expected = [truth_of(moved, n) - truth_of(REFERENCE, n) for n in names]
            assert maps.effects[:, i, j] == pytest.approx(expected)
        assert not maps.effects[:, i, i].any()
        without = REFERENCE.without([i])
        assert maps.absence[:, i] == pytest.approx([truth_of(without, n) - truth_of(REFERENCE, n) for n in names])
        groups = [truth_of(without, n) - truth_of(REFERENCE, n) for n in GROUPS.names]
        assert maps.group_absence[i] == pytest.approx(groups)
    assert maps.variances == pytest.approx(np.full((4, ITEMS, STEPS), 4e-6))


@pytest.fixture
def ticks() -> list[int]:
    return []


def test_near_and_far_are_the_most_and_least_alike_the_first_of_equals() -> None:
    assert GROUPS.near == [0, 1, 0, 0, 1]
    assert GROUPS.far == [1, 0, 0, 1, 0]


def test_cells_are_drawn_apart_and_never_the_own_step() -> None:
    places = list(range(6))
    first = draw_cells(places, 6, 12, 4, [], [0, 1])
    second = draw_cells(places, 6, 18, 4, [first], [0, 2])
    assert len({*first.moved, *second.moved}) == 30, "all but the own steps"
    assert all(places[row] != step for row, step in (*first.moved, *second.moved))
    assert sorted(first.absent + second.absent) == list(range(6)), "fewer rows where fewer are left"
    assert draw_cells(places, 6, 12, 4, [], [0, 1]) == first
    assert draw_cells(places, 6, 12, 4, [], [1, 1]) != first
    assert draw_cells(places, 6, 0, 0, [], [0]) == Cells([], [])
    orders = Cells([(1, 4)], [2]).orders(REFERENCE, range(5), -1)
    assert orders == [REFERENCE.move(1, 4), REFERENCE.without([2])]


def test_a_fit_through_the_origin_is_least_squares_on_scaled_cells() -> None:
    draw, scales = np.random.default_rng(0), np.sqrt(np.arange(1, 41.0))
    guess = draw.normal(size=40) * scales
    true = 1.2 * guess + 0.1 * scales * draw.normal(size=40)
    fit = fit_cells(true, guess, scales)
    assert fit is not None
    expected = np.linalg.lstsq((guess / scales)[:, None], true / scales)[0][0]
    assert fit.slope == pytest.approx(expected)
    assert fit.sd == pytest.approx(np.sqrt((((true - expected * guess) / scales) ** 2).sum() / 39))
    assert fit.correct([2.0]) == pytest.approx(2 * expected)
    assert fit.half_widths([0.0, 3.0], [0.0, 4.0])[0] == 0, "what changes nothing has no error"
    few = fit_cells(true[:5], guess[:5], scales[:5])
    assert few is not None
    assert few.slope == 1.0
    assert fit_cells(true[:2], guess[:2], scales[:2]) is None
    assert fit_cells([np.nan] * 4, [1.0] * 4, [1.0] * 4) is None
    lost = fit_cells([np.nan, *true[:5]], [1.0, *guess[:5]], [1.0, *scales[:5]])
    assert lost == few, "a cell whose training diverged is left out"


def test_half_widths_are_those_of_weighted_least_squares() -> None:
    """Student's quantile times the standard error of a new cell, the fitted slope's own uncertainty in it."""
    draw, scales = np.random.default_rng(4), np.sqrt([1.0, 2, 3, 5, 8, 13, 2, 7])
    guess = draw.normal(size=8) * scales
    true = 1.2 * guess + 0.3 * scales * draw.normal(size=8)
    fit = fit_cells(true, guess, scales)
    assert fit is not None
    new, scale = np.array([0.0, 5.0, -20.0]), np.array([1.0, 2.0, 3.0])
    information = np.sum(guess**2 / scales**2)
    expected = student.ppf(0.95, 7) * fit.sd * np.sqrt(scale**2 + new**2 / information)
    assert fit.half_widths(new, scale) == pytest.approx(expected, rel=1e-12)
    assert expected[2] > 1.2 * student.ppf(0.95, 7) * fit.sd * scale[2], "far from the fitted cells it counts"
    few = fit_cells(true[:5], guess[:5], scales[:5])
    assert few is not None
    assert few.half_widths(new, scale) == pytest.approx(student.ppf(0.95, 5) * few.sd * scale, rel=1e-12), (
        "a slope that is not fitted has no uncertainty"
    )


def test_intervals_cover_nine_in_ten_new_cells() -> None:
    draw, inside = np.random.default_rng(1), []
    for _ in range(400):
        scales = np.sqrt(draw.integers(1, 30, size=9).astype(float))
        guess = draw.normal(size=9) * scales
        true = 0.9 * guess + 0.2 * scales * draw.normal(size=9)
        fit = fit_cells(true[:8], guess[:8], scales[:8])
        assert fit is not None
        half = fit.half_widths(guess[8:], scales[8:])[0]
        inside.append(abs(true[8] - fit.correct(guess[8:])[0]) <= half)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.045)


def test_intervals_of_absence_cover_nine_in_ten_where_errors_are_heavy_and_grow_with_the_effect() -> None:
    draw, inside, alike = np.random.default_rng(2), [], []
    for _ in range(600):
        guess = np.exp(draw.normal(size=32))
        true = guess + 0.2 * guess * draw.standard_t(2.5, size=32)
        scales = effect_scales(guess)
        fit = fit_cells(true[:8], guess[:8], scales[:8])
        assert fit is not None
        inside.append((np.abs(true[8:] - fit.correct(guess[8:])) <= fit.half_widths(guess[8:], scales[8:])).mean())
        old = fit_cells(true[:8], guess[:8], np.ones(8))
        assert old is not None
        half = replace(old, reach=0.0).half_widths(guess[8:], np.ones(24))
        alike.append((np.abs(true[8:] - old.correct(guess[8:])) <= half).mean())
    assert np.mean(alike) < 0.865, "normal errors of one size are not enough"
    assert np.mean(inside) > 0.885


def test_the_conformal_quantile_holds_the_next_of_exchangeable_errors() -> None:
    assert conformal_quantile([3.0, -1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0]) == 9.0, "rank 0.9 (9 + 1)"
    assert conformal_quantile(np.arange(1.0, 20.0)) == pytest.approx(18.0)
    assert conformal_quantile([1.0, 2.0, 3.0]) > 3.0, "the largest of three holds three in four alone"
    draw = np.random.default_rng(3)
    for count in (9, 14, 25):
        errors = draw.standard_cauchy(size=(3000, count + 1))
        held = [abs(row[-1]) <= conformal_quantile(row[:-1]) for row in errors]
        assert 0.885 < np.mean(held) < 0.935, "between ranks it is on the wide side"


def test_errors_of_absence_are_held_to_grow_with_the_effect() -> None:
    assert effect_scales([0.0, 2.0]) == pytest.approx(np.sqrt([2.0, 6.0]))
    assert effect_scales([0.0, 0.0]).tolist() == [1.0, 1.0]
    assert np.isfinite(effect_scales([np.nan, 2.0])).all()


def test_errors_are_held_to_grow_with_the_steps_that_differ() -> None:
    assert distance_scales([0, 2], 3) == pytest.approx(np.sqrt([[0, 1, 2], [2, 1, 0]]))


def test_the_error_of_a_map_is_relative_to_its_spread() -> None:
    assert heatmap_error([1.0, 3.0], [1.0, 3.0]) == 0
    assert heatmap_error([1.0, 3.0], [2.0, 2.0]) == 1
    assert heatmap_error([2.0, 2.0], [1.0, 3.0]) is None
    found = check_cells([[0, 1], [2, 0], [1, 1]], [1.0, -2.0, 3.0], [1.1, -2.0, 2.5], [0.2, 0.1, 0.1])
    assert found.measures["coverage"] == pytest.approx(2 / 3)
    assert found.measures["skill"] == pytest.approx(1 - 0.2 / 2)
    assert found.measures["heatmap_error"] == pytest.approx(np.sqrt(0.26) / np.linalg.norm([1 / 3, -8 / 3, 7 / 3]))


def made(noise: float = 0.0, cells: Cells | None = None) -> tuple[Maps, Memorization]:
    maps = estimate_maps(estimate, REFERENCE, range(ITEMS), GROUPS)
    cells = cells or Cells([], [])
    truth = true_changes(cells) * (1 + noise)
    fitted = fit_maps(maps, range(ITEMS), cells, truth)
    compared = Cells([(0, 3), (1, 0), (4, 2)], [0, 1, 2])

    def listed(values: np.ndarray | None) -> dict[str, Any] | None:
        return None if values is None else by_kind(values)

    references = {kind: [1.0] * ITEMS for kind in KINDS}
    return maps, Memorization(
        "adjoint",
        STEPS,
        list(range(ITEMS)),
        list(range(ITEMS)),
        references,
        LossMaps(
            by_kind(fitted.effects),
            by_kind(fitted.absence),
            maps.group_absence.tolist(),
            listed(fitted.half),
            listed(fitted.absence_half),
        ),
        GROUPS,
        "note",
        fitted.fits or None,
        fitted.check(range(ITEMS), compared, true_changes(compared)),
    )


def true_changes(cells: Cells) -> np.ndarray:
    orders = cells.orders(REFERENCE, range(ITEMS), -1)
    rows = zip(cells.rows, orders, strict=True)
    names = [[f"item:{r}", GROUPS.names[GROUPS.near[r]], GROUPS.names[GROUPS.far[r]], "probe"] for r, _ in rows]
    return np.array(
        [[truth_of(o, n) - truth_of(REFERENCE, n) for n in of] for o, of in zip(orders, names, strict=True)]
    ).reshape(-1, len(KINDS))


def test_maps_are_corrected_by_what_was_retrained() -> None:
    cells = Cells([(0, 2), (1, 4), (2, 0), (3, 1), (4, 0), (2, 4)], [1, 2, 3])
    maps, found = made(0.5, cells)
    assert np.array(found.maps.effects["own"]) == pytest.approx(1.5 * maps.effects[0])
    assert found.fits is not None
    assert found.fits["own"].slope == pytest.approx(1.5)
    assert found.fits[ABSENT + "own"].slope == 1.0, "three orders fit no slope"
    assert found.maps.half_widths is not None
    assert np.diag(found.maps.half_widths["near"]).tolist() == [0.0] * ITEMS
    assert found.checked["own"].cells == [[0, 3], [1, 0], [4, 2]]
    assert found.checked[ABSENT + "probe"].cells == [[0], [1], [2]]
    plain = made()[1]
    assert plain.maps.half_widths is None
    assert plain.checked["own"].measures["heatmap_error"] == pytest.approx(0)
    assert plain.checked["own"].measures["coverage"] is None


def test_too_few_orders_without_an_item_leave_absence_without_intervals() -> None:
    found = made(0.0, Cells([(0, 2), (1, 4), (2, 0)], [1]))[1]
    assert found.maps.half_widths is not None
    assert found.maps.absence_half_widths is None


def test_curves_follow_from_the_maps() -> None:
    found = made()[1]
    advantage = np.array([[0.1 * (i + 1) * (20 - j) for j in range(STEPS)] for i in range(ITEMS)])
    assert found.advantage == pytest.approx(advantage, abs=1e-9)
    assert found.forgetting["steps_ago"] == [0, 1, 2, 3, 4]
    assert found.forgetting["mean"] == pytest.approx(-advantage.mean(0)[::-1])
    assert found.forgetting["low"] == pytest.approx(np.quantile(-advantage[:, ::-1], 0.1, axis=0))
    kept = found.retention
    assert kept["best_step"] == 0
    assert kept["share"] == pytest.approx([1, 0.95, 0.9, 0.85, 0.8])
    forgotten = replace(found.maps, absence={**found.maps.absence, "own": [-100.0] * ITEMS})
    worse = replace(found, maps=forgotten)
    assert worse.retention["share"] is None, "nothing is remembered where absence is better"


def test_curves_are_shown_at_equal_learning_rates_too() -> None:
    found = made()[1]
    assert found.retention["at_equal_rate"] is None, "where rates are not known"
    rates = np.array([1.0, 0.8, 0.5, 0.2, 0.0])
    learned = np.array([[0.1 * (i + 1) * rate for rate in rates] for i in range(ITEMS)])
    maps = replace(
        found.maps,
        effects={**found.maps.effects, "own": (-learned).tolist()},
        absence=dict.fromkeys(KINDS, [0.0] * ITEMS),
    )
    falling = replace(found, maps=maps, rates=rates.tolist())
    assert falling.retention["share"] == pytest.approx(rates), "memory seems to fall with the rate"
    equal = falling.retention["at_equal_rate"]
    assert equal["share"][:4] == pytest.approx([1.0] * 4), "it is the rate that falls"
    assert np.isnan(equal["share"][4]), "nothing is known of a step of rate 0"
    assert falling.forgetting["mean_at_equal_rate"][1:] == pytest.approx([-0.3 * 0.5] * 4)
    assert Memorization.from_dict(falling.as_dict()) == falling
    said = memorization(falling)
    assert "at the learning rates as they were" in said
    assert "at equal learning rates (each step's gain over its rate): most at step" in said
    assert "step 0 100%, the last step unknown (its rate is 0)" in said
    assert replace(falling, rates=[0.5] * STEPS).retention["at_equal_rate"] is None, "nothing to say of a constant rate"
    shown = remembered(falling, 0)
    assert "At equal rates" in shown.kept
    assert [EQUAL in title for title, _ in shown.curves] == [False, False, True, False]


def test_an_effect_that_is_not_finite_is_never_the_best() -> None:
    found = made()[1]
    effects = np.array(found.maps.effects["own"])
    effects[2, 0] = np.nan
    broken = replace(found, maps=replace(found.maps, effects={**found.maps.effects, "own": effects.tolist()}))
    assert [row["best_step"] for row in broken.rows()] == [0, 0, 1, 0, 0]
    assert broken.retention["best_step"] == 1


def test_generalization_is_over_pairs_of_item_and_group() -> None:
    found = made()[1].generalization
    assert found["absence"]["probe"] == pytest.approx(np.mean([-0.01 * i * (i + 1) ** 2 for i in range(ITEMS)]))
    assert -1 <= found["spearman"] <= 1
    assert found["bands"]["similarity"] == sorted(found["bands"]["similarity"])
    assert len(found["bands"]["absence"]) == 5


def test_an_answer_comes_back_from_its_dictionary_and_shows_itself() -> None:
    found = made(0.1, Cells([(0, 2), (1, 4), (2, 0), (3, 1)], [1, 2, 3]))[1]
    again = Memorization.from_dict(found.as_dict())
    assert again == found
    assert found.as_dict()["question"] == "memorization"
    table = found.rows()
    assert [row["item"] for row in table] == list(range(ITEMS))
    assert table[3]["best_step"] == 0
    assert table[3]["low"] <= table[3]["absence"] <= table[3]["high"]
    assert "<td>3</td>" in found._repr_html_()
