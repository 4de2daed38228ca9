"""Every registered study keeps to protocols, documents its request, and keeps its answer."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from truths import Answers, TableOfTruths, table_context

import fut
from estimators.orders.order import random_orders
from fut.api.run import Run
from fut.artifacts.archive import RunArchive
from fut.errors import UsageError
from fut.estimation.service import EstimationService
from fut.progress import silent
from fut.studies.base import Study, StudyContext
from fut.studies.order_noise import ORDER_NOISE, OrderNoiseRequest, order_effect
from fut.studies.registry import STUDIES

FOLDER = Path(fut.__file__).parent / "studies"
HEAVY = ("storage", "torch", "fut.api", "fut.artifacts", "fut.cli", "fut.report", "fut.training", "fut.methods")

every = pytest.mark.parametrize("study", [*STUDIES], ids=STUDIES.names)


@every
def test_a_request_is_frozen_has_defaults_and_documents_every_field(study: Study[Any, Any]) -> None:
    request = study.request()
    assert study.request.__dataclass_params__.frozen
    for field in dataclasses.fields(request):
        assert f"{field.name}:" in (study.request.__doc__ or ""), f"{study.name}: `{field.name}` is not documented"


@every
def test_an_answer_is_kept_under_the_name_for_every_readout_apart_and_is_the_same_again(study: Study[Any, Any]) -> None:
    archive = Answers()
    first = study.ask(study.request(), table_context(TableOfTruths(), archive))
    again = study.ask(study.request(), table_context(TableOfTruths("other"), archive))
    assert first.as_dict() == again.as_dict()
    (kind, key, kept), (other, about, _) = archive.kept
    assert kind == other == study.name
    assert key != about, "answers about two read-outs would overwrite each other"
    assert json.loads(json.dumps(first.as_dict(), allow_nan=False)).items() <= json.loads(json.dumps(kept)).items()
    json.dumps(key)


@every
def test_truths_are_trained_through_the_protocol_and_counted(study: Study[Any, Any]) -> None:
    counted: list[int] = []

    class Counting:
        def __call__(self, label: str, total: int) -> Any:
            counted.append(total)
            return silent(label, total)

    truths = TableOfTruths()
    context = dataclasses.replace(table_context(truths), progress=Counting())
    study.ask(study.request(), context)
    assert truths.trained, "a study that trains nothing is a question"
    assert sum(counted) >= sum(map(len, truths.trained))


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: str(file.relative_to(FOLDER)))
def test_studies_take_protocols_never_a_run(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        asked = [name for name in names if name.startswith("fut.questions") and name != "fut.questions.question"]
        assert not [name for name in names if name.startswith(HEAVY)] + asked


def test_an_unknown_study_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"study: expected one of .*order_noise.*, got `module_noise`"):
        STUDIES["module_noise"]


def test_order_noise_is_the_spread_of_random_orders() -> None:
    truths, archive = TableOfTruths(), Answers()
    found = ORDER_NOISE.ask(OrderNoiseRequest(6, seed=3), table_context(truths, archive))
    drawn = random_orders(truths.order, 6, 3)
    values = [truths.value(order) for order in drawn]
    assert found == order_effect(values, truths.reference)
    assert archive.kept[0][2]["values"] == values
    assert found.sd == pytest.approx(np.std(values, ddof=1))


def test_fewer_than_two_orders_are_refused() -> None:
    with pytest.raises(UsageError, match="order noise: expected at least 2 orders, got 1"):
        OrderNoiseRequest(1)


def test_order_noise_of_a_run_is_that_of_its_retrained_orders(small_run: Run) -> None:
    truths = EstimationService(small_run.context).truths("probe")
    archive = RunArchive(small_run.path, small_run.context.owner)
    context = StudyContext(small_run.reference, truths, archive, silent)
    found = ORDER_NOISE.ask(OrderNoiseRequest(2), context)
    values = [small_run.retrain(order).loss for order in random_orders(small_run.reference, 2, 0)]
    assert found == order_effect(values, small_run.reference_loss)
    (kept,) = archive.read("order_noise")
    assert (kept["values"], kept["readout"], kept["sd"]) == (values, "probe", found.sd)
