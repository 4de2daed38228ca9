"""Simulators of loss curves after Simfluence (Guu et al. 2023, arXiv 2303.08114), fitted to curves of retrained orders.

The loss after a step is taken as linear in the loss before it, with a factor and an offset of the item consumed:
L_t = alpha(i_t) L_{t-1} + beta(i_t). Here factor and offset of an item are shrunk by a ridge towards those that all items share,
not towards zero, as a few runs see each item a few times. An order's curve is simulated from the loss before the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Items = NDArray[np.int64]
RIDGES = tuple(10.0**power for power in range(-6, 5))
"""From which one is chosen, in units of the squared standardised features."""


@dataclass(frozen=True)
class Kind:
    """Which effects an item has of its own.

    Args:
        multiplicative: a factor on the loss before the step.
        additive: an offset.
        by_rate: all changes are proportional to the step's learning rate; an addition of ours.
    """

    multiplicative: bool = True
    additive: bool = True
    by_rate: bool = False


@dataclass(frozen=True)
class Simulator:
    """A fitted process: L_t = L_{t-1} + r_t (slope(i) (L_{t-1} - centre) + offset(i)).

    Args:
        slope: of every item [n], without a unit.
        offset: of every item [n], in nats/token.
        centre: a loss [nats/token].
        scales: r_t of every step [T]; ones, or learning rates over their largest.
    """

    slope: Floats
    offset: Floats
    centre: float
    scales: Floats

    @property
    def alpha(self) -> Floats:
        """Factors of items [n] where r_t is 1."""
        return 1 + self.slope

    @property
    def beta(self) -> Floats:
        """Offsets of items [n] where r_t is 1, in nats/token."""
        return self.offset - self.slope * self.centre

    def curve(self, start: float, order: Items) -> Floats:
        """Losses [T + 1] of an order [T] from the loss before the window on, in nats/token."""
        losses = [start]
        for item, scale in zip(order, self.scales, strict=True):
            last = losses[-1]
            losses.append(last + scale * (self.slope[item] * (last - self.centre) + self.offset[item]))
        return np.array(losses)


def fit(curves: Floats, orders: Items, kind: Kind, ridge: float, rates: Floats) -> Simulator:
    """Least squares with a ridge on what an item has beyond what all share.

    Args:
        curves: losses of m runs [m, T + 1], before the window and after each step, in nats/token.
        orders: items of the runs [m, T], from 0; one that is nowhere among them has what all share.
        kind: of the process.
        ridge: its weight, on features of unit standard deviation.
        rates: learning rate of every step [T].

    Returns:
        The process.
    """
    before, change = curves[:, :-1].ravel(), np.diff(curves, axis=1).ravel()
    scales = rates / rates.max() if kind.by_rate else np.ones(len(rates))
    weight, count = np.tile(scales, len(curves)), int(orders.max()) + 1
    centre = float(before.mean()) if kind.additive else 0.0  # else the offset that all share would differ by item
    spread = float(np.sqrt(np.mean((before - centre) ** 2))) or 1.0
    level = weight * (before - centre) / spread
    chosen = np.eye(count)[orders.ravel()]
    own = [part[:, None] * chosen for part, kept in ((level, kind.multiplicative), (weight, kind.additive)) if kept]
    features = np.hstack([level[:, None], weight[:, None], *own])
    penalty = np.sqrt(ridge) * np.eye(features.shape[1])[2:]
    target = np.concatenate([change, np.zeros(len(penalty))])
    found = np.linalg.lstsq(np.vstack([features, penalty]), target, rcond=None)[0]
    parts = iter(np.split(found[2:], max(len(own), 1)))
    slope = found[0] + (next(parts) if kind.multiplicative else np.zeros(count))
    offset = found[1] + (next(parts) if kind.additive else np.zeros(count))
    return Simulator(slope / spread, offset, centre, scales)


def left_out_error(curves: Floats, orders: Items, kind: Kind, ridge: float, rates: Floats) -> float:
    """Mean square of simulated minus true losses over the steps of runs that were each left out of the fit [nats²/token²]."""
    errors = []
    for left in range(len(curves)):
        kept = np.arange(len(curves)) != left
        made = fit(curves[kept], orders[kept], kind, ridge, rates)
        simulated = made.curve(curves[left, 0], orders[left])
        errors.append(float(np.mean((simulated - curves[left]) ** 2)))
    return float(np.mean(errors))


def chosen(
    curves: Floats, orders: Items, kind: Kind, rates: Floats, ridges: Sequence[float] = RIDGES
) -> tuple[Simulator, float]:
    """The process fitted to all runs with the ridge of the least error on runs left out, and that ridge."""
    best = min(ridges, key=lambda ridge: left_out_error(curves, orders, kind, ridge, rates))
    return fit(curves, orders, kind, best, rates), best
