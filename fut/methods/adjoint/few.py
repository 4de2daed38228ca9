"""Few of the coordinates that an expansion keeps, with which orders are replayed where it keeps all of them.

A replay of every coordinate costs an order as many steps of the rule. What the coordinates contribute beyond the table of
positions, r_d, is small, and a sample of them with probabilities p_d (Horvitz and Thompson 1952) tells its sum with the variance

    sum_d r_d² (1 - p_d) / p_d.

That is measured before an order is asked: on simulated orders, replayed on all coordinates. `adjoint.replay_error` bounds its
root as a share of what the orders' linear parts differ by, and the fewest coordinates within it are drawn. Probabilities go with
the root mean square of r_d, for which the variance is least. They are judged on orders that had no part in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Anchored, inclusion_probabilities, poisson_sample
from estimators.orders.order import Order, random_orders
from estimators.position_table import chunked_values
from fut.methods.adjoint.control_variate import all_weights
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.sampling import bounded_tables, simulated_contributions
from fut.methods.adjoint.spec import MOST, ORDERS, ROWS, AdjointSpec
from fut.methods.expansion.spec import ITEM_BLOCK

DRAWN, PICKED = 1 << 19, 4
"""Added to the expansion's seed for these orders, and for the draw."""
FEWEST = 1 << 9
"""The fewest coordinates that are tried; each number is sqrt(2) times the one before."""


class Measured(NamedTuple):
    """What simulated orders differ by from the reference order.

    square: mean squares of coordinates' contributions beyond their control variates, of the orders that probabilities are of,
    and of those that judge them, by read-out [2, r, D]. spread: standard deviation of the linear part over all of them [r].
    """

    square: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Few:
    """The coordinates that were drawn, and what is replayed on them.

    Args:
        expansion: that they are of, which keeps all coordinates.
    """

    expansion: Expansion

    @property
    def spec(self) -> AdjointSpec:
        """What the expansion is made of."""
        return self.expansion.spec

    @cached_property
    def indices(self) -> Tensor:
        """The coordinates, ascending [k]."""
        return self.tensor("indices")

    @cached_property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""
        return self.tensor("probabilities")

    def tensor(self, name: str) -> Tensor:
        """An array of the file: `gradient`, `norm`, `weight` and `centre` as the terms of these names, on the coordinates."""
        return torch.from_numpy(self.expansion.few.read_array(0, name)).to(self.expansion.problem.device)

    @cached_property
    def sampled(self) -> Tensor:
        """Weighted sums of the table of positions on them, as the term `sampled_positions` has them [T, fine * ROWS, items]."""
        return self.tensor("sampled_positions")


def few_of(expansion: Expansion) -> Few | None:
    """The coordinates with which orders are replayed; None for all that the expansion keeps."""
    if not expansion.few.has(0) or not expansion.few.read_attributes(0)["count"]:
        return None
    return Few(expansion)


def few_facts(expansion: Expansion) -> dict[str, float] | None:
    """How many coordinates orders are replayed on, and what that errs by on simulated orders, as a share of what these differ by;
    None where there was no choice."""
    if not expansion.few.has(0):
        return None
    few, share = few_of(expansion), float(expansion.few.read_array(0, "share")[0])
    return {"coordinates": len(expansion.indices if few is None else few.indices), "error": share if few else 0.0}


def missing_few(expansion: Expansion) -> Sequence[int]:
    """The draw, where there is to be one and is none."""
    return (0,) if expansion.awaits_few else ()


def draw_few(expansion: Expansion, units: Sequence[int]) -> Iterator[None]:
    """Draw the fewest coordinates that are enough, and keep what is replayed on them; where none are, say so."""
    measured, device = measure(expansion), expansion.problem.device
    count, share = fewest(measured, expansion.spec.config.replay_error)
    found = dict[str, Tensor]()
    if count:
        scores = _scores(measured.square.mean(0))
        probabilities = inclusion_probabilities(scores, count)
        indices = poisson_sample(probabilities, expansion.spec.config.seed + PICKED).to(device)
        drawn = _Drawn(expansion.spec, indices, probabilities[indices])
        found = {"indices": indices, "probabilities": drawn.probabilities} | _terms(expansion, indices)
        found["sampled_positions"] = _sampled(expansion, drawn, found)
    arrays = {name: tensor.cpu().numpy() for name, tensor in found.items()}
    expansion.few.write(0, arrays | {"share": np.array([share])}, {"count": count}, replace=True)
    yield


class _Drawn(NamedTuple):
    """Coordinates as they are drawn, before they are kept."""

    spec: AdjointSpec
    indices: Tensor
    probabilities: Tensor


