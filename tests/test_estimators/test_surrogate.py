"""A learner of orders from retrained orders alone: its kernel against sums over places, its values against the textbook's."""

from __future__ import annotations

import numpy as np
import pytest

from estimators.orders.order import Order, random_orders
from estimators.surrogate import FLAT, LENGTHS, SIGNALS, learn, placement_kernels

STEPS = 10
REFERENCE = Order.of(range(STEPS))
ORDERS = random_orders(REFERENCE, 40, 0)
RATES = np.linspace(1.0, 0.1, STEPS)
SIMILARITY = np.asarray(np.corrcoef(np.random.default_rng(0).normal(size=(STEPS, 3))), dtype=np.float64)


def test_a_kernel_is_the_sum_over_pairs_of_places() -> None:
    """Up to what all orders have in common and a factor: distances k(P, P) + k(Q, Q) - 2 k(P, Q) in proportion."""
    spent = (np.cumsum(RATES) - RATES / 2) / RATES.sum()
    near = np.exp(-np.abs(spent[:, None] - spent) / LENGTHS[1])

    def sums(a: Order, b: Order) -> float:
        return sum(near[s, t] * SIMILARITY[i, j] for s, (i,) in enumerate(a.steps) for t, (j,) in enumerate(b.steps))

    few = ORDERS[:5]
    slow = np.array([[sums(a, a) + sums(b, b) - 2 * sums(a, b) for b in few] for a in few])
    kernel = placement_kernels(few, RATES.tolist(), {"like": SIMILARITY})[f"like, {LENGTHS[1]:g}"]
    fast = np.diag(kernel)[:, None] + np.diag(kernel) - 2 * kernel
    apart = slow > 1e-9
    assert fast[apart] / slow[apart] == pytest.approx((fast[apart] / slow[apart])[0], rel=1e-9)
    assert np.trace(kernel) == pytest.approx(len(few))


def test_steps_of_several_items_and_of_weight_are_means() -> None:
    pairs = [
        Order.of([[0, 1], [2, 3]]),
        Order.of([{"items": [0, 1], "weights": [2.0, 2.0]}, [3, 2]]),
        Order.of([[0, 2], [1, 3]]),
    ]
    kernel = placement_kernels(pairs, [1.0, 1.0], {"item": np.eye(4)})["item, 0.02"]
    assert kernel[0] == pytest.approx(kernel[1])
    assert kernel[2, 2] != pytest.approx(kernel[0, 2])


def test_it_is_kernel_ridge_regression_and_takes_the_least_left_out_error() -> None:
    kernels = placement_kernels(ORDERS, RATES.tolist(), {"item": np.eye(STEPS), "like": SIMILARITY})
    worth = np.random.default_rng(1).normal(size=(STEPS, STEPS))
    truths = np.array([sum(worth[s, i] for s, (i,) in enumerate(order.steps)) for order in ORDERS])
    known = list(range(0, 40, 2))
    found = learn(kernels, truths[known].tolist(), known)

    def left_out(kernel: np.ndarray, signal: float) -> tuple[np.ndarray, np.ndarray]:
        """Values of all orders, and errors of the known ones each fitted without it, by solving anew each time."""
        whole, scale = signal * kernel + FLAT, truths[known].std()
        noise = np.eye(len(known))
        values = whole[:, known] @ np.linalg.solve(whole[np.ix_(known, known)] + noise, truths[known])
        errors = []
        for place in known:
            rest = [other for other in known if other != place]
            dual = np.linalg.solve(whole[np.ix_(rest, rest)] + np.eye(len(rest)), truths[rest])
            errors.append(truths[place] - whole[place, rest] @ dual)
        assert scale > 0
        return values, np.array(errors)

    values, errors = left_out(kernels[found.kernel], found.signal)
    assert found.values == pytest.approx(values, rel=1e-5, abs=1e-5)
    least = (errors**2).mean()
    for name, kernel in kernels.items():
        for signal in SIGNALS[::4]:
            assert (left_out(kernel, signal)[1] ** 2).mean() >= least * (1 - 1e-6), (name, signal)


def test_what_the_mean_function_knows_is_not_learnt_again() -> None:
    kernels = placement_kernels(ORDERS, RATES.tolist(), {"item": np.eye(STEPS)})
    mean = np.random.default_rng(2).normal(size=40)
    found = learn(kernels, (mean[:20] + 3.0).tolist(), range(20), mean)
    assert found.values == pytest.approx(mean + 3.0, abs=1e-3)


def test_smooth_effects_of_likeness_are_learnt_from_few_orders() -> None:
    """What depends on the mean step of a group of like items is ranked from half of the orders."""
    groups = np.equal.outer(np.arange(STEPS) % 2, np.arange(STEPS) % 2).astype(float)
    truths = np.array([np.mean([s for s, (i,) in enumerate(order.steps) if i % 2]) for order in ORDERS])
    kernels = placement_kernels(ORDERS, RATES.tolist(), {"item": np.eye(STEPS), "group": groups})
    found = learn(kernels, truths[:20].tolist(), range(20))
    assert np.corrcoef(found.values[20:], truths[20:])[0, 1] > 0.95
    assert found.kernel.startswith("group")
