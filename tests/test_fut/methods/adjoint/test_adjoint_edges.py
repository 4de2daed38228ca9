"""The adjoint at its edges: one step, one run, items that cannot be pooled, a full disk, and settings given late."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import shared
from small import Cli, MakeRun, expand, flip, small_config

from estimators.adjoint import mean_touched
from estimators.errors import OrderError
from estimators.orders.order import random_orders
from fut.artifacts.directory import directory_bytes
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.expansion.trajectory import missing_steps, run_trajectory
from fut.models.autodiff import central_difference, one_sided_difference
from storage import DiskFullError


def test_injections_count_where_an_item_touches() -> None:
    injections = torch.tensor([[[1.0, 8.0, 3.0]], [[3.0, 5.0, 9.0]]])  # two items, one read-out, three coordinates
    gradients = torch.tensor([[0.5, 0.0, 0.0], [-1.0, 2.0, 0.0]])
    assert mean_touched(injections, gradients).tolist() == [[2.0, 5.0, 0.0]]


def test_a_direction_of_zero_has_a_product_of_zero() -> None:
    theta, zero = torch.full((3,), 2e4), torch.zeros(3)  # so large that a step along nothing overflows

    def slope(at: torch.Tensor) -> torch.Tensor:
        return at.square()

    assert central_difference(slope, theta, zero).tolist() == [0.0] * 3
    assert one_sided_difference(slope, theta, zero, slope(theta)).tolist() == [0.0] * 3


def test_a_mixture_of_too_many_items_is_refused_before_anything_is_pinned(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    with pytest.raises(OrderError, match=r"expected a mixture of 1\.\.5 items a step, got 9"):
        expand(run.context, AdjointConfig(trajectory="mixture", num_runs=9))
    expand(run.context, AdjointConfig(trajectory="mixture", num_runs=2))


@pytest.mark.parametrize("changes", [{"data": {"items": 1}}, {"adjoint": {"num_runs": 1}}])
@pytest.mark.parametrize("centre", ["ensemble", "mixture"])
def test_fewer_directions_than_functionals_are_no_divergence(
    tmp_path: Path, changes: dict[str, dict[str, int]], centre: str
) -> None:
    adjoint = {"num_runs": 1, "trajectory": centre} | changes.get("adjoint", {})
    run = shared(tmp_path / "run", small_config(**changes | {"adjoint": adjoint}), cached=False)
    run.cache(["adjoint"])
    found = run.estimate(["identity", "reverse"], known=False, calibrated=False)
    assert found[0].value == run.reference_loss
    assert (found[1].value == run.reference_loss) == (run.steps == 1)


def test_the_centres_orders_are_apart_from_random_ones(tmp_path: Path) -> None:
    """Random orders of the expansion's own seed are what a verification holds out."""
    run = shared(tmp_path / "run", small_config(data={"items": 24}), cached=False)
    held_out = [[i for (i,) in order.steps] for order in random_orders(run.reference, 32, 0)]

    def nearest(config: AdjointConfig) -> float:
        members = [[i for (i,) in order.steps] for order in open_expansion(run.context, config).spec.trajectory.members]
        places = [np.argsort(order) for order in (*members, *held_out)]
        return float(np.asarray(np.corrcoef(places))[: len(members), len(members) :].max())

    assert nearest(AdjointConfig()) < 0.75


def test_an_empty_sample_is_none(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expand(run.context, AdjointConfig(coordinates=1, seed=1))
    assert len(open_expansion(run.context).indices) >= 1
    assert run.estimate(["reverse"], known=False)[0].delta != 0


def test_an_interrupted_expansion_needs_no_disk_for_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expansion = open_expansion(run.context)
    expansion.directory.mkdir()
    list(run_trajectory(expansion.trajectory, missing_steps(expansion.trajectory)))
    needed, there = (
        EXPANSION.cost(expansion.spec).scratch + EXPANSION.cost(expansion.spec).kept,
        directory_bytes(expansion.directory),
    )
    assert there > 0
    monkeypatch.setattr("storage.atomic._free_bytes", lambda path: needed - there)
    expand(run.context, None)
    shutil.rmtree(expansion.directory)
    with pytest.raises(DiskFullError, match="the expansion and its scratch"):
        expand(run.context, None)


def test_an_expansion_is_configured_when_it_is_made(tmp_path: Path, cli: Cli) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    terms = ("cache", run.path, "--terms", "adjoint", "--device", "cpu")
    assert cli(*terms, "--set", "adjoint.num_runs=2", "--set", "adjoint.num_anchors=2").status == 0
    assert (open_expansion(run.context).spec.config.num_runs, len(open_expansion(run.context).spec.anchors)) == (2, 2)
    assert cli(*terms).status == 0, "as it is stored"
    said = cli(*terms, "--set", "adjoint.num_runs=3")
    assert said.status == 1
    assert "adjoint.num_runs: expected 3, found 2" in said.err
    assert "remove" in said.err


def test_an_anchors_error_is_in_the_read_outs_unit(make_run: MakeRun, cli: Cli) -> None:
    run = make_run(adjoint={"readouts": ["accuracy", "probe"]}, cached=False)
    run.cache(["adjoint"])
    (line,) = [line for line in cli("info", run.path).out.splitlines() if line.startswith("anchors:")]
    assert line.endswith(" probability")


def test_a_kill_while_scratch_goes_leaves_none_of_it_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expansion = open_expansion(run.context)
    with monkeypatch.context() as killed:
        killed.setattr("fut.methods.stages.shutil.rmtree", lambda *a, **k: None)
        expand(run.context, None)
    assert not expansion.scratch.exists()
    expected = expansion.terms().read("centre", 2)
    flip(next(p for p in (expansion.directory / "terms/arrays/centre/c").rglob("*") if p.is_file()), 40)
    assert run.methods.repair() >= 1
    run.cache(["adjoint"])
    assert not run.check()
    assert np.array_equal(open_expansion(run.context).terms().read("centre", 2), expected)
    assert not (expansion.directory / "discarded").exists()
