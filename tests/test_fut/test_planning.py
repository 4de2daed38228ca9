"""The plan: what stages say they need holds what they take, and what does not fit is refused before it begins."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE
from small import Cli, contents, small_config, uneven_run

import fut
from fut.api import render
from fut.errors import UsageError
from fut.methods import build as fitting
from fut.methods.adjoint import memory as memory_of
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.footprint import Footprint
from fut.methods.pairwise.store import pairwise_config
from fut.methods.reweighting.pipeline import REWEIGHTING_TERMS
from fut.methods.reweighting.terms import open_reweighting
from fut.planning import plan_problem
from fut.resources import memory
from fut.resources.memory import LiveBytes, available_bytes, peak_bytes

LARGER: dict[str, Any] = {
    "data": {"items": 3, "batch": 16, "context": 128, "probe": 16},
    "model": {"width": 128, "layers": 2},
    "warmup": {"steps": 0},
    "adjoint": {"num_runs": 2},
    "lowrank": {"rank": 12, "num_anchors": 1, "refresh": 1},
}
"""Large enough that activations and states outweigh what the libraries load."""

CHILD = """
import contextlib, json, sys
import torch, fut
import fut.cli.app, scipy.stats  # what is loaded where it is needed is no memory of a stage

torch.set_num_threads(1)

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

stage, where, sections = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config = fut.load_config(None, (), **sections)
before = status("VmRSS:")
with contextlib.suppress(OSError):
    open("/proc/self/clear_refs", "w").write("5")
if stage == "train":
    fut.train(where, config, device="cpu")
else:
    run = fut.open(where, device="cpu")
    if stage == "cache":
        run.cache(sys.argv[4].split(","))
    else:
        run.estimate([f"random:{i}" for i in range(int(sys.argv[5]))], sys.argv[4])
print(status("VmHWM:") - before)
"""

Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def larger() -> fut.Plan:
    return fut.plan(fut.load_config(None, (), **LARGER), device="cpu")


@pytest.fixture
def measured(start_python: Started, tmp_path: Path) -> Callable[..., int]:
    """Bytes that a stage's process grows by at its height; the stage runs in a fresh process."""

    def measure(*arguments: object) -> int:
        stage, *rest = arguments
        process = start_python(CHILD, stage, tmp_path / "run", json.dumps(LARGER), *rest)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        return int(out.split()[-1])

    return measure