def measure(expansion: Expansion) -> Measured:
    """Replay simulated orders on all coordinates, a few at a time, beside the reference order."""
    spec, reference = expansion.spec, expansion.problem.reference
    orders = random_orders(reference, 2 * ORDERS, spec.config.seed + DRAWN)
    share = bounded_tables(expansion).share
    base, base_sum = (part[0] for part in _beyond(expansion, [reference], share))
    square = torch.zeros(2, *base.shape, dtype=torch.float64, device=base.device)
    sums = []
    for half, judged in enumerate((orders[:ORDERS], orders[ORDERS:])):
        for first in range(0, ORDERS, spec.config.simulated):
            rest, total = _beyond(expansion, judged[first : first + spec.config.simulated], share)
            square[half] += (rest - base).square().sum(0)
            sums.append(total - base_sum)
    return Measured(square / ORDERS, torch.cat(sums).std(0))


def _beyond(expansion: Expansion, orders: Sequence[Order], share: Tensor) -> tuple[Tensor, Tensor]:
    """What n orders' coordinates contribute beyond their control variates [n, r, D], and the sums of all that they contribute
    [n, r], float64."""
    found = simulated_contributions(expansion, len(orders), orders)
    rest, fine = found.values.double(), found.table.shape[1]
    sums = rest.sum(-1)
    rest[:, :fine] -= share * found.table
    return rest, sums


def _scores(square: Tensor) -> Tensor:
    """Root mean squares [D] over read-outs [r, D], each scaled to a total of 1 first."""
    roots = square.sqrt()
    return (roots / roots.sum(-1, keepdim=True).clamp(min=torch.finfo(roots.dtype).tiny)).mean(0)


def fewest(measured: Measured, error: float) -> tuple[int, float]:
    """The smallest expected number of coordinates whose sampling error is at most a share of the orders' spread, for every
    read-out, and the largest of these shares; 0, and the share of the most that were tried, where no number is enough."""
    scores, size = _scores(measured.square[0]), measured.square.shape[-1]
    share, count = float("inf"), float(FEWEST)
    while count <= MOST * size:
        p = inclusion_probabilities(scores, round(count))
        variance = (measured.square[1] * ((1 - p) / p)).sum(-1)
        share = float((variance.sqrt() / measured.spread.clamp(min=torch.finfo(p.dtype).tiny)).max())
        if share <= error:
            return round(count), share
        count *= 2**0.5
    return 0, share


def _terms(expansion: Expansion, indices: Tensor) -> dict[str, Tensor]:
    """What is replayed on some coordinates, as the terms will hold it on all of them."""
    spec, terms, places = expansion.spec, expansion.open_terms(), indices.cpu().numpy()
    anchors, steps, device = range(len(spec.anchors)), range(spec.steps + 1), expansion.problem.device

    def blocks(name: str, anchor: int) -> np.ndarray:
        """An anchor's rows, of which not all coordinates are ever in memory at once."""
        items = range(expansion.problem.config.data.items)
        parts = (items[first : first + ITEM_BLOCK] for first in items[::ITEM_BLOCK])
        return np.concatenate([terms.read_items(name, anchor, part)[:, places] for part in parts])

    centre = torch.stack([expansion.trajectory.parameters(t)[indices] for t in steps])
    return {
        "gradient": torch.from_numpy(np.stack([blocks("gradient", a) for a in anchors])).to(device),
        "norm": torch.from_numpy(np.stack([terms.read("norm", a) for a in anchors])).to(device),
        "weight": torch.stack([expansion.sweep.weight(t)[:, indices] for t in steps]),
        "centre": centre[:, None],
    }


def _sampled(expansion: Expansion, drawn: _Drawn, found: dict[str, Tensor]) -> Tensor:
    """Weighted sums over the drawn coordinates of the table of positions as it is taken [T, fine * ROWS, items], float64."""
    problem, fine = expansion.problem, expansion.spec.fine
    weights, bounded = all_weights(drawn), bounded_tables(expansion).part(drawn.indices)
    rule, rows = problem.rule.restrict(drawn.indices), list[Tensor]()

    def anchored(name: str) -> Anchored:
        return Anchored(expansion.spec.anchors, lambda anchor: found[name][anchor])

    gradients, norms = anchored("gradient"), anchored("norm")
    for step in range(expansion.spec.steps):
        states, gradient = expansion.around(step).part(drawn.indices), gradients(step)
        total = torch.zeros(fine, ROWS, len(gradient), dtype=torch.float64, device=problem.device)
        for here, values in chunked_values(rule, problem.rate(step), states, gradient, norms(step).squeeze(-1)):
            total += weights[:, here] @ bounded.part(here)(values).mT
        rows.append(total.flatten(0, 1))
    return torch.stack(rows)
