"""A table of truths and an archive in memory: what a study is asked of where nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from estimators.orders.order import Order
from fut.progress import silent
from fut.protocols import Answer, BranchPair, BranchPlan, Reading, RuleChoice
from fut.studies.base import StudyContext


@dataclass
class TableOfTruths:
    """Every order ends at a number of its own; the orders that were trained are listed."""

    readout: str = "probe"
    unit: str = "nats/token"
    trained: list[Order] = field(default_factory=list)
    order: Order = field(default_factory=lambda: Order.of(range(5)))

    @staticmethod
    def value(order: Order) -> float:
        return 2.0 + sum(step * item for step, items in enumerate(order.steps) for item in items) / 100

    @property
    def reference(self) -> float:
        return self.value(self.order)

    def find(self, order: Order) -> float | None:
        return self.value(order) if order in self.trained else None

    def ahead(self, orders: Iterable[Order], tick: Callable[[], object] = lambda: None) -> None:
        """There are no other processes."""

    def train(self, order: Order, tick: Callable[[], object] = lambda: None) -> float:
        return self.train_timed(order, tick)[0]

    def train_timed(self, order: Order, tick: Callable[[], object] = lambda: None) -> tuple[float, float]:
        if order not in self.trained:
            self.trained.append(order)
            for _ in order.steps:
                tick()
        return self.value(order), 1.0


@dataclass
class Answers:
    """An archive in memory."""

    kept: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)

    def keep(self, kind: str, key: Any, answer: Answer, **beside: Any) -> None:
        self.kept.append((kind, key, answer.as_dict() | beside))

    def find(self, kind: str, key: Any) -> dict[str, Any] | None:
        return next((content for k, about, content in self.kept if (k, about) == (kind, key)), None)

    def read(self, kind: str) -> Iterator[dict[str, Any]]:
        return (content for k, _, content in self.kept if k == kind)


@dataclass
class TableOfBranches:
    """Branches on the same table: the treated arm has the order with its first step last."""

    truths: TableOfTruths
    steps: int = 5
    half_lives: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=lambda: {"loss": "nats/token"})
    environment: dict[str, str] = field(
        default_factory=lambda: {"noise_of_the_forward_pass": "none is drawn", "probe_sha256": ""}
    )

    def check(self, plan: BranchPlan) -> None:
        """Every plan can be followed."""

    def gradients(self, plan: BranchPlan, seeds: int) -> int:
        return 2 * self.steps * seeds

    def pairs(
        self, plan: BranchPlan, orders: Sequence[Order], tick: Callable[[], object]
    ) -> Iterator[BranchPair | Order]:
        for seed, order in enumerate(orders):
            both = (order, order.move(0, self.steps - 1))
            control, treated = ({"loss": self.truths.train(of, tick)} for of in both)
            moments = ("branch", "treated", "end control", "repeated control")
            digests = {moment: {"theta": order.digest} for moment in moments}
            yield BranchPair(seed, both, (Reading(self.steps, control, treated, {}),), digests)


@dataclass
class TableOfRules:
    """Every rule but AdamW ends 0.5 higher, or as much as its rate is off 1e-3 by factors of two."""

    truths: TableOfTruths
    rate: float = 1e-3

    def check(self, choice: RuleChoice) -> None:
        """Every rule can train."""

    def train(self, choice: RuleChoice, rate: float, order: Order, tick: Callable[[], object]) -> tuple[float, float]:
        value = self.truths.train(order, tick) + abs(math.log2(rate / 1e-3)) + 0.5 * (choice.name != "adamw")
        return value, value


def table_context(truths: TableOfTruths | None = None, archive: Answers | None = None) -> StudyContext:
    """A context of a study on a table."""
    truths = truths or TableOfTruths()
    return StudyContext(
        truths.order, truths, archive or Answers(), silent, branches=TableOfBranches(truths), rules=TableOfRules(truths)
    )
