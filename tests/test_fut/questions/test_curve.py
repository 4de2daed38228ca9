"""A read-out over the steps of an order: estimated, calibrated and compared with retraining, by both doors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from small import ASKED, Cli, MakeRun

import fut
from estimators.errors import OrderError
from fut.errors import NotCachedError
from fut.estimation.curve import Curve
from fut.questions.accuracy.curve import CurveVerification
from fut.questions.estimate import EstimateRequest

CPU = ("--device", "cpu")
SECTIONS: dict[str, dict[str, Any]] = {"data": {"items": 8}, "adjoint": {"functionals": 0}}


@pytest.fixture(scope="module")
def curved(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a curve, made by the command line's way, calibrated at all steps. Shared: read only."""
    path = Path(shutil.copytree(make_run(**SECTIONS).path, tmp_path_factory.mktemp("curve") / "run", ignore=ASKED))
    run = fut.open(path, device="cpu")
    run.cache(readouts=["probe", "probe@3", "probe@6"])
    run.calibrate(5, curve=True)
    return path


def test_a_curve_is_an_estimate_per_step_with_its_interval(curved: Path) -> None:
    run = fut.open(curved, device="cpu")
    curve = run.estimate(["random:7"], curve=True)
    assert isinstance(curve, Curve)
    assert curve.steps == [3, 6, 8]
    alone = [run.estimate(["random:7"], readout=name)[0] for name in ("probe@3", "probe@6", "probe")]
    assert [e.value for e in curve] == [e.value for e in alone]
    assert all(e.interval is not None and e.interval[0] < e.value < e.interval[1] for e in curve)
    losses = [run.context.problem.probe_loss(run.context.state(step).theta) for step in curve.steps]
    assert curve.reference == pytest.approx(losses)
    assert [row["step"] for row in curve.rows()] == curve.steps
    assert curve.as_dict()["curve"][0]["value"] == curve[0].value
    assert "step" in repr(curve)


def test_the_truth_of_a_curve_is_one_training(curved: Path, tmp_path: Path) -> None:
    run = fut.open(shutil.copytree(curved, tmp_path / "run"), device="cpu")
    true = run.estimate(["reverse"], "retrain", curve=[2, 5])
    assert isinstance(true, Curve)
    assert true.steps == [2, 5, 8]
    for step, found in zip(true.steps, true, strict=True):
        assert found.value == run.context.retrain(run.order("reverse").first(step)).loss
    beside = run.estimate(["reverse"], "adjoint", curve=True)
    assert [e.truth for e in beside] == [None, None, true[-1].value], "only where retraining was asked for"
    run.estimate(["reverse"], "retrain", curve=True)
    known = run.estimate(["reverse"], curve=True)
    assert all(e.source == "retrained" for e in known)


def test_orders_that_begin_alike_have_curves_that_begin_alike(curved: Path) -> None:
    run = fut.open(curved, device="cpu")
    first, second = (run.estimate([order], "adjoint", curve=True) for order in ("swap:6,7", "identity"))
    assert [e.delta for e in first][:2] == [0.0, 0.0]
    assert "reference order does" in first[0].note
    assert first[2].delta != 0.0
    assert [e.delta for e in second] == [0.0] * 3


def test_verify_compares_after_every_step_with_orders_trained_once(curved: Path, tmp_path: Path) -> None:
    run = fut.open(shutil.copytree(curved, tmp_path / "run"), device="cpu")
    trained = len(list((run.path / "retrained").iterdir()))
    found = run.verify(4, estimators=["adjoint"], curve=True)
    assert isinstance(found, CurveVerification)
    assert list(found.steps) == [3, 6, 8]
    assert len(list((run.path / "retrained").iterdir())) == trained + 4 * 3
    for step, of in found.steps.items():
        orders = [run.order(listed).first(step) for listed in of.orders]
        assert of.true_losses == [run.context.retrain(order).loss for order in orders]
        assert of.estimators["adjoint"]["coverage"] is not None
    assert [row["step"] for row in found.rows()] == [3, 3, 6, 6, 8, 8]
    assert CurveVerification.from_dict(found.as_dict()).as_dict() == found.as_dict()


def test_the_command_line_says_the_same(curved: Path, cli: Cli, tmp_path: Path) -> None:
    path = Path(shutil.copytree(curved, tmp_path / "run"))
    said = cli("estimate", path, "--order", "random:7", "--curve", "--json", *CPU)
    assert said.status == 0, said.err
    curve = fut.open(path, device="cpu").ask(EstimateRequest(["random:7"], curve=True))
    assert isinstance(curve, Curve)
    assert said.json == curve.as_dict()
    text = cli("estimate", path, "--order", "random:7", "--curve", *CPU).out
    assert [line.split()[0] for line in text.splitlines()[1:5]] == ["step", "3", "6", "8"]
    said = cli("verify", path, "--orders", 3, "--estimators", "adjoint", "--curve", *CPU)
    assert said.status == 0, said.err
    assert (path / "verification" / "orders-3-seed-0-curve.png").exists()
    assert "after 8 steps" in said.out


def test_caching_adds_the_steps(make_run: MakeRun, cli: Cli, tmp_path: Path) -> None:
    source = make_run(False, **SECTIONS).path
    path = Path(shutil.copytree(source, tmp_path / "run", ignore=ASKED))
    with pytest.raises(NotCachedError, match="--curve-steps 4"):
        fut.open(path, device="cpu").estimate(["reverse"], curve=True)
    assert cli("cache", path, "--curve-steps", "2,4", *CPU).status == 0
    assert fut.open(path, device="cpu").info()["readouts"] == ["probe", "probe@2", "probe@4"]
    assert cli("cache", path, "--curve-steps", "6", *CPU).status == 0
    assert cli("cache", path, "--readouts", "item:1", "--curve-steps", "6", *CPU).status == 0
    run = fut.open(path, device="cpu")
    assert run.info()["readouts"] == ["probe", "probe@2", "probe@4", "probe@6", "item:1", "item:1@6"]
    curve = run.estimate(["reverse"], curve=True, readout="item:1")
    assert isinstance(curve, Curve)
    assert curve.steps == [6, 8]
    said = cli("cache", path, "--curve-steps", "9", *CPU)
    assert (said.status, "from 1 to 8" in said.err) == (2, True)
    said = cli("cache", path, "--curve-steps", "0", *CPU)
    assert (said.status, "probe@STEP" in said.err) == (2, True)


def test_a_curve_is_of_one_order(curved: Path) -> None:
    with pytest.raises(OrderError, match="one order for a curve, got 2"):
        fut.open(curved, device="cpu").estimate(["reverse", "identity"], curve=True)
