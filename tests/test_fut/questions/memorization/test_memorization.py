"""Memorization maps on a run: against the single estimates and real retraining, kept, resumed, and refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import ASKED, Cli, MakeRun, flip, small_config

import fut
from estimators.errors import OrderError
from fut.api.integrity import check_path
from fut.api.questions import question_context
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.errors import NotCachedError, UsageError
from fut.estimation.changes import expansion_for
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.multi_readout import MultiReadout
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.curvature_batches import balanced_samples, pooled_products, small_size
from fut.models.autodiff import hessian_vectors_one_sided
from fut.orders.editing import with_item_at
from fut.questions.memorization.ask import MemorizeRequest, ResolvedRequest, pass_of, resolve
from fut.questions.memorization.maps import KINDS
from fut.questions.memorization.result import Memorization
from storage import IdentityError, read_json

SHARP = {"schedule": {"rate": 3e-3}, "adjoint": {"pool": 2}}


@pytest.fixture(scope="module")
def mapped(make_run: MakeRun) -> fut.Run:
    """A run whose maps are swept. Shared: read only."""
    run = make_run(cached=False, **SHARP)
    run.memorize(groups=2)
    return run


def planned(run: fut.Run, **fields: Any) -> ResolvedRequest:
    return resolve(MemorizeRequest(**fields), question_context(run.context))


def answers(run: fut.Run) -> list[Path]:
    return sorted((run.path / "answers").glob("memorization-*.json"))


def test_several_read_outs_at_once_are_those_asked_one_by_one(mapped: fut.Run) -> None:
    resolved = planned(mapped, groups=2)
    expansion = expansion_for(mapped.context, resolved.shared, resolved.items)
    own = fut.open(mapped.path, device="cpu")
    shutil.copytree(expansion.directory, mapped.path / "adjoint")
    try:
        orders = [own.order(o) for o in ("move:1,4", "reverse", "without:2", "identity")]
        names = ["item:3", "probe:1of2", "probe"]
        several = MultiReadout(own.context, ["probe", "probe:1of2", "item:0", "item:3"], expansion)
        values, variances = several.changes(orders, names)
        for k, name in enumerate(names):
            single = own.estimate(orders, "adjoint", known=False, readout=name, reading="linear")
            assert values[:, k].tolist() == pytest.approx([s.delta for s in single], rel=1e-9, abs=1e-12)
        assert values[3].tolist() == [0.0, 0.0, 0.0]
        assert not variances.any()
        with pytest.raises(NotCachedError, match="without probe:0of3"):
            MultiReadout(own.context, ["probe:0of3"])
    finally:
        shutil.rmtree(mapped.path / "adjoint")


def test_a_sample_of_coordinates_knows_its_variance(make_run: MakeRun) -> None:
    run = make_run(cached=False, adjoint={"readouts": ["probe", "item:1"], "coordinates": 700, "functionals": 0})
    run.cache(["adjoint"])
    order = run.order("move:1,4")
    several = MultiReadout(run.context, ["item:1", "probe"])
    values, variances = several.changes([order, run.reference], ["probe", "item:1"])
    for k, name in enumerate(("probe", "item:1")):
        single = run.methods.open("adjoint", readout=name)
        position = single.final_states([order])
        assert values[0, k].item() == pytest.approx(single.values(position, 5)[0] - single.reference_value)
        assert variances[0, k].item() == pytest.approx(single.variances(position)[0])
    assert not variances[1].any()
    found = run.memorize(items=[1], groups=2)
    assert found.maps.sampling_sd["own"] > 0
    assert "sampling error over coordinates" in found.note


def test_maps_are_near_what_retraining_says_of_every_cell(mapped: fut.Run) -> None:
    found, true = mapped.memorize(groups=2), mapped.memorize(groups=2, estimator="retrain")
    for kind in KINDS:
        guess, real = np.array(found.maps.effects[kind]), np.array(true.maps.effects[kind])
        assert np.linalg.norm(guess - real) < 0.1 * np.linalg.norm(real), kind
        absent, really = np.array(found.maps.absence[kind]), np.array(true.maps.absence[kind])
        assert np.linalg.norm(absent - really) < 0.15 * np.linalg.norm(really), kind
        assert np.diag(guess).tolist() == [0.0] * 5, "an item at its own step is the reference order"
    assert found.places == [0, 1, 2, 3, 4]
    assert true.estimator == "retrain"
    assert "has been retrained" in true.note
    moved = mapped.context.readouts.get("item:2").value(mapped.retrain("move:2,0").theta)
    assert true.maps.effects["own"][2][0] == pytest.approx(moved - true.reference_losses["own"][2])
    near = mapped.context.readouts.get(f"probe:{found.probe_groups.near[2]}of2")
    truth = near.value(mapped.retrain("without:2").theta) - mapped.context.readouts.at_reference(near)
    assert true.maps.absence["near"][2] == pytest.approx(truth)


def test_intervals_and_comparison_come_from_retrained_cells(mapped: fut.Run) -> None:
    plain = mapped.memorize(groups=2)
    assert plain.maps.half_widths is None
    assert "fut memorize RUN --calibrate 16" in plain.note
    assert plain.checked == {}
    found = mapped.memorize(groups=2, calibrate=8, verify=8, seed=3)
    assert found.maps.half_widths is not None
    assert found.maps.absence_half_widths is not None
    assert "calibrated on 8 retrained cells and 4 orders without an item" in found.note
    assert "absent own" not in found.checked, "the one item left is too little to compare"
    assert len(found.checked["own"].cells) == 8
    assert found.checked["own"].measures["spearman"] > 0.95
    slope = found.fits["own"].slope if found.fits else 0.0
    assert np.array(found.maps.effects["own"]) == pytest.approx(slope * np.array(plain.maps.effects["own"]))
    again = Memorization.from_dict(read_json(answers(mapped)[0]))
    assert again.question == "memorization"
    kept = [Memorization.from_dict(read_json(path)) for path in answers(mapped)]
    assert found.as_dict() in [k.as_dict() for k in kept]


def test_items_of_a_step_and_items_shown_twice(make_run: MakeRun) -> None:
    steps = {"data": {"items": 6, "per_step": 2, "batch": 2}, **SHARP}
    run = make_run(cached=False, **steps)
    found = run.memorize(items=[1, 4], groups=2)
    assert np.shape(found.maps.effects["own"]) == (2, 3)
    assert found.places == [0, 2]
    truth = run.retrain(with_item_at(run.reference, 1, 2)).theta
    assert found.maps.effects["own"][0][2] == pytest.approx(
        run.context.readouts.get("item:1").value(truth) - found.reference_losses["own"][0], rel=0.15
    )
    twice = make_run(cached=False, **{"data": {"items": 4, "epochs": 2}, **SHARP})
    first, last = twice.memorize(groups=2, showing=0), twice.memorize(groups=2)
    assert first.places == [0, 1, 2, 3]
    assert last.places == [4, 5, 6, 7]
    with pytest.raises(OrderError, match="which it shows 2 times"):
        twice.memorize(groups=2, showing=2)


def test_the_runs_own_expansion_serves_where_it_was_swept_for_all(make_run: MakeRun) -> None:
    run = make_run(cached=False, adjoint={"readouts": ["probe", "items", "groups:2"]})
    run.cache(["adjoint"])
    found = run.memorize(items=[3], groups=2)
    assert not (run.path / "memorization").exists()
    single = run.estimate(["move:3,0"], "adjoint", known=False, readout="item:3")[0]
    assert found.maps.effects["own"][0][0] == pytest.approx(single.delta, rel=1e-9)


@pytest.mark.parametrize(("centre", "coarsely"), [("mixture", 5 * 6 / 2), ("ensemble", 5 * 6 * 4 / 2)])
def test_coarse_read_outs_are_swept_as_functionals_are(make_run: MakeRun, centre: str, coarsely: float) -> None:
    adjoint = {"trajectory": centre, "readouts": ["probe", "items"], "functionals": 0}
    fine, coarse = (
        open_expansion(make_run(cached=False, adjoint=adjoint | {"num_exact_readouts": n}).context) for n in (0, 1)
    )
    saved = EXPANSION.cost(fine.spec).gradients - EXPANSION.cost(coarse.spec).gradients
    assert saved == 5 * 5 * 4 - coarsely, "five items' products over five steps; a sample of two for each of four runs"
    theta, u = fine.problem.objective.start(), torch.eye(3, fine.problem.objective.size)
    exact, near = (pooled_products(e.problem, e.spec.config, 1, theta[None], u, e.spec.fine) for e in (fine, coarse))
    assert torch.equal(exact[0], near[0]), "the first is swept as it was"
    size = small_size(fine.problem)
    batch = balanced_samples(fine.problem.data.items, size, size, [0, 17])
    rest = hessian_vectors_one_sided(fine.problem.objective, theta, batch, u[1:])
    assert torch.equal(near[1:], torch.stack(rest))
    assert EXPANSION.cost(coarse.spec).scratch < EXPANSION.cost(fine.spec).scratch


def test_coarse_read_outs_have_no_table_of_positions(make_run: MakeRun) -> None:
    run = make_run(cached=False, adjoint={"readouts": ["probe", "item:1"], "num_exact_readouts": 1})
    run.cache(["adjoint"])
    assert run.orders.positions().shape == (5, 5)
    assert run.estimate(["reverse"], "adjoint", readout="item:1")[0].delta != 0
    with pytest.raises(NotCachedError, match=r"exact adjoint pass, got `item:1`.* set adjoint\.num_exact_readouts=0"):
        run.orders.positions("item:1")


def test_the_cost_is_said_before_and_nothing_is_swept_twice(make_run: MakeRun, cli: Cli, tmp_path: Path) -> None:
    path = Path(shutil.copytree(make_run(cached=False).path, tmp_path / "own"))
    run = fut.open(path, device="cpu")
    resolved = planned(run, groups=2)
    plan = pass_of(resolved, question_context(run.context))
    assert plan is not None
    wanted = EXPANSION.cost(expansion_for(run.context, resolved.shared, resolved.items).spec).gradients
    assert plan.gradients == wanted > 0
    said = cli("memorize", path, "--groups", 2, "--verify", 6, "--device", "cpu")
    assert said.status == 0, said.err
    assert f"one adjoint pass for 8 read-outs: {plan.gradients:,} gradients" in said.err
    assert "25 cells and 5 orders without an item are estimated; at most 9 orders are retrained" in said.err
    assert "without the item" in said.out
    assert "heatmap error" in said.out
    assert (path / "answers" / "memorization.png").stat().st_size > 1000
    assert pass_of(resolved, question_context(run.context)) is None
    again = cli("memorize", path, "--groups", 2, "--items", "0,3", "--json", "--plot", tmp_path / "map.png")
    assert again.err == ""
    assert again.json["items"] == [0, 3]
    assert again.json["question"] == "memorization"
    assert (tmp_path / "map.png").exists()
    assert json.loads((path / "answers").glob("memorization-*.json").__next__().read_text())["steps"] == 5
    with pytest.raises(IdentityError, match="remove the directory to compute it anew"):
        run.memorize(groups=3)


def test_damage_of_the_sweep_is_found_and_mended(mapped: fut.Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(mapped.path, tmp_path / "own"))
    run = fut.open(path, device="cpu")
    before = run.memorize(groups=2)
    assert check_path(path) == []
    chunk = next(
        p
        for p in sorted((path / "memorization" / "terms" / "arrays" / "weight").rglob("*"))
        if p.is_file() and "json" not in p.name
    )
    flip(chunk, chunk.stat().st_size // 2)
    assert len(check_path(path)) == 1
    assert run.methods.repair() >= 1
    assert run.memorize(groups=2).maps.effects == before.maps.effects


def test_questions_that_cannot_be_answered_are_refused(mapped: fut.Run, cli: Cli) -> None:
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"items": [9]}, "expected different items of 0..4, got 9"),
        ({"items": [1, 1]}, "expected different items"),
        ({"items": []}, "got none"),
        ({"groups": 0}, "at least 1 group"),
        ({"verify": 2}, "0 or at least 3 cells"),
        ({"verify": 15, "calibrate": 6}, "expected at most 20 cells"),
        ({"estimator": "magic"}, "expected one of reference"),
        ({"estimator": "reweighting"}, "expected estimators of orders that move items"),
    ]
    for wrong, said in refusals:
        with pytest.raises(UsageError, match=said):
            mapped.memorize(**{"groups": 2, **wrong})
    with pytest.raises(UsageError, match="at most 4 groups"):
        mapped.memorize(groups=5, estimator="retrain")
    assert cli("memorize", mapped.path, "--items", "1,x").status == 2
    assert "expected whole numbers from 0 like 0,3,7" in cli("memorize", mapped.path, "--items", "1,x").err
    assert "got 7" in cli("memorize", mapped.path, "--items", "7", "--groups", 2).err


def test_many_items_are_thinned_evenly_unless_named(mapped: fut.Run) -> None:
    assert planned(mapped, most=3, groups=2).items == (0, 2, 4)
    assert planned(mapped, items=[4, 1], most=1, groups=2).items == (4, 1)


def test_another_estimator_is_asked_read_out_by_read_out(small_run: fut.Run) -> None:
    found = small_run.memorize(items=[1], groups=2, estimator="replay")
    single = small_run.estimate(["move:1,3"], "replay", known=False, readout="item:1")[0]
    assert found.maps.effects["own"][0][3] == pytest.approx(single.delta)
    assert found.estimator == "replay"


def test_items_that_are_numbers_have_maps_too(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(9, 6, 3, generator=draw)
    data = Dataset(tuple((x[i], x[i].sum(-1)) for i in range(6)), tuple((x[i], x[i].sum(-1)) for i in range(6, 9)))
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    config = fut.load_config(data={"items": 6}, warmup={"steps": 0}, schedule={"rate": 1e-2})

    def loss(m: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (m(x).squeeze(-1) - y).square().mean()

    run = fut.train(tmp_path / "run", config, module=module, loss=loss, data=data, device="cpu")
    found = run.memorize(groups=3, verify=8)
    assert found.checked["own"].measures["spearman"] > 0.9
    assert found.probe_groups.groups[0] != []


def test_equal_items_may_change_places_for_nothing(tmp_path: Path) -> None:
    config = small_config()
    data = build_dataset(config)
    twins = Dataset((data.items[0], data.items[0], *data.items[2:]), data.probe, data.warmup)
    run = fut.train(tmp_path / "run", config, data=twins, device="cpu")
    found = run.memorize(groups=2)
    assert found.maps.effects["own"][0][:2] == [0.0, 0.0]
    assert found.maps.effects["own"][0] == found.maps.effects["own"][1]


def test_the_script_writes_a_line_per_cell_and_per_step(mapped: fut.Run, tmp_path: Path) -> None:
    root = Path(fut.__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            root / "scripts" / "memorization_analysis.py",
            mapped.path,
            "--groups",
            "2",
            "--out",
            tmp_path,
        ],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--calibrate" in done.stdout
    cells = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    found = mapped.memorize(groups=2)
    assert len(cells) == 25
    assert float(cells[7]["own"]) == found.maps.effects["own"][1][2]
    assert cells[7]["own_half_width"] == ""
    steps = list(csv.DictReader((tmp_path / "steps.csv").read_text().splitlines()))
    assert [float(row["loss_against_never_seen"]) for row in steps] == found.forgetting["mean"][::-1]


def test_scratch_that_a_kill_left_half_removed_goes_with_the_next_question(make_run: MakeRun, tmp_path: Path) -> None:
    path = Path(shutil.copytree(make_run().path, tmp_path / "run", ignore=ASKED))
    run = fut.open(path, device="cpu")
    first = run.memorize(items=[0, 1], groups=2)
    left = path / "memorization" / "discarded" / "centre"
    left.mkdir(parents=True)
    (left / "step-000000.h5").write_text("half")
    assert run.memorize(items=[0, 1], groups=2).maps.effects == first.maps.effects
    assert not left.parent.exists()
