"""Read-outs that are added to an expansion: swept alone, about its trajectory; what there is stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import shared
from small import Cli, flip, small_config

import fut
from fut.methods.adjoint.identity import added_expansions, open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.stages import Request, build
from fut.models import autodiff as derivatives
from fut.progress import silent

DOUBLE: dict[str, Any] = {"model": {"dtype": "float64"}}
ORDERS = ["reverse", "random:3", "without:2"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose expansion is for the probe loss alone, calibrated. Shared: copied."""
    run = shared(tmp_path_factory.mktemp("first") / "run", small_config(**DOUBLE), cached=False)
    run.cache()
    run.calibrate(4)
    return run.path


@pytest.fixture
def own(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "own"))


def files(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a directory: when it was written, and what it says."""
    found = [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): (p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def deltas(run: fut.Run, readout: str, **options: Any) -> np.ndarray:
    return np.array(
        [e.delta for e in run.estimate(ORDERS, "adjoint", known=False, calibrated=False, readout=readout, **options)]
    )


def counted(patch: pytest.MonkeyPatch, run: fut.Run) -> list[float]:
    """Gradients that are taken from now on, in items."""
    calls: list[float] = []
    batch = run.context.config.data.batch

    def counting(form: Any, times: int) -> Any:
        def call(objective: Any, theta: Any, item: Any, *rest: Any) -> Any:
            calls.append(times * min(1.0, len(item[0]) / batch))
            return form(objective, theta, item, *rest)

        return call

    for name, times in (("gradient", 1), ("gradient_and_loss", 1), ("hessian_vector", 2)):
        patch.setattr(derivatives, name, counting(getattr(derivatives, name), times))
    return calls


def test_an_added_read_out_has_what_a_joint_adjoint_pass_gives_it(own: Path, tmp_path: Path) -> None:
    run = fut.open(own, device="cpu")
    run.cache(readouts=["item:3", "accuracy"])
    joint = shared(tmp_path / "joint", small_config(**DOUBLE), cached=False)
    joint.cache(readouts=["probe", "item:3", "accuracy"])
    for readout in ("item:3", "accuracy"):
        found, expected = deltas(run, readout), deltas(joint, readout)
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max(), readout
        assert np.abs(expected).max() > 0
        ours, theirs = (r.orders.positions(readout) for r in (run, joint))
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-9 * np.abs(theirs).max())
    assert np.array_equal(deltas(run, "probe"), deltas(joint, "probe"))


def test_it_costs_its_own_sweep_alone_and_touches_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fut.open(own, device="cpu")
    before, stages = files(own), list[str]()
    plan = run.methods.plan_cache(readouts=["item:3"])
    stored = EXPANSION.opened(run.context)[0].spec
    everything = EXPANSION.cost(stored).gradients
    taken = stored.trajectory.gradients + len(stored.anchors) * run.items
    assert plan.terms == ["adjoint of item:3"]
    assert 0 < plan.gradients <= everything - taken, "neither its runs nor the items' gradients"
    (calls, new) = counted(monkeypatch, run), EXPANSION.opened(run.context, Request(readouts=["item:3"]))[-1]
    new.directory.mkdir()
    build(EXPANSION, new)
    assert sum(calls) == plan.gradients == EXPANSION.cost(new.spec).gradients
    monkeypatch.undo()
    shutil.rmtree(new.directory)
    run.context.progress = lambda label, total: (stages.append(label), silent(label, total))[1]
    run.cache(readouts=["item:3"])
    assert "trajectory" not in stages
    assert stages.count("backward pass") == 1
    after = files(own)
    assert [name for name in before if after[name][1] != before[name][1] and name != "lock"] == []
    written = [name for name in before if after[name][0] != before[name][0]]
    assert {Path(name).name for name in written} <= {"lock", "manifest.json"}, "no number is written again"
    assert run.methods.plan_cache(readouts=["item:3", "probe"]).blocks == 0
    assert run.estimate(["random:5"])[0].interval is not None, "the calibration of the probe loss still holds"


def test_read_outs_are_added_one_after_the_other_and_listed(own: Path, cli: Cli) -> None:
    run = fut.open(own, device="cpu")
    for readout in ("item:3", "item:1"):
        assert cli("cache", own, "--terms", "adjoint", "--readouts", readout, "--device", "cpu").status == 0
    assert run.info()["readouts"] == ["probe", "item:3", "item:1"]
    assert [place.directory.name for place in added_expansions(run.context)] == [
        "adjoint-added-001",
        "adjoint-added-002",
    ]
    changes = run.whatif(edits=["swap:0,1"], readouts=["probe", "item:3", "item:1"], known=False)
    assert [row["readout"] for row in changes.rows()] == ["probe", "item:3", "item:1"]
    assert run.verify(3, estimators=["adjoint"], readout="item:3").readout == "item:3"
    run.calibrate(4, readout="item:3")
    assert run.estimate(["random:5"], readout="item:3")[0].interval is not None
    assert run.report(own / "report.html", samples=2).nbytes > 0


def test_killed_while_it_is_added_it_goes_on_where_it_stopped(own: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stopping(label: str, total: int) -> Any:
        if label == "tables":
            raise StoppedError
        return silent(label, total)

    whole = fut.open(shutil.copytree(own, tmp_path / "whole"), device="cpu")
    whole.cache(readouts=["item:3"])
    run = fut.open(own, device="cpu", progress=stopping)
    with pytest.raises(StoppedError):
        run.cache(readouts=["item:3"])
    again = fut.open(own, device="cpu")
    with pytest.raises(fut.NotCachedError, match="blocks missing; run `fut cache RUN --terms adjoint`"):
        again.estimate(["reverse"], readout="item:3")
    assert again.info()["readouts"] == ["probe"]
    again.cache()
    assert np.array_equal(deltas(again, "item:3"), deltas(whole, "item:3"))
    assert not (own / "adjoint-added-001" / "scratch").exists()
    assert again.check() == []


def test_a_damaged_added_table_is_found_and_computed_again(own: Path, cli: Cli) -> None:
    run = fut.open(own, device="cpu")
    run.cache(readouts=["item:3"])
    expected = deltas(run, "item:3")
    chunk = next(p for p in (own / "adjoint-added-001/terms/arrays/weight/c").rglob("*") if p.is_file())
    flip(chunk, 60)
    assert cli("check", own).status == 1
    assert cli("cache", own, "--device", "cpu", "--json").json["repaired"] == 1
    assert np.array_equal(deltas(fut.open(own, device="cpu"), "item:3"), expected)
    assert cli("check", own).status == 0


def test_a_trajectory_that_was_removed_is_taken_again(own: Path, tmp_path: Path) -> None:
    whole = fut.open(shutil.copytree(own, tmp_path / "whole"), device="cpu")
    whole.cache(readouts=["item:3"])
    shutil.rmtree(own / "adjoint" / "trajectory")
    run = fut.open(own, device="cpu")
    more = run.methods.plan_cache(readouts=["item:3"]).gradients
    run.cache(readouts=["item:3"])
    about, (added,) = open_expansion(run.context).spec.trajectory, added_expansions(run.context)
    assert more == about.gradients + EXPANSION.cost(added.spec).gradients
    assert np.array_equal(deltas(run, "item:3"), deltas(whole, "item:3"))


def test_a_sample_of_coordinates_is_drawn_for_the_added_read_out(tmp_path: Path) -> None:
    few = small_config(**DOUBLE, adjoint={"coordinates": 900})
    run = fut.train(tmp_path / "run", few, device="cpu")
    run.cache()
    before = open_expansion(run.context).indices.clone()
    run.cache(readouts=["item:3"])
    (added,) = added_expansions(run.context)
    assert added.indices.tolist() != before.tolist()
    assert open_expansion(run.context).indices.tolist() == before.tolist()
    exact = shared(tmp_path / "exact", small_config(**DOUBLE), cached=False)
    exact.cache(readouts=["probe", "item:3"])
    found, expected = deltas(run, "item:3"), deltas(exact, "item:3")
    assert np.abs(found - expected).max() < 0.5 * np.abs(expected).max()


def test_an_unfinished_expansion_is_finished_first(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)

    def stopping(label: str, total: int) -> Any:
        if label == "tables":
            raise KeyboardInterrupt
        return silent(label, total)

    run.context.progress = stopping
    with pytest.raises(KeyboardInterrupt):
        run.cache()
    with pytest.raises(fut.NotCachedError, match=r"repeat `fut cache RUN --terms adjoint` .* first"):
        fut.open(run.path, device="cpu").cache(readouts=["item:1"])


def test_what_was_begun_about_another_trajectory_is_not_mixed(own: Path) -> None:
    def stopping(label: str, total: int) -> Any:
        if label == "tables":
            raise KeyboardInterrupt
        return silent(label, total)

    with pytest.raises(KeyboardInterrupt):
        fut.open(own, device="cpu", progress=stopping).cache(readouts=["item:3"])
    shutil.rmtree(own / "adjoint")
    run = fut.open(own, device="cpu")
    run.cache("adjoint", adjoint=run.context.config.adjoint.model_copy(update={"num_runs": 2}))
    with pytest.raises(fut.IdentityError, match=r"adjoint\.num_runs as in .*adjoint-added-001"):
        run.cache()
