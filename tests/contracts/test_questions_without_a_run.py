"""A question needs no run: asked of a table, it gives what the table says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimators.orders.order import Order, named_order
from fut.estimation.results import Estimate
from fut.progress import silent
from fut.questions.context import QuestionContext
from fut.questions.whatif.ask import WhatIfRequest
from fut.questions.whatif.ask import ask as whatif

REFERENCE = Order.of(range(6))


def value_of(order: Order) -> float:
    """Later items weigh more."""
    return float(sum(step * item for step, items in enumerate(order.steps) for item in items))


class Table:
    """Estimates of any order, exact."""

    method, readout, unit, reference, fitted_to, caution = "table", "probe", "", value_of(REFERENCE), None, ""

    def __call__(self, orders: Sequence[Order]) -> list[Estimate]:
        return [Estimate(v := value_of(o), v - self.reference, None, "table", o.digest, unit="") for o in orders]

    def edited(self, orders: Sequence[Order], edits: Sequence[str | None]) -> list[Estimate]:
        return self(orders)

    def for_edit(self, edit: str) -> Table:
        return self

    def train(self, order: Order, tick: Any = None) -> float:
        return value_of(order) + 1


class Facts:
    """Of six items, one a step."""

    steps, items, reference, default_method = 6, 6, REFERENCE, "table"

    def order(self, spec: Any, partial: bool = False) -> Order:
        return spec if isinstance(spec, Order) else named_order(spec, REFERENCE)

    def readouts(self, specs: Sequence[str]) -> list[str]:
        return list(specs)


class Service:
    """Everything is the table."""

    def estimates(self, *names: Any, **options: Any) -> Table:
        return Table()

    def truths(self, readout: str) -> Table:
        return Table()


class Archive:
    """A dictionary."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, Any], Any] = {}

    def keep(self, kind: str, key: Any, answer: Any, **beside: Any) -> None:
        self.kept[kind, key] = answer


def test_what_if_is_asked_of_a_table() -> None:
    archive: Any = Archive()
    facts: Any = Facts()
    service: Any = Service()
    request = WhatIfRequest(edits=["swap:0,5"], verify=True)
    answer = whatif(request, QuestionContext(facts, service, archive, silent))
    swapped = REFERENCE.swap(0, 5)
    assert answer["probe"].delta == value_of(swapped) - value_of(REFERENCE)
    assert answer["probe"].truth == value_of(swapped) + 1
    assert archive.kept == {("whatif", swapped.digest[:16]): answer}
