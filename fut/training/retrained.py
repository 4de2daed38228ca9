"""Orders that have been retrained on a run: their losses and endpoints, kept so none is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from estimators.orders.order import Order
from fut.training.trainer import Retrained
from storage import CheckpointStore, Damage, listed, parse_json


class RetrainedOrders:
    """One directory per order, named by its canonical form's digest, holding one checksummed file.

    canonical: the form that orders share which train on the same content, so that the truth about one is that of all.
    owner: the run's digest.
    """

    def __init__(
        self,
        directory: Path,
        device: torch.device | str = "cpu",
        canonical: Callable[[Order], Order] = Order.canonical,
        owner: str = "",
    ) -> None:
        self.directory, self.device, self.canonical, self.owner = directory, device, canonical, owner

    def _name(self, order: Order) -> str:
        return self.canonical(order).digest[:32]

    def _store(self, order: Order) -> CheckpointStore:
        return CheckpointStore(self.directory / self._name(order), self.owner)

    def find(self, order: Order) -> Retrained | None:
        """The truth about this order, if known."""
        store = self._store(order)
        if not store.has(len(order)):
            return None
        found = store.read(len(order))
        theta = torch.from_numpy(found.arrays["theta"]).to(self.device)
        return Retrained(float(found.attributes["loss"]), theta, float(found.attributes["seconds"]))

    def among(self, orders: Sequence[Order]) -> dict[int, Retrained]:
        """The truths that are known about any of the orders, by their places; the directory is listed once."""
        names = set(listed(self.directory))
        found = {i: self.find(order) for i, order in enumerate(orders) if names and self._name(order) in names}
        return {i: truth for i, truth in found.items() if truth is not None}

    def keep(self, order: Order, result: Retrained) -> None:
        attributes: dict[str, int | float | str] = {
            "loss": result.loss,
            "seconds": result.seconds,
            "order": json.dumps(order.tolist()),
        }
        self._store(order).write(len(order), {"theta": result.theta.cpu().numpy()}, attributes)

    def losses(self) -> Iterator[tuple[Order, float]]:
        """Every order that is known, as it was asked for, and its probe loss [nats/token]; no endpoint is read."""
        for store in self._stores():
            for step in store.steps():
                held = store.read_attributes(step)
                yield Order.of(parse_json(str(held["order"]))), float(held["loss"])

    def check(self) -> list[Damage]:
        return [damage for store in self._stores() for damage in store.check()]

    def _stores(self) -> list[CheckpointStore]:
        return [CheckpointStore(self.directory / name, self.owner) for name in listed(self.directory)]
