"""Orders that have been retrained on a run: their losses and endpoints, kept so none is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from estimators.orders.order import Order
from fut.training.trainer import Retrained
from storage import (
    Checkpoint,
    CheckpointStore,
    Damage,
    DamagedError,
    ExistsError,
    MissingError,
    listed,
    parse_json,
    require_plain,
)


class RetrainedOrders:
    """One directory per order, named by its canonical form's digest, holding one checksummed file.

    Any number of processes read and keep at once: a truth is there as a whole or not at all.

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
        """Keep the truth about an order; one that another process kept meanwhile stays, as it is the same."""
        attributes: dict[str, int | float | str] = {
            "loss": result.loss,
            "seconds": result.seconds,
            "order": json.dumps(order.tolist()),
        }
        with suppress(ExistsError):
            self._store(order).write(len(order), {"theta": result.theta.cpu().numpy()}, attributes)

    def has(self, order: Order) -> bool:
        """Whether the truth about an order is kept; it is not read."""
        return self._store(order).has(len(order))

    def count(self) -> int:
        """How many truths are kept, those about the first steps of orders among them."""
        return sum(len(store.steps()) for store in self._stores())

    def take(self, directory: Path) -> tuple[int, int]:
        """Copy the truths of another such directory, of this run, once all of them are known to be sound.

        Args:
            directory: as the run's own, of a copy of the run on another machine, say.

        Returns:
            How many were copied, and how many were here already, which stay as they are.

        Raises:
            MissingError: where there is no such directory.
            IdentityError: for a file of another run, by its name.
            DamagedError: for a damaged file, a link, or a file of another order than its place says, by its name.
        """
        if not directory.is_dir():
            raise MissingError(
                f"bank: expected a directory of retrained orders, got {directory}; give the directory of a run that has some"
            )
        require_plain(directory)
        found = [(store, step) for store in self._stores(directory) for step in store.steps()]
        for store, step in found:
            self._read(store, step)
        copied = 0
        for store, step in found:
            order, held = self._read(store, step)
            if not self.has(order):
                self._store(order).write(step, held.arrays, held.attributes)
                copied += 1
        return copied, len(found) - copied

    def _read(self, store: CheckpointStore, step: int) -> tuple[Order, Checkpoint]:
        """A truth, and the order that it is about."""
        held = store.read(step)
        try:
            order = Order.of(parse_json(str(held.attributes["order"])))
            sound = (self._name(order), len(order)) == (store.directory.name, step) and "theta" in held.arrays
        except (KeyError, TypeError, ValueError, IndexError):
            sound = False
        if not sound:
            raise DamagedError(
                f"expected the truth about the order that {store.path(step)} is named by, got another; remove the file"
            )
        return order, held

    def losses(self) -> Iterator[tuple[Order, float]]:
        """Every order that is known, as it was asked for, and its probe loss [nats/token]; no endpoint is read."""
        for store in self._stores():
            for step in store.steps():
                held = store.read_attributes(step)
                yield Order.of(parse_json(str(held["order"]))), float(held["loss"])

    def check(self) -> list[Damage]:
        return [damage for store in self._stores() for damage in store.check()]

    def _stores(self, directory: Path | None = None) -> list[CheckpointStore]:
        place = directory or self.directory
        return [CheckpointStore(place / name, self.owner) for name in listed(place)]
