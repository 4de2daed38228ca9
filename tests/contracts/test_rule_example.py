"""The worked example of an update rule, as it stands in CONTRIBUTING.md: it keeps the contract, trains, and is replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from documents import ROOT, module_of
from small import small_config

import fut
from estimators.contract import LAYOUTS, check_rule, normal
from estimators.rules import RULES
from estimators.rules.base import Rule


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Rule]:
    """The example's class, from a module of its own, registered."""
    module = module_of(ROOT / "CONTRIBUTING.md", "## Add an update rule", "block_normalized", tmp_path, monkeypatch)
    made: type[Rule] = module.BlockNormalized
    monkeypatch.setitem(RULES, made.name, made)
    return made


def test_the_example_keeps_the_contract(rule: type[Rule]) -> None:
    check_rule(rule())
    check_rule(rule(weight_decay=0.1, clip=2.0))


def test_the_example_is_its_formula(rule: type[Rule]) -> None:
    layout = LAYOUTS["matrices"]
    bound, gradient = rule().on(layout), normal(layout.size, seed=4)
    moved = bound.step(bound.init(normal(layout.size, seed=9)), gradient, 0.5)[1]
    for part, whole in zip(layout.split(moved), layout.split(0.1 * gradient), strict=True):
        assert torch.allclose(part, -0.5 * whole / (whole.norm() + 1e-3), rtol=1e-12)


def test_a_run_trained_with_the_example_is_replayed_as_it_is_retrained(rule: type[Rule], tmp_path: Path) -> None:
    config = small_config(
        model={"width": 8, "layers": 1, "heads": 2, "dtype": "float64"},
        rule={"name": "block_normalized", "options": {"beta": 0.5, "weight_decay": 0.1}},
        schedule={"rate": 1e-2},
    )
    run = fut.train(tmp_path / "run", config, device="cpu")
    assert type(run.context.problem.rule) is rule
    orders = ["reverse", "random:0", "random:1", "random:2"]
    truth = np.array([run.retrain(order).loss for order in orders])
    found = np.array([e.value for e in run.estimate(orders, "replay-exact", known=False)])
    assert np.abs(found - truth).mean() < 1e-3 * np.abs(truth - run.reference_loss).mean()
    assert run.estimate(["identity"], "replay-exact", known=False)[0].value == pytest.approx(run.reference_loss)
