"""The identity order gives the reference bitwise, and exchanging equal batches gives exactly nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import MakeRun, small_config

import fut
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.methods.registry import METHODS

MOVING = [
    m.name for m in METHODS if m.capabilities.moves_items and m.name not in ("lowrank", "retrain")
]  # see test_curved_run
RULES: list[dict[str, Any]] = [
    {},
    {"rule": {"name": "adamw", "options": {"betas": [0.9, 0.95], "weight_decay": 0.1, "clip": 0.5}}},
    {"rule": {"name": "momentum", "options": {"kind": "heavy_ball", "beta": 0.9}}, "schedule": {"kind": "linear"}},
    {"rule": {"name": "sgd", "options": {}}, "schedule": {"kind": "constant", "rate": 0.1}},
    {"data": {"epochs": 2}},
]
CACHES: list[dict[str, Any]] = [
    {},
    {"derivative": "secant"},
    {"sketch": "identity"},
    {"sketch": "gaussian", "coordinates": 700},
    {"products": "exact", "sketch": "coordinates"},
]


@pytest.mark.parametrize("sections", RULES, ids=["adamw", "clip-decay", "momentum", "sgd", "epochs"])
@pytest.mark.parametrize("name", [*MOVING, "retrain"])
def test_identity_order_is_the_reference_bitwise(make_run: MakeRun, sections: dict[str, Any], name: str) -> None:
    run = make_run(**sections)
    found = run.estimate(["identity"], name, known=False)[0]
    assert found.value == run.reference_loss
    assert found.delta == 0.0


@pytest.mark.parametrize("cache", CACHES, ids=["sjlt", "secant", "identity", "sample", "exact"])
@pytest.mark.parametrize("name", ["fut", "taylor2", "replay"])
def test_identity_order_is_bitwise_with_every_cache(make_run: MakeRun, cache: dict[str, Any], name: str) -> None:
    run = make_run(cache=small_config(cache=cache).cache.model_dump())
    assert run.estimate(["identity"], name, known=False)[0].value == run.reference_loss


@pytest.mark.parametrize("moments", ["reference", "replayed"])
@pytest.mark.parametrize("reading", ["linear", "evaluated"])
def test_identity_order_is_bitwise_with_every_option(small_run: fut.Run, moments: str, reading: str) -> None:
    found = small_run.estimate(["identity"], "taylor2", known=False, moments=moments, reading=reading)[0]
    assert found.value == small_run.reference_loss


def test_the_endpoint_of_the_identity_order_is_the_reference_bitwise(small_run: fut.Run) -> None:
    rebuilding = [e for e in map(small_run.methods.open, MOVING) if e.rebuilds]
    assert len(rebuilding) >= 5
    for estimator in rebuilding:
        name = estimator.name
        position = estimator.final_states([small_run.reference])[0]
        assert torch.equal(
            estimator.endpoint(position, small_run.steps), small_run.context.state(small_run.steps).theta
        ), name


@pytest.mark.parametrize("name", ["fut", "taylor2", "replay", "replay-exact", "adjoint", "retrain"])
def test_exchanging_two_equal_batches_changes_nothing(tmp_path: Any, name: str) -> None:
    config = small_config()
    data = build_dataset(config)
    twin = Dataset((*data.items[:4], data.items[1]), data.probe, data.warmup)
    run = fut.train(tmp_path / "run", config, data=twin, device="cpu")
    run.cache("all")
    swapped, moved = run.estimate(["swap:1,4", "swap:0,2"], name, known=False)
    assert swapped.delta == 0.0
    assert moved.delta != 0.0, "an estimator that never moves would pass the line above"
