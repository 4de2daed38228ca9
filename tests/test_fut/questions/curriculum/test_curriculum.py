"""Searchers on functions of orders whose best order is known by trying them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from matplotlib.figure import Figure

from estimators.errors import OrderError
from estimators.orders.order import Order
from fut.questions.curriculum.arrangements import Arrangements
from fut.questions.curriculum.assignment import assign, total
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.evaluator import BATCH, Budget, Evaluator
from fut.questions.curriculum.genetic import order_crossover
from fut.questions.curriculum.local_search import LocalSearch, Surrogate
from fut.questions.curriculum.result import (
    Curriculum,
    OrderEstimate,
    RetrainedOrders,
    SearchCost,
    SearchCourse,
)
from fut.questions.curriculum.search import SearchResult, arrangement_of, comparable, distinct, search

ITEMS = 7
REFERENCE = Order.of(range(ITEMS))


class Landscape:
    """A function of orders: a sum over positions, and squares of a few others, which bend it. Keeps what it was asked."""

    def __init__(self, items: int, seed: int = 0, bend: float = 0.5) -> None:
        draw = np.random.default_rng(seed)
        self.table = draw.normal(size=(items, items))
        self.functionals = bend * draw.normal(size=(3, items, items))
        self.asked: list[Order] = []
        self.batches: list[int] = []

    def values(self, rows: np.ndarray) -> np.ndarray:
        steps = np.arange(rows.shape[-1])
        sums = self.functionals[:, steps, rows].sum(axis=-1)
        return self.table[steps, rows].sum(axis=-1) + (sums**2).sum(axis=0)

    def __call__(self, orders: Sequence[Order]) -> list[float]:
        self.asked += orders
        self.batches.append(len(orders))
        return self.values(np.array([o.tolist() for o in orders])).tolist()

    def best(self, constraints: Constraints | None = None) -> float:
        rows = np.array(list(permutations(range(self.table.shape[0]))))
        space = Arrangements(Order.of(range(self.table.shape[0])), constraints or Constraints())
        return float(self.values(rows[space.keeps(rows)]).min())


@pytest.mark.parametrize("seed", range(4))
def test_local_search_finds_the_best_of_all_orders(seed: int) -> None:
    land = Landscape(ITEMS, seed)
    found = search(land, REFERENCE, land.table, budget=Budget(700), seed=seed)
    assert found.value == pytest.approx(land.best())
    assert land([found.best])[0] == found.value
    assert found.evaluations <= 700 < 5040


def test_it_does_without_a_table_and_from_any_start() -> None:
    land = Landscape(ITEMS, 1)
    for start in (REFERENCE, Order.of([6, 5, 4, 3, 2, 1, 0])):
        found = search(land, start, budget=Budget(700), from_start=True)
        assert found.value == pytest.approx(land.best())
        assert found.history[0] == (1, pytest.approx(land([start])[0]))


CONSTRAINTS = {
    "ends": Constraints.of(prefix=[3], suffix=[0, 1]),
    "blocks": Constraints.of(blocks=[[0, 1, 2], [4, 5]]),
    "precedence": Constraints.of(precedence=[[0, 1], [1, 2], [6, 0]]),
    "all": Constraints.of(prefix=[5], blocks=[[0, 1, 2]], precedence=[[2, 0], [3, 1]]),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("method", ["local", "genetic", "assignment"])
def test_every_method_keeps_to_constraints(name: str, method: str) -> None:
    land, constraints = Landscape(ITEMS, 2), CONSTRAINTS[name]
    found = search(land, REFERENCE, land.table, method=method, budget=Budget(600), constraints=constraints)
    rows = np.array([o.tolist() for o in land.asked])
    assert Arrangements(REFERENCE, constraints).keeps(rows).all(), "nothing else is even asked about"
    if method != "assignment":
        assert found.value == pytest.approx(land.best(constraints))


def test_the_genetic_algorithm_improves_on_random_orders() -> None:
    land = Landscape(12, 3)
    found = search(land, Order.of(range(12)), method="genetic", budget=Budget(3000), seed=5)
    draw = np.random.default_rng(0)
    random = land.values(np.array([draw.permutation(12) for _ in range(3000)]))
    assert found.value < random.min()


def test_local_search_needs_fewer_estimates_than_the_genetic_algorithm() -> None:
    land = Landscape(16, 4, bend=0.3)
    start = Order.of(range(16))
    local = search(land, start, land.table, budget=Budget(300))
    genetic = search(land, start, land.table, method="genetic", budget=Budget(3000))
    assert local.value <= genetic.value


@pytest.mark.parametrize("method", ["local", "genetic"])
def test_evaluations_are_counted_and_none_is_asked_twice(method: str) -> None:
    land = Landscape(ITEMS, 5)
    found = search(land, REFERENCE, land.table, method=method, budget=Budget(233), seed=1)
    assert found.evaluations == len(land.asked) == len(set(land.asked)) == 233
    assert max(land.batches) <= BATCH
    counts, values = zip(*found.history, strict=True)
    assert list(counts) == sorted(set(counts))
    assert list(values) == sorted(values, reverse=True)
    assert values[-1] == found.value == min(land.values(np.array([o.tolist() for o in land.asked])))


@pytest.mark.parametrize("method", ["local", "genetic"])
def test_evaluations_and_seed_decide_the_result(method: str) -> None:
    def run(seed: int) -> SearchResult:
        land = Landscape(10, 6)
        return search(land, Order.of(range(10)), land.table, method=method, budget=Budget(200), seed=seed)

    first, second, other = run(1), run(1), run(2)
    assert (first.best, first.value, first.history) == (second.best, second.value, second.history)
    assert first.history != other.history


@pytest.mark.parametrize("method", ["local", "genetic"])
def test_a_search_ends_when_every_order_has_been_asked(method: str) -> None:
    land = Landscape(4, 7)
    found = search(land, Order.of(range(4)), land.table, method=method, budget=Budget(10_000))
    assert found.evaluations <= 24
    assert found.value == pytest.approx(land.best())


def test_the_clock_ends_a_search_within_a_batch() -> None:
    now = [0.0]
    land = Landscape(12, 8)

    def estimate(orders: Sequence[Order]) -> list[float]:
        now[0] += 0.25 * len(orders)
        return land(orders)

    found = search(estimate, Order.of(range(12)), land.table, budget=Budget(seconds=10.0, clock=lambda: now[0]))
    assert found.seconds == now[0] == 10.0
    assert found.evaluations == 40
    assert land.batches[0] == 1, "how long one takes is measured first"


def test_maximizing_is_minimizing_the_negative() -> None:
    land = Landscape(ITEMS, 9)
    low = search(land, REFERENCE, land.table, budget=Budget(150))
    high = search(lambda orders: [-v for v in land(orders)], REFERENCE, -land.table, budget=Budget(150), maximize=True)
    assert high.best == low.best
    assert high.value == -low.value
    assert high.history == [(count, -value) for count, value in low.history]


def test_finalists_are_good_and_differ() -> None:
    land = Landscape(ITEMS, 10)
    found = search(land, REFERENCE, land.table, budget=Budget(300), finalists=4)
    orders = [order for order, _ in found.finalists]
    assert orders[0] == found.best
    assert len(orders) == 4
    assert [v for _, v in found.finalists] == land(orders)
    for i, order in enumerate(orders):
        assert all(sum(a != b for a, b in zip(order.steps, o.steps, strict=True)) >= ITEMS / 4 for o in orders[:i])
    assert distinct([Order.of([0, 1]), Order.of([0, 1]), Order.of([1, 0])], 5) == [Order.of([0, 1]), Order.of([1, 0])]


def test_estimates_that_are_not_finite_are_never_chosen() -> None:
    land = Landscape(ITEMS, 11)

    def diverging(orders: Sequence[Order]) -> list[float]:
        return [float("nan") if o.steps[0] == (0,) else v for o, v in zip(orders, land(orders), strict=True)]

    found = search(diverging, REFERENCE, land.table, budget=Budget(200), finalists=3)
    assert np.isfinite(found.value)
    assert all(order.steps[0] != (0,) for order, _ in found.finalists)
    with pytest.raises(ValueError, match="expected a finite estimate within the budget"):
        search(lambda orders: [float("nan")] * len(orders), REFERENCE, budget=Budget(50))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a method among local, genetic, assignment, got `annealing`"):
        search(Landscape(3), Order.of(range(3)), method="annealing", budget=Budget(5))


@pytest.mark.parametrize("table", [np.zeros((3, 4)), np.zeros((4, 3)), np.full((4, 4), np.nan), np.zeros(4)])
def test_a_table_of_another_shape_is_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a finite table of 4 steps and 4 items at least, got one of shape"):
        search(Landscape(4), Order.of(range(4)), table, budget=Budget(5))


def test_an_assignment_needs_one_estimate_whatever_the_start() -> None:
    land = Landscape(ITEMS, 13)
    rows = np.array(list(permutations(range(ITEMS))))
    least = rows[total(land.table, rows).argmin()]
    for start in (REFERENCE, Order.of([6, 5, 4, 3, 2, 1, 0])):
        found = search(land, start, land.table, method="assignment", budget=Budget(100), from_start=True)
        assert (found.best.tolist(), found.evaluations) == (least.tolist(), 1)


def test_the_surrogate_learns_a_sum_over_positions() -> None:
    """Smooth over steps, as tables of positions are: what is not in the prior table is learnt from 150 evaluations."""
    draw, items = np.random.default_rng(0), 16
    steps = np.linspace(0, 1, items)[:, None]
    true = draw.normal(size=items) * steps + draw.normal(size=items) * np.sin(2 * steps)
    prior = 0.3 * true + draw.normal(size=items) * steps**2
    space = Arrangements(Order.of(range(items)))
    rows = [draw.permutation(items) for _ in range(150)]
    learned = Surrogate(space, prior).costs(rows, [5.0 + v for v in total(true, np.array(rows))])
    judged = np.array([draw.permutation(items) for _ in range(200)])
    before, after = (np.corrcoef(total(c, judged), total(true, judged))[0, 1] for c in (prior, learned))
    assert before < 0.9
    assert after > 0.99
    best = total(true, assign(space, true))
    assert total(true, assign(space, learned)) - best < 0.05 * (total(true, assign(space, prior)) - best)


def test_the_surrogate_with_several_items_per_step() -> None:
    space = Arrangements(Order.of([[0, 1], [2, 3], [4, 5]]))
    table = np.random.default_rng(1).normal(size=(3, 6))
    draw = np.random.default_rng(2)
    rows = [draw.permutation(6) for _ in range(60)]
    costs = space.costs(table)
    assert float(total(costs, rows[0])) == pytest.approx(
        sum(np.mean([table[s, i] for i in step]) for s, step in enumerate(space.order(rows[0]).steps))
    )
    learned = Surrogate(space, np.zeros_like(costs)).costs(rows, total(costs, np.array(rows)).tolist())
    judged = np.array([draw.permutation(6) for _ in range(100)])
    assert np.corrcoef(total(learned, judged), total(costs, judged))[0, 1] > 0.98


def test_the_surrogate_takes_an_item_s_units_for_equals() -> None:
    space, draw = Arrangements(Order.of([0, 1, 2, 0, 1, 2])), np.random.default_rng(3)
    rows = [draw.permutation(6) for _ in range(20)]
    renamed = [np.where(row >= 3, row - 3, row + 3) for row in rows]  # the other unit of every item
    values = draw.normal(size=20).tolist()
    first, second = (Surrogate(space, np.zeros((6, 6))).costs(r, values) for r in (rows, renamed))
    assert [space.order(row) for row in rows] == [space.order(row) for row in renamed]
    assert np.allclose(first, second)


def test_a_wrong_table_costs_estimates_but_not_the_result() -> None:
    land = Landscape(ITEMS, 12)
    found = search(land, REFERENCE, -land.table, budget=Budget(900))
    assert found.value == pytest.approx(land.best())


def test_order_crossover_keeps_a_stretch_and_the_other_parent_s_sequence() -> None:
    draw = np.random.default_rng(0)
    kept = set()
    for _ in range(200):
        first, second = draw.permutation(8), draw.permutation(8)
        child = order_crossover(first, second, draw)
        assert sorted(child.tolist()) == list(range(8))
        same = child == first
        kept.add(int(same.sum()))
    assert len(kept) > 4
    first, second = np.arange(8), np.array([3, 7, 5, 1, 6, 0, 2, 4])
    child = order_crossover(first, second, _Fixed([2, 5]))  # type: ignore[arg-type]
    # the stretch 2 3 4 stays; from place 5 on, around the end, the second parent's 0 7 5 1 6 as it has them from place 5 on
    assert child.tolist() == [1, 6, 2, 3, 4, 0, 7, 5]


class _Fixed:
    """A generator that draws what it is told."""

    def __init__(self, drawn: list[int]) -> None:
        self.drawn = drawn

    def choice(self, *arguments: object, **named: object) -> np.ndarray:
        return np.array(self.drawn)


def test_other_orders_are_compared_within_the_constraints() -> None:
    space = Arrangements(Order.of([0, 1, 2, 2]), Constraints.of(prefix=[1]))
    named = {
        "reverse": Order.of([2, 2, 1, 0]),
        "other items": Order.of([0, 1, 2, 0]),
        "other steps": Order.of([[0, 1], [2, 2]]),
    }
    assert comparable(space, named) == {"reverse": Order.of([1, 2, 2, 0])}
    order = Order.of([2, 0, 2, 1])
    assert space.order(arrangement_of(space, order)) == order


@pytest.fixture
def answer() -> Curriculum:
    return Curriculum(
        order=[1, 0],
        estimate=OrderEstimate(2.0, (1.9, 2.1), "n", 2.02, "replay-exact", "r"),
        truths=RetrainedOrders(2.05, 2.2, [2.3, 2.1, 2.2], {"reverse": 2.15, "identity": 2.2}, []),
        search=SearchCourse([(1, 2.5), (7, 2.0)], 9, 1.0, "local", 0),
        cost=SearchCost(2.0, 12.0, 40, 10.0),
        estimator="adjoint",
    )


def test_the_answer_survives_json(answer: Curriculum) -> None:
    found = answer.as_dict()
    assert found["question"] == "search"
    assert found["best_random_loss"] == 2.1
    assert found["mean_random_loss"] == pytest.approx(2.2)
    assert found["random_sd"] == pytest.approx(0.1)
    assert (found["best_heuristic"], found["best_heuristic_loss"]) == ("reverse", 2.15)
    assert found["precompute_seconds"] == 20.0
    assert found["gain"]["mean_random"] == {
        "value": pytest.approx(0.15),
        "perplexity": pytest.approx(np.exp(2.2) - np.exp(2.05)),
    }
    again = Curriculum.from_dict(found)
    assert again.as_dict() == found
    worse = Curriculum.from_dict(found | {"maximize": True, "unit": ""})
    assert worse.truths.best_random_loss == 2.3
    assert worse.gains["reference"] == {"value": pytest.approx(-0.15), "perplexity": None}
    bare = Curriculum.from_dict(found | {"retrained_loss": None, "random_losses": [], "heuristics": {}})
    assert bare.as_dict()["gain"]["best_random"] is None
    assert bare.gains["reference"] == {
        "value": pytest.approx(0.2),
        "perplexity": pytest.approx(np.exp(2.2) - np.exp(2)),
    }


def test_the_answer_shows_itself(answer: Curriculum) -> None:
    rows = {row["order"]: row for row in answer.rows()}
    assert rows["found, retrained"]["loss"] == 2.05
    assert rows["found, estimated"] | {"loss": 0} == {"order": "found, estimated", "loss": 0, "low": 1.9, "high": 2.1}
    assert rows["best of 3 random orders"]["gain"] == pytest.approx(0.05)
    assert rows["reverse, the best of 2 named orders"]["gain_perplexity"] == pytest.approx(np.exp(2.15) - np.exp(2.05))
    page = answer._repr_html_()
    assert all(text in page for text in ("found, by replay-exact", "loss [nats/token]", "order: [1, 0]"))
    axes = Figure().subplots()
    answer.draw(axes)
    drawn = {line.get_label(): np.asarray(line.get_xdata()).tolist() for line in axes.get_lines()}
    assert drawn["random orders"] == [2.3, 2.1, 2.2]
    assert drawn["found, retrained"] == [2.05]
    assert drawn["reference"] == [2.2, 2.2]
    bare = Curriculum.from_dict(
        answer.as_dict() | {"retrained_loss": None, "random_losses": [], "heuristics": {}, "interval": None}
    )
    assert [row["order"] for row in bare.rows()] == ["found, estimated", "found, by replay-exact", "reference order"]
    bare.draw(Figure().subplots())


def test_a_local_search_with_nothing_to_move_ends() -> None:
    space = Arrangements(Order.of([0]))
    evaluator = Evaluator(space, lambda orders: [1.0] * len(orders), Budget(50))
    LocalSearch(evaluator, np.zeros((1, 1)), np.random.default_rng(0)).run([space.first])
    assert evaluator.evaluations == 1
    with pytest.raises(OrderError):
        search(lambda orders: [0.0], Order.of([0]), budget=Budget(5), constraints=Constraints.of(prefix=[1]))