def test_the_text_says_first_what_the_default_estimator_costs(small_run: fut.Run) -> None:
    plan = small_run.plan()
    lines = render.costs(plan).splitlines()
    count = sum(stage.gradients for stage in plan.stages if stage.stage.startswith("adjoint: "))
    assert count == small_run.info()["precompute_gradients"]["adjoint"]
    assert lines[1].startswith("before the first answer by `adjoint`, the default estimator (`fut cache`): ")
    assert f": {count:,} gradients (those of {count / 5:.1f} retrained orders)" in lines[1]
    assert not any(stage.stage.startswith("terms of") for stage in plan.of_default), (
        "the paper's terms are no part of it"
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_every_stage_stays_below_its_planned_memory(larger: fut.Plan, measured: Callable[..., int]) -> None:
    adjoint = max(s.memory for s in larger.stages if s.stage.startswith("adjoint:"))
    lowrank = max(s.memory for s in larger.stages if s.stage.startswith("lowrank:"))
    cases = [
        (("train",), larger["reference run"].memory),
        (("cache", "adjoint"), adjoint),
        (("cache", "lowrank"), lowrank),
        (("estimate", "lowrank", 1), larger["query: lowrank"].memory),
        (("cache", "update,jvp"), larger["terms of taylor1"].memory),
        (("estimate", "adjoint", 300), larger["1,000 queries: adjoint"].memory),
        (("estimate", "replay-exact", 1), larger["query: replay-exact"].memory),
    ]
    for arguments, planned in cases:
        found = measured(*arguments)
        assert found <= planned <= 4 * found, (arguments, found >> 20, planned >> 20)


def test_live_bytes_are_those_of_storages_alive_at_once() -> None:
    x = torch.zeros(1000)  # lives before: not counted, nor are views of it

    def chain() -> torch.Tensor:
        y = x.view(10, 100) + 1
        y = y * 2  # the old y lives until the product is made
        return y.sum()

    assert 8000 <= peak_bytes(torch.device("cpu"), chain) <= 8016
    with LiveBytes() as live:
        chain()
    assert live.now == 0


def test_the_peak_of_a_gradient_counts_its_activations() -> None:
    w = torch.zeros(10, requires_grad=True)
    wide = torch.zeros(10_000, 10)
    peak = peak_bytes(torch.device("cpu"), lambda: torch.autograd.grad((wide @ w).exp().sum(), w))
    assert 80_000 <= peak <= 250_000


def test_the_plan_agrees_with_the_run_it_plans(small_run: fut.Run) -> None:
    found = small_run.plan()
    expansion = [s for s in found.stages if s.stage.startswith("adjoint:")]
    assert sum(s.gradients for s in expansion) == EXPANSION.cost(open_expansion(small_run.context).spec).gradients
    assert sum(s.kept_bytes for s in expansion) == EXPANSION.cost(open_expansion(small_run.context).spec).kept
    assert sum(s.scratch_bytes for s in expansion) == EXPANSION.cost(open_expansion(small_run.context).spec).scratch
    about = [s for s in found.stages if s.stage.startswith("reweighting")]
    wanted = REWEIGHTING_TERMS.cost(open_reweighting(small_run.context).spec)
    assert (sum(s.gradients for s in about), sum(s.kept_bytes for s in about)) == (wanted.gradients, wanted.kept)
    assert found["one retraining"].gradients == small_run.steps
    assert found["terms of taylor1"].gradients == small_run.info()["precompute_gradients"]["taylor1"]
    assert found["reference run"].gradients == small_run.steps + 4
    assert all(s.seconds >= 0 and s.memory > 0 for s in found.stages)


def test_planning_writes_nothing_and_leaves_the_numbers(own_run: Path, tmp_path: Path, cli: Cli) -> None:
    before, listed = contents(own_run), sorted(own_run.rglob("*"))
    said = cli("plan", own_run, "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert said.err == ""
    keys = {"stage", "gradients", "seconds", "kept_bytes", "scratch_bytes", "host_bytes", "device_bytes"}
    assert all(stage.keys() == keys for stage in said.json["stages"])
    assert contents(own_run) == before
    assert sorted(own_run.rglob("*")) == listed


def test_a_configuration_is_planned_without_a_run(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_config()
    Path("c.toml").write_text(config.toml())
    Path("t.txt").write_text("".join(f"Sentence {i} of a text. " for i in range(900)))
    said = cli("plan", "c.toml", "--text", "t.txt", "--set", "data.items=4", "--device", "cpu")
    assert said.status == 0, said.err
    for word in ("4 steps", "gradients", "scratch", "memory", "an estimate", "adjoint: backward pass", "MiB"):
        assert word in said.out, word
    assert sorted(os.listdir()) == ["c.toml", "t.txt"]


def test_each_way_of_storing_scratch_is_planned(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_config(data={"items": 60}, adjoint={"coordinates": 300, "drawn": "before", "functionals": 0})
    Path("c.toml").write_text(config.toml())
    planned = cli("plan", "--config", "c.toml", "--device", "cpu", "--json").json
    keys = {"stage", "gradients", "seconds", "kept_bytes", "scratch_bytes", "host_bytes", "device_bytes"}
    assert all(stage.keys() == keys for stage in planned["stages"])
    assert sorted(os.listdir()) == ["c.toml"]
    ways = {(way["storage"], way["drawn"]): way for way in planned["strategies"]}
    assert [key for key, way in ways.items() if way["chosen"]] == [("store", "before")]
    stages = [stage for stage in planned["stages"] if stage["stage"].startswith("adjoint: ")]
    for key in ("gradients", "kept_bytes", "scratch_bytes"):
        assert ways["store", "before"][key] == sum(stage[key] for stage in stages), key
    disk = {key: way["kept_bytes"] + way["scratch_bytes"] for key, way in ways.items()}
    assert disk["retrain", "before"] < min(disk["store", "before"], disk["retrain", "after"]) < disk["store", "after"]
    assert ways["retrain", "before"]["gradients"] > ways["store", "before"]["gradients"]
    text = cli("plan", "--config", "c.toml", "--device", "cpu").out
    assert "adjoint in all, by adjoint.storage and adjoint.drawn:" in text
    for arguments in ([], ["c.toml", "--config", "c.toml"]):
        refused = cli("plan", *arguments)
        assert (refused.status, "give one of them" in refused.err) == (2, True)


def test_an_interrupted_run_is_planned(own_run: Path, cli: Cli) -> None:
    (own_run / "summary.json").unlink()
    said = cli("plan", own_run, "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert said.json["steps"] == 5


def test_a_runs_configuration_is_not_overridden(own_run: Path, cli: Cli) -> None:
    said = cli("plan", own_run, "--set", "data.items=3")
    assert said.status == 2
    assert "expected keys of the section `adjoint`" in said.err
    assert "expected --text with a TOML file" in cli("plan", own_run, "--text", "book.txt").err


def test_another_expansion_can_be_planned(own_run: Path, cli: Cli) -> None:
    def centre(*settings: str) -> int:
        stages = json.loads(cli("plan", own_run, "--json", *settings).out)["stages"]
        return int(next(s["gradients"] for s in stages if s["stage"] == "adjoint: trajectory"))

    assert centre("--set", "adjoint.num_runs=3", "--set", "adjoint.pool=1") == 3 * centre("--set", "adjoint.num_runs=1")


def test_of_a_model_with_fewer_numbers_than_a_sketch_all_are_kept(small_run: fut.Run) -> None:
    def kept(**changed: Any) -> int:
        cache = pairwise_config(small_run.context).model_copy(update=changed)
        config = small_run.context.config.model_copy(update={"cache": cache})
        return plan_problem(small_run.context.problem, config)["terms of taylor1"].kept_bytes

    assert kept(size=10**6) == kept(sketch="identity") > kept(size=96)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a mebibyte of memory left."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 20)


@pytest.mark.usefixtures("scarce")
def test_training_is_refused_with_both_numbers_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        fut.ResourceError, match=r"reference run: expected at least 0\.\d+ GiB of memory, got 0\.000977 GiB"
    ):
        fut.train(tmp_path / "run", small_config(), device="cpu")
    assert not (tmp_path / "run").exists()


def test_caching_is_refused_with_what_to_lower(
    make_run: Callable[..., fut.Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run(cached=False, data={"items": 5, "seed": 4})
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 20)
    with pytest.raises(fut.ResourceError, match=r"trajectory: expected .* lower adjoint\.num_runs"):
        run.cache(["adjoint"])
    with pytest.raises(fut.ResourceError, match=r"terms: expected .* lower cache\.item_block"):
        run.cache(["update"])
    assert not (run.path / "adjoint").exists()


def test_loading_tables_is_refused(own_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 16)  # a model fits
    said = cli("estimate", own_run, "--order", "reverse", "--device", "cpu")
    assert said.status == 1
    assert "tables of adjoint: expected at least" in said.err
    assert "lower adjoint.coordinates" in said.err


def test_what_is_available_is_the_least_of_kernel_and_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 7 kB\n")
    cpu = torch.device("cpu")
    assert available_bytes(cpu) == 7 * 1024
    for name, text in (("memory.max", "9000"), ("memory.current", "6000"), ("memory.stat", "file 900\nshmem 100\n")):
        (tmp_path / name).write_text(text)
    assert available_bytes(cpu) == 9000 - 6000 + 800
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(cpu) == 7 * 1024
    (tmp_path / "meminfo").unlink()
    assert (available_bytes(cpu) or 0) > 0


def test_a_refusal_counts_what_is_held_already_once(small_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[int] = []
    monkeypatch.setattr(fitting, "require_memory", lambda stage, nbytes, *rest: needed.append(nbytes))
    fitting.require_training(small_run.context.problem)
    footprint = Footprint(small_run.context.problem)
    assert needed == [footprint.least(), footprint.training() - footprint.resident]


def test_where_memory_is_scarce_larger_gradients_are_scaled_and_not_tried(
    small_run: fut.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    footprint = Footprint(small_run.context.problem)
    one = footprint.gradient
    monkeypatch.setattr("fut.methods.footprint.available_bytes", lambda device: one)
    monkeypatch.setattr("fut.methods.footprint.peak_bytes", lambda device, call: pytest.fail("tried"))
    spec = open_expansion(small_run.context).spec
    compared = spec.trajectory.places_count * spec.rows
    assert memory_of.product(spec, footprint) == 2 * one + (3 + compared) * footprint.vector
    assert footprint.exact_product == 4 * one


@pytest.mark.parametrize(
    ("adjoint", "gone", "why"),
    [
        ({}, {"lowrank"}, "items have 5 shapes"),
        ({"curvature": "items"}, {"lowrank"}, "items have 5 shapes"),
        (
            {"trajectory": "mixture", "num_runs": 50},
            {"adjoint", "lowrank"},
            "expected a mixture of 1..5 items a step, got 50",
        ),
    ],
)
def test_what_these_items_cannot_make_is_left_out_and_said(
    tmp_path: Path, adjoint: dict[str, Any], gone: set[str], why: str
) -> None:
    run = uneven_run(tmp_path / "run")
    found = run.plan(adjoint=run.context.config.adjoint.model_copy(update=adjoint))
    named = {name for name in ("adjoint", "lowrank") if any(name in s.stage for s in found.stages)}
    assert named == {"adjoint", "lowrank"} - gone
    left = [note for note in found.notes if note.startswith("left out")]
    assert len(left) == len(gone)
    assert any(why in note for note in left)


def test_curved_terms_that_items_cannot_make_pin_nothing(tmp_path: Path) -> None:
    run = uneven_run(tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"lowrank: expected items whose first dimension is samples, .* items have 5 shapes"
    ):
        run.cache(["lowrank"])
    assert not (tmp_path / "run" / "lowrank").exists()


@pytest.mark.parametrize("adjoint", [{}, {"rank": 2}, {"num_anchors": 0}, {"coordinates": 600}])
def test_every_planned_stage_of_an_expansion_is_guarded(
    small_run: fut.Run, monkeypatch: pytest.MonkeyPatch, adjoint: dict[str, int]
) -> None:
    needed: dict[str, int] = {}
    monkeypatch.setattr(fitting, "require_memory", lambda stage, nbytes, *rest: needed.update({stage: nbytes}))
    config = small_run.context.config.adjoint.model_copy(update=adjoint)
    footprint = Footprint(small_run.context.problem)
    fitting.require_stages(EXPANSION, AdjointSpec(small_run.context.problem, config), footprint)
    planned = {s.stage: s.memory for s in small_run.plan(config).stages if s.stage.startswith("adjoint: ")}
    assert set(planned) == {f"adjoint: {stage}" for stage in needed}
    assert all(needed[stage.removeprefix("adjoint: ")] == peak - footprint.resident for stage, peak in planned.items())
