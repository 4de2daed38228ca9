"""The paper's estimators against their formulas written out literally, in float64, order by order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import OrderBatch, replay
from estimators.rules import make_rule
from estimators.taylor import DirectionalDerivative, PaperTransition, SecantDerivative

T, N, K = 6, 6, 20
RATES = [0.1 * (1 - t / T) for t in range(T)]
REFERENCE = list(range(N))


def tables(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(T, N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gammas() -> Tensor:
    """Gamma(theta_t, B_i), the update terms of the paper; the displacements are -eta_t Gamma."""
    return tables(0)


def displacements() -> Tensor:
    return -torch.tensor(RATES, dtype=torch.float64)[:, None, None] * gammas()


def run(transition: PaperTransition, orders: list[list[int]]) -> Tensor:
    start = transition.start(len(orders), K, torch.zeros(1, dtype=torch.float64))
    return replay(transition, start, OrderBatch.pack([Order.of(o) for o in orders])).theta


def transition(derivative: object, **options: object) -> PaperTransition:
    u, packed = displacements(), OrderBatch.pack([Order.of(REFERENCE)])
    return PaperTransition(lambda t: u[t], packed.at, derivative, **options)  # type: ignore[arg-type]


ORDERS = [[5, 4, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5], [0, 0, 2, 2, 5, 5], [0, 1, 2, 3, 4, 5]]


def test_first_order_is_the_papers_recursion() -> None:
    """gamma_{t+1} = gamma_t - eta_t [Gamma + sum_j c_j Gamma'u_j], with c the least-squares weights of gamma_t - theta_t."""
    products = tables(1, 0.3)
    u = displacements()
    found = run(transition(DirectionalDerivative(lambda t: u[t], lambda t: products[t])), ORDERS)
    for row, order in enumerate(ORDERS):
        theta = gamma = torch.zeros(K, dtype=torch.float64)
        for t, item in enumerate(order):
            weights = torch.linalg.lstsq(u[t].T, (gamma - theta)[:, None]).solution[:, 0]
            gamma = gamma - RATES[t] * gammas()[t, item] + weights @ products[t]
            theta = theta - RATES[t] * gammas()[t, REFERENCE[t]]
        assert torch.allclose(found[row], gamma - theta, rtol=1e-12, atol=1e-12), order


def test_second_order_adds_half_the_squared_weights() -> None:
    products, second, u = tables(1, 0.01), tables(2, 0.001), displacements()
    found = run(transition(DirectionalDerivative(lambda t: u[t], lambda t: products[t], lambda t: second[t])), ORDERS)
    assert found.abs().max() < 10, "the comparison below is absolute"
    for row, order in enumerate(ORDERS):
        delta = torch.zeros(K, dtype=torch.float64)
        for t, item in enumerate(order):
            c = torch.linalg.pinv(u[t].T) @ delta
            delta = delta + u[t, item] - u[t, t] + c @ products[t] + 0.5 * (c * c) @ second[t]
        assert torch.allclose(found[row], delta, rtol=0, atol=1e-12), order


@pytest.mark.parametrize("order_of_derivative", [1, 2])
def test_secants_are_the_papers_difference_quotients(order_of_derivative: int) -> None:
    u, g = displacements(), gammas()
    moved = [u[t, REFERENCE[t]] for t in range(T)]
    derivative = SecantDerivative(lambda t: u[t], lambda t: moved[t], RATES.__getitem__, order_of_derivative, floor=0.0)  # type: ignore[arg-type]
    found = run(transition(derivative), ORDERS)

    def slope(t: int, item: int) -> Tensor:
        return (g[t, item] - g[t - 1, item]) / moved[t - 1]

    for row, order in enumerate(ORDERS):
        delta = torch.zeros(K, dtype=torch.float64)
        for t, item in enumerate(order):
            bracket = g[t, item] - g[t, REFERENCE[t]]
            if t > 0:
                bracket = bracket + slope(t, item) * delta
            if t > 1 and order_of_derivative == 2:
                bracket = bracket + 0.5 * (slope(t, item) - slope(t - 1, item)) / moved[t - 1] * delta**2
            delta = delta - RATES[t] * bracket
        # the slope's sign: displacements are -eta Gamma, so eta * slope(u/eta) = -eta * Gamma'
        assert torch.allclose(found[row], delta, rtol=1e-10, atol=1e-10), order


def test_the_floor_turns_wild_quotients_off() -> None:
    u = displacements()
    moved = torch.ones(K, dtype=torch.float64)
    moved[3] = 1e-9
    derivative = SecantDerivative(lambda t: u[t], lambda t: moved, RATES.__getitem__, floor=1e-3)
    delta = torch.ones(1, K, dtype=torch.float64)
    result = derivative(2, OrderBatch.pack([Order.of(ORDERS[0])]).at(2), delta)
    assert result[0, 3] == 0.0
    assert (result[0, :3] != 0).all()


def test_replayed_moments_are_momentum_with_frozen_gradients() -> None:
    """Without curvature, and with heavy-ball displacements, the scheme is the true momentum run on frozen gradients."""
    beta, gradient = 0.9, tables(3)[0]
    rates = RATES

    def endpoint(order: list[int]) -> Tensor:
        theta = m = torch.zeros(K, dtype=torch.float64)
        for t, item in enumerate(order):
            m = beta * m + gradient[item]
            theta = theta - rates[t] * m
        return theta

    m, u = torch.zeros(K, dtype=torch.float64), []
    for t in range(T):
        u.append(-rates[t] * (beta * m + gradient))
        m = beta * m + gradient[REFERENCE[t]]
    none = lambda step, picks, delta: torch.zeros_like(delta)  # noqa: E731
    packed = OrderBatch.pack([Order.of(REFERENCE)])
    rule = make_rule("momentum", kind="heavy_ball", beta=beta)
    replayed = PaperTransition(
        lambda t: u[t], packed.at, none, lambda t, e, swapped: rule.carry(rule.init(e[0]), rates[t], e, swapped)
    )
    for order, found in zip(ORDERS, run(replayed, ORDERS), strict=True):
        assert torch.allclose(found, endpoint(order) - endpoint(REFERENCE), rtol=0, atol=1e-12), order


def test_reference_moments_leave_no_trace_of_a_swap_in_later_steps() -> None:
    none = lambda step, picks, delta: torch.zeros_like(delta)  # noqa: E731
    u = displacements()
    found = run(transition(none), [[1, 0, 2, 3, 4, 5]])[0]
    assert torch.allclose(found, u[0, 1] + u[1, 0] - u[0, 0] - u[1, 1], rtol=0, atol=1e-14)
