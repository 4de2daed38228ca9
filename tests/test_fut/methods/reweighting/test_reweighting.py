"""The reweighting estimator on a run: against finite differences of real retraining, sampled, resumed, and refused."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import shared
from small import Cli, MakeRun, flip, small_config

import fut
from estimators.errors import OrderError
from estimators.orders.order import Order
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.errors import NotCachedError, ResourceError, UsageError
from fut.methods.reweighting.terms import open_reweighting
from storage import IdentityError

SEQUENCES: dict[str, Any] = {"data": {"items": 12, "per_step": 4, "batch": 1}}
EPOCHS: dict[str, Any] = {"data": {"items": 6, "per_step": 3, "batch": 1, "epochs": 2}}
EXACT: dict[str, Any] = {
    "model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"},
    "reweighting": {"products": "exact"},
    "schedule": {"rate": 1e-2},
}
ADAMW: dict[str, Any] = {"name": "adamw", "options": {"betas": [0.9, 0.95], "eps": 1e-4, "weight_decay": 0.1}}
RULES = {
    "adamw": ADAMW,
    "adamw clipped": {"name": "adamw", "options": ADAMW["options"] | {"clip": 0.5}},
    "momentum": {"name": "momentum", "options": {"beta": 0.9}},
    "momentum clipped": {"name": "momentum", "options": {"beta": 0.9, "clip": 0.5}},
}


def made(make_run: MakeRun, **sections: Any) -> fut.Run:
    run = make_run(cached=False, **sections)
    run.cache(["reweighting"])
    return run


def weighted(run: fut.Run, step: int, item: int, weight: float) -> Order:
    entries = [
        [(i, weight if (t, i) == (step, item) else w) for i, w in s] for t, s in enumerate(run.reference.entries)
    ]
    return Order.of_entries(entries)


@pytest.mark.parametrize("rule", RULES)
def test_attributions_are_derivatives_of_real_retraining(make_run: MakeRun, rule: str) -> None:
    run = made(make_run, **SEQUENCES, **EXACT, rule=RULES[rule])
    found, h = run.methods.attributions(), 1e-4
    norms = [
        run.context.problem.mean_gradient(run.context.state(t).theta, s, [0.25] * 4).norm()
        for t, s in enumerate(run.reference.steps)
    ]
    assert "clipped" not in rule or min(norms) > 0.5, "clipping must be active to be tested"
    assert found.shape == (3, 4)
    assert np.abs(found.sum(axis=1)).max() < 1e-12
    for t, j in [(0, 0), (0, 3), (1, 2), (2, 1)]:
        up, down = (run.retrain(weighted(run, t, 4 * t + j, 1 + sign * h)).loss for sign in (1, -1))
        assert found[t, j] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-4 * np.abs(found).max())


@pytest.mark.parametrize("rule", ["adamw", "adamw clipped"])
@pytest.mark.parametrize("reading", ["replayed", "linear"])
def test_readings_are_the_attributions_to_first_order(make_run: MakeRun, rule: str, reading: str) -> None:
    run, h = made(make_run, **SEQUENCES, **EXACT, rule=RULES[rule]), 1e-5
    up, down = (
        run.estimate([weighted(run, 0, 2, 1 + s * h)], "reweighting", known=False, reading=reading)[0] for s in (1, -1)
    )
    assert (up.value - down.value) / (2 * h) == pytest.approx(run.methods.attributions()[0, 2], rel=1e-5)


def test_leaving_out_is_estimated_near_its_truth(make_run: MakeRun) -> None:
    run = made(make_run, **SEQUENCES, **EXACT, rule=ADAMW)
    for order in ("without:1", "without:3,6,11", "without:0,1,2,3"):
        truth = run.retrain(order).loss - run.reference_loss
        found = run.estimate([order], "reweighting", known=False)[0].delta
        assert found == pytest.approx(truth, rel=0.3)


@pytest.mark.parametrize("reading", ["replayed", "linear"])
@pytest.mark.parametrize("coordinates", [0, 900])
@pytest.mark.parametrize("data", [SEQUENCES["data"], {"items": 5}], ids=["several", "one"])
def test_identity_is_bitwise_and_batches_do_not_matter(
    make_run: MakeRun, reading: str, coordinates: int, data: dict[str, Any]
) -> None:
    rule = {"name": "adamw", "options": {"clip": 0.5}}
    run = made(make_run, data=data, rule=rule, reweighting={"coordinates": coordinates})
    orders = ["identity", "without:3", "without:0,1,2,3", "without:1,4"]
    alone = [run.estimate([o], "reweighting", known=False, reading=reading)[0].value for o in orders]
    assert alone[0] == run.reference_loss
    assert len(set(alone)) == len(orders)
    assert [e.value for e in run.estimate(orders, "reweighting", known=False, reading=reading)] == alone
    scaled = Order.of([{"items": s, "weights": [3] * len(s)} for s in run.reference.steps])
    assert run.estimate([scaled], "reweighting", known=False, reading=reading)[0].value == run.reference_loss


def test_equal_items_take_each_others_place(tmp_path: Path) -> None:
    config = small_config(data={"items": 6, "per_step": 3, "batch": 1})
    data = build_dataset(config)
    items = list(data.items)
    items[2], items[5] = items[0], items[0]
    run = fut.train(tmp_path / "run", config, data=Dataset(tuple(items), data.probe, data.warmup), device="cpu")
    run.cache(["reweighting"])
    swapped, *others = run.estimate([[[5, 1, 2], [3, 4, 0]], "without:0", "without:2"], "reweighting", known=False)
    assert swapped.delta == 0.0
    assert others[0].value != run.reference_loss
    same = run.estimate([[[1, 2], [3, 4, 5]], [[0, 1], [3, 4, 5]]], "reweighting", known=False)
    assert same[0].value == same[1].value == others[1].value


def test_several_readouts_are_their_own_sweeps(tmp_path: Path, make_run: MakeRun) -> None:
    run = made(make_run, **SEQUENCES, **EXACT, rule=ADAMW)
    path = Path(shutil.copytree(run.path, tmp_path / "own"))
    shutil.rmtree(path / "reweighting")
    both = fut.open(path, device="cpu")
    both.cache(["reweighting"], readouts=["probe", "item:3"])
    assert both.methods.attributions() == pytest.approx(run.methods.attributions(), rel=1e-9, abs=1e-15)
    up, down = (
        both.context.readouts.truth(both.context.readouts.get("item:3"), both.retrain(weighted(both, 1, 5, 1 + h)))
        for h in (1e-4, -1e-4)
    )
    assert both.methods.attributions("item:3")[1, 1] == pytest.approx((up - down) / 2e-4, rel=1e-4)
    assert both.estimate(["identity"], "reweighting", known=False, readout="item:3")[0].delta == 0.0
    with pytest.raises(NotCachedError, match=r"computed for the read-out `item:1`, got one for probe, item:3; remove"):
        both.estimate(["identity"], "reweighting", readout="item:1", known=False)
    with pytest.raises(IdentityError, match="remove the directory"):
        both.cache(["reweighting"], readouts=["item:1"])


def test_an_item_is_left_out_of_every_epoch(make_run: MakeRun) -> None:
    run = made(make_run, **EPOCHS, **EXACT, rule=ADAMW)
    assert run.methods.attributions().shape == (4, 3)
    truth, found = (run.estimate(["without:4"], name, known=False)[0].delta for name in ("retrain", "reweighting"))
    first = Order.of([[0, 1, 2], [3, 5], [0, 1, 2], [3, 4, 5]])
    assert found == pytest.approx(truth, rel=0.3)
    assert run.estimate([first], "reweighting", known=False)[0].delta != found


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> Any:
    """Stops at the given number of item-gradient passes."""
    from fut.training.problem import Problem

    calls, real = [0], Problem.item_gradients

    def counted(self: Any, *arguments: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > after:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as m:
        m.setattr(Problem, "item_gradients", counted)
        yield


@pytest.mark.parametrize("coordinates", [0, 900])
def test_an_interrupted_build_resumes_to_the_same_terms(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, coordinates: int
) -> None:
    sections = SEQUENCES | {"reweighting": {"coordinates": coordinates}}
    whole = made(make_run, **sections)
    path = Path(shutil.copytree(whole.path, tmp_path / "own"))
    shutil.rmtree(path / "reweighting")
    run = fut.open(path, device="cpu")
    for after in (1, 1, 2):
        with interrupted(monkeypatch, after), pytest.raises(KeyboardInterrupt):
            run.cache(["reweighting"])
        with pytest.raises(NotCachedError, match=r"interrupted or repaired; run|got none"):
            run.estimate(["without:1"], "reweighting", known=False)
        run = fut.open(path, device="cpu")
        if coordinates == 0:
            break
    run.cache(["reweighting"])
    assert not (path / "reweighting" / "scratch").exists()
    ours, theirs = open_reweighting(run.context).terms(), open_reweighting(whole.context).terms()
    for spec in theirs.specs:
        for t in range(spec.shape[0]):
            assert np.array_equal(ours.read(spec.name, t), theirs.read(spec.name, t)), (spec.name, t)
    assert (len(open_reweighting(run.context).indices) < run.context.parameters) == bool(coordinates)


def test_a_sample_of_coordinates_errs_in_the_remainder_alone(make_run: MakeRun) -> None:
    whole = made(make_run, **SEQUENCES)
    sampled = made(make_run, **SEQUENCES, reweighting={"coordinates": 900})
    orders = [whole.order(f"without:{i},{11 - i}") for i in range(5)]
    linear, exact = (
        np.array([e.value for e in whole.estimate(orders, "reweighting", known=False, reading=r)])
        for r in ("linear", "replayed")
    )
    estimator = sampled.methods.open("reweighting")
    positions = estimator.final_states(orders)
    found, sd = np.array(estimator.values(positions, 3)), np.sqrt(estimator.variances(positions))
    assert not np.array_equal(found, exact)
    assert (np.abs(found - exact) < 4 * sd).all()
    assert np.abs(found - exact).mean() < np.abs(linear - exact).mean()
    assert sampled.methods.attributions() == pytest.approx(whole.methods.attributions(), rel=1e-4, abs=1e-9)


def test_damage_is_found_and_computed_again(tmp_path: Path, make_run: MakeRun) -> None:
    whole = made(make_run, **SEQUENCES)
    path = Path(shutil.copytree(whole.path, tmp_path / "own"))
    expected = whole.estimate(["without:1"], "reweighting", known=False)[0].value
    for name in ("gradient", "value"):
        chunk = next(p for p in (path / "reweighting/terms/arrays" / name / "c").rglob("*") if p.is_file())
        flip(chunk, chunk.stat().st_size // 2)
    run = fut.open(path, device="cpu")
    assert {name for d in run.check() for name in ("gradient", "value") if name in d.path} == {"gradient", "value"}
    assert run.methods.repair() == 2
    with pytest.raises(NotCachedError, match="interrupted or repaired"):
        run.estimate(["without:1"], "reweighting", known=False)
    run.cache(["reweighting"])
    assert run.estimate(["without:1"], "reweighting", known=False)[0].value == expected
    assert run.check() == []


def test_what_it_cannot_answer_is_refused(make_run: MakeRun) -> None:
    run = made(make_run, **SEQUENCES)
    refusals: list[tuple[Any, str]] = [
        ("swap:0,1", 'got item 4 at step 0; use estimator="adjoint"'),
        ("random:3", 'use estimator="adjoint"'),
        ([[0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11]], "got item 8 at step 1"),
        (Order(run.reference.steps[:2]), "expected orders of 3 steps, got 2"),
    ]
    for order, said in refusals:
        with pytest.raises(OrderError, match=said):
            run.estimate([order], "reweighting", known=False)
    for ask in (lambda: run.calibrate(estimator="reweighting"), lambda: run.verify(4, 0, ["reweighting"])):
        with pytest.raises(UsageError, match="fut lds RUN"):
            ask()
    with pytest.raises(UsageError, match="rebuilds parameters"):
        run.endpoint("without:1", "reweighting")
    with pytest.raises(UsageError, match="reading: expected one of replayed, linear"):
        run.estimate(["without:1"], "reweighting:reading=other", known=False)
    with pytest.raises(NotCachedError, match="fut cache RUN --terms reweighting"):
        make_run(cached=False, data={"seed": 5}).estimate(["without:1"], "reweighting", known=False)
    assert "reweighting" not in run.verify(2, 1).estimators
    found = run.estimate(["without:1"], "reweighting", known=False)[0]
    assert found.interval is None
    assert "fut lds" in found.note


def test_its_configuration_is_no_part_of_the_training(make_run: MakeRun) -> None:
    one, other = small_config(), small_config(reweighting={"coordinates": 7, "products": "exact"})
    assert one.training() == other.training()
    run = made(make_run, **SEQUENCES)
    info = run.info()
    assert info["reweighting_cached"]
    assert info["precompute_gradients"]["reweighting"] == 12 * 3 + len(run.context.problem.data.probe)
    assert info["term_bytes"]["reweighting"] > 0
    assert run.methods.plan_cache(["reweighting"]).blocks == 0


def test_lds_command(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "run"
    run = shared(path, small_config(data={"items": 24, "per_step": 4, "batch": 1}), cached=False)
    with pytest.raises(NotCachedError, match="--terms reweighting"):
        run.lds(4)
    cached = cli("cache", path, "--terms", "reweighting", "--device", "cpu", "--json").json
    assert cached["plan"]["terms"] == ["reweighting"]
    said = cli("lds", path, "--subsets", 12, "--share", 0.2, "--device", "cpu", "--json")
    found = said.json
    assert [len(set(s)) for s in found["subsets"]] == [5] * 12
    assert found["lds"]["reweighting:reading=linear"] > 0.9
    assert found["lds"]["reweighting:reading=replayed"] > 0.9
    assert found["lds"]["reference"] is None
    truth = fut.open(path, device="cpu").retrain(Order.without(run.reference, found["subsets"][3])).loss
    assert found["true_losses"][3] == truth
    text = cli("lds", path, "--subsets", 12, "--share", 0.2, "--device", "cpu")
    assert "LDS" in text.out
    assert "gradients" in text.err
    assert cli("lds", path, "--share", 1.5).status == 2
    other = cli("lds", path, "--subsets", 3, "--readout", "item:2", "--estimators", "retrain", "--json")
    assert (other.status, "expected some of" in other.err) == (2, True)


@pytest.mark.parametrize("coordinates", [0, 300])
def test_gradients_taken_in_chunks_give_the_same_numbers(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coordinates: int
) -> None:
    sections = SEQUENCES | EXACT | {"reweighting": EXACT["reweighting"] | {"coordinates": coordinates}}
    together = made(make_run, **sections)
    spec = open_reweighting(together.context).spec
    once = spec.sweep_gradients
    monkeypatch.setattr("fut.methods.reweighting.spec.HELD_ITEMS", 0)
    monkeypatch.setattr("fut.models.autodiff.GRADIENT_BYTES", 1)
    run = shared(tmp_path / "run", small_config(**sections), cached=False)
    assert spec.sweep_gradients == once + 12, "every item's once more"
    run.cache(["reweighting"])
    ours, theirs = (open_reweighting(r.context) for r in (run, together))
    assert torch.equal(ours.indices, theirs.indices)
    for name in ("value", "gradient", "injection", "weight"):
        found, right = (files.terms().read(name, 1) for files in (ours, theirs))
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-12)
    changed = [r.estimate(["without:5"], "reweighting", known=False)[0].delta for r in (run, together)]
    assert changed[0] == pytest.approx(changed[1], rel=1e-9)
    assert changed[0] != 0


def test_norms_of_gradients_taken_in_chunks_are_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fut.methods.reweighting.spec.HELD_ITEMS", 0)
    clipped = {"rule": {"name": "adamw", "options": {"clip": 1.0}}}
    run = shared(tmp_path / "run", small_config(**SEQUENCES, **clipped), cached=False)
    with pytest.raises(ResourceError, match=r"expected at most .* GiB of item gradients of a step .* got .* GiB"):
        run.cache(["reweighting"])
    assert any("reweighting" in note for note in run.plan().notes)
