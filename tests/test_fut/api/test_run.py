"""What a user meets of an opened run: its names, orders that can be walked, results that load back, one name for a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_config
from torch import nn

import fut
from fut.models.transformer import Transformer
from fut.questions.accuracy.ask import VerifyRequest
from fut.questions.whatif.ask import WhatIfRequest


def test_completion_shows_what_is_meant_to_be_used(small_run: fut.Run) -> None:
    names = dir(small_run)
    assert len(names) <= 30
    assert {"estimate", "cache", "retrain", "orders", "path"} <= {*names}
    assert not [name for name in names if name.startswith("_")]
    assert all(hasattr(small_run, name) for name in names)


def test_an_order_is_walked_step_by_step() -> None:
    order = fut.Order.of([2, [0, 1], []])
    assert list(order) == [(2,), (0, 1), ()]
    assert [item for step in order for item in step] == [2, 0, 1]
    assert eval(repr(order), {"Order": fut.Order}) == order
    assert len(repr(fut.Order.of(range(10**5)))) < 300


def test_a_retrained_order_loads_back_into_the_module(small_run: fut.Run) -> None:
    config = small_run.context.config
    module = Transformer(
        config.data.vocabulary, config.data.context, config.model.width, config.model.layers, config.model.heads
    )
    found = small_run.retrain("reverse")
    again = small_run.retrain("reverse")
    for truth in (found, again):
        module.load_state_dict(truth.state_dict())
        vector = nn.utils.parameters_to_vector(module.parameters())
        assert torch.equal(vector.detach(), truth.theta)
    with pytest.raises(fut.UsageError, match="ask the run"):
        type(found)(1.0, found.theta, 0.0).state_dict()


@pytest.mark.parametrize(
    ("request_", "field", "expected"),
    [
        (lambda: VerifyRequest(estimators="adjoint"), "estimators", ("adjoint",)),
        (lambda: WhatIfRequest(edits="swap:0,1", readouts="probe"), "edits", ("swap:0,1",)),
        (lambda: WhatIfRequest(edits="swap:0,1", readouts="item:1"), "readouts", ("item:1",)),
    ],
)
def test_a_string_is_one_name(request_: Any, field: str, expected: tuple[str, ...]) -> None:
    assert getattr(request_(), field) == expected


def test_a_finished_run_is_returned_where_that_is_asked_for(tmp_path: Path) -> None:
    config = small_config()
    first = fut.train(tmp_path / "run", config, device="cpu")
    before = {file: file.stat().st_mtime_ns for file in first.path.rglob("*") if file.is_file()}
    with pytest.raises(fut.ExistsError, match=r"open it with fut\.open"):
        fut.train(tmp_path / "run", config, device="cpu")
    again = fut.train(tmp_path / "run", config, device="cpu", exist_ok=True)
    assert again.reference_loss == first.reference_loss
    assert {file: file.stat().st_mtime_ns for file in first.path.rglob("*") if file.is_file()} == before
    with pytest.raises(fut.IdentityError, match="rate"):
        fut.train(tmp_path / "run", small_config(schedule={"rate": 2e-3}), device="cpu", exist_ok=True)
    fut.train(tmp_path / "new", config, device="cpu", exist_ok=True)
    assert (tmp_path / "new" / "summary.json").exists()
