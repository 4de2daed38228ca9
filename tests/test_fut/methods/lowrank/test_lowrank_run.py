"""The lowrank estimator on a run: endpoints near the retrained ones, the reference bitwise, resumed, damaged, refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import shared
from safetensors.torch import load_file
from small import Cli, curve, expand, flip, small_config

import fut
from estimators.lowrank import refresh_steps, sensitivity
from fut.api.integrity import check_path
from fut.data.text import build_dataset
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.batching import raw_estimates
from fut.methods.expansion.trajectory import missing_steps, run_trajectory
from fut.methods.lowrank.config import LowRankConfig
from fut.methods.lowrank.estimator import LowRankReplay
from fut.methods.lowrank.pipeline import LOW_RANK_TERMS, low_rank_at
from fut.methods.lowrank.terms import LOW_RANK_KEY, open_low_rank
from storage import DiskFullError, IdentityError

FLOAT64 = {"model": {"width": 4, "layers": 1, "heads": 2, "dtype": "float64"}}
FEW = {"rank": 3, "num_anchors": 2, "refresh": 2}


def trained(path: Path, **sections: dict[str, Any]) -> fut.Run:
    return shared(path, small_config(**({"lowrank": FEW} | sections)), cached=False)


@pytest.fixture(scope="module")
def curved_run(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """Shared: read only, retrained orders aside."""
    run = trained(tmp_path_factory.mktemp("lowrank") / "run")
    run.cache(["lowrank"])
    return run


def terms_of(run: fut.Run) -> dict[str, bytes]:
    store = open_low_rank(run.context).terms()
    return {f"{s.name}/{t}": store.read(s.name, t).tobytes() for s in store.specs for t in range(s.shape[0])}


def test_the_reference_order_is_the_reference_bitwise(curved_run: fut.Run) -> None:
    estimator = curved_run.methods.open("lowrank")
    assert isinstance(estimator, LowRankReplay)
    order = curved_run.order("identity")
    position = estimator.final_states([order, curved_run.order("reverse")])[0]
    assert torch.equal(estimator.endpoint(position, 5), curved_run.context.state(5).theta)
    assert estimator.values(position[None], 5) == [curved_run.reference_loss]
    assert not torch.equal(estimator._own(5), position), "the replay itself errs: a shift of nothing would pass"


def test_equal_items_swapped_give_exactly_the_reference(tmp_path: Path) -> None:
    config = small_config(lowrank=FEW)
    data = build_dataset(config)
    twin = fut.Dataset((*data.items[:4], data.items[1]), data.probe, data.warmup)
    run = fut.train(tmp_path / "run", config, data=twin, device="cpu")
    run.cache(["lowrank"])
    estimator = run.methods.open("lowrank")
    swapped, other = estimator.final_states([run.order("swap:1,4"), run.order("swap:0,1")])
    assert torch.equal(swapped, run.context.state(5).theta)
    assert not torch.equal(other, run.context.state(5).theta)
    assert run.estimate(["swap:1,4"], "lowrank", known=False)[0].delta == 0.0


def test_shorter_orders_are_read_against_the_reference_at_their_step(curved_run: fut.Run) -> None:
    estimator = curved_run.methods.open("lowrank")
    first, other = (curved_run.order(o, partial=True) for o in ([0, 1, 2], [2, 1, 4]))
    found = estimator.final_states([first, other])
    assert torch.equal(found[0], curved_run.context.state(3).theta)
    truth = curved_run.retrain(other).theta
    assert (found[1] - truth).norm() < 0.5 * (truth - curved_run.context.state(3).theta).norm()


def written_out(run: fut.Run, order: Sequence[int], every: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The replay's end under an order, by an explicit loop over true mean differences of all items; and its start's."""
    problem, base = run.context.problem, open_low_rank(run.context)
    terms, items = base.terms(), range(run.items)
    centre = [torch.from_numpy(terms.read("centre", t)[0]) for t in range(run.steps + 1)]
    y, held = run.context.state(0), torch.zeros_like(centre[0])
    for t, item in enumerate(order):
        delta = y.theta - centre[t]
        nearest = int(np.argmin([abs(a - t) for a in base.spec.curvature_anchors]))
        L = torch.from_numpy(terms.read("lowrank", nearest))
        low = L.T @ (torch.from_numpy(terms.read("eigenvalue", nearest)[0]) * (L @ delta))
        if t in refresh_steps(run.steps, every):
            true = sum(problem.gradient(y.theta, i) - problem.gradient(centre[t], i) for i in items) / run.items
            held = true - low
        own = problem.gradient(centre[t], item)
        touching = sum((problem.gradient(centre[t], i) != 0).double() for i in items) / run.items
        share = (own != 0) / touching.clamp(min=1e-9)  # type: ignore[union-attr]
        y = problem.rule.step(y, own + share * (low + held), problem.rate(t))[0]
    return y.theta, centre[-1]


@pytest.mark.parametrize("every", [1, 3])
def test_it_is_its_recursion_written_out(tmp_path: Path, every: int) -> None:
    settings = {"rank": 4, "num_anchors": 2, "pool": 5, "refresh": 1}
    run = trained(tmp_path / "run", **FLOAT64, lowrank=settings, adjoint={"num_anchors": 5})
    run.cache(["lowrank"])
    order, theta = [3, 1, 4, 0, 2], run.context.state(5).theta
    found = run.methods.open("lowrank", refresh=str(every)).final_states([run.order(order)])[0]
    expected = written_out(run, order, every)[0] - written_out(run, range(5), every)[0] + theta
    assert (found - expected).norm() < 1e-10 * (expected - theta).norm()


def test_its_low_rank_leads_the_mean_hessian_in_the_rules_metric(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", **FLOAT64, lowrank={"rank": 30, "num_anchors": 1, "pool": 5, "clamp": 0.9})
    base, problem = open_low_rank(run.context), run.context.problem
    list(run_trajectory(base.trajectory, missing_steps(base.trajectory)))
    assert len(base.batch(LOW_RANK_KEY, 2)[0]) == sum(len(item[0]) for item in problem.data.items)
    values, L = low_rank_at(base, 2)
    state = base.trajectory.state(2)
    weight = sensitivity(problem.rule, state, 0.9)
    root = (weight / weight.max()).sqrt()
    for value, row in list(zip(values, L, strict=True))[:3]:
        q = row * root
        bent = root * sum(problem.product(state.theta, i, root * q) for i in range(run.items)) / run.items
        assert q.norm().item() == pytest.approx(1)
        assert (bent - value * q).norm() < 1e-3 * value


def test_endpoints_are_nearer_than_the_baselines_and_replays(tmp_path: Path) -> None:
    data = {"items": 16, "batch": 8, "context": 24, "probe": 16}
    model, warmup = {"width": 16, "layers": 1, "heads": 2}, {"steps": 40}
    few = {"rank": 8, "num_anchors": 2, "refresh": 2}
    run = trained(tmp_path / "run", data=data, model=model, warmup=warmup, schedule={"rate": 1e-2}, lowrank=few)
    run.cache(["gradient", "norm", "lowrank"])
    rows = run.verify(3, 1, ["replay", "lowrank", "lowrank:refresh=0"]).estimators
    errors = {name: row["endpoint_error"] for name, row in rows.items()}
    assert errors["reference"] == pytest.approx(1)
    assert errors["lowrank"] < min(1, errors["replay"]), errors
    assert errors["lowrank"] < 0.7 * errors["lowrank:refresh=0"], errors
    assert rows["lowrank"]["skill"] > max(0.5, rows["replay"]["skill"])
    assert rows["lowrank"]["query_gradients"] == 2 * len(refresh_steps(16, 2))
    assert rows["lowrank:refresh=0"]["query_gradients"] == 0


def test_estimates_do_not_depend_on_the_batch(curved_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [curved_run.order(f"random:{i}") for i in range(5)]
    together = curved_run.methods.open("lowrank").final_states(orders)
    monkeypatch.setattr("fut.methods.lowrank.estimator.KEPT", 0)  # tables read again for every order
    for order, expected in zip(orders, together, strict=True):
        assert torch.equal(curved_run.methods.open("lowrank").final_states([order])[0], expected)


def test_another_refresh_interval_takes_its_gradients_when_asked(curved_run: fut.Run) -> None:
    orders = [curved_run.order("reverse")]
    stored = curved_run.methods.open("lowrank").final_states(orders)
    assert torch.equal(curved_run.methods.open("lowrank", refresh="2").final_states(orders), stored)
    assert not torch.equal(curved_run.methods.open("lowrank", refresh="1").final_states(orders), stored)
    with pytest.raises(UsageError, match="expected refresh as a number of steps"):
        curved_run.methods.open("lowrank", refresh="often")


class StoppedError(Exception):
    """As a key would interrupt it, but not pytest."""


@contextmanager
def interrupting(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress that stops the work in the middle of every stage."""
    left = [max(1, total // 2)]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError

    yield tick


def test_killed_between_and_within_stages_it_resumes_to_the_same_numbers(tmp_path: Path, curved_run: fut.Run) -> None:
    run = trained(tmp_path / "run")
    stops = 0
    for _ in range(40):
        run.context.progress = interrupting
        try:
            run.cache(["lowrank"])
            break
        except StoppedError:
            stops += 1
            run = fut.open(tmp_path / "run", device="cpu", progress=interrupting)
    assert stops >= 4, "every stage should have been interrupted"
    assert not (tmp_path / "run/lowrank/scratch").exists()
    assert terms_of(run) == terms_of(curved_run)


def test_gradients_are_borrowed_from_a_fitting_expansion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"adjoint": {"trajectory": "mixture"}}
    run, expected = trained(tmp_path / "run", **about), trained(tmp_path / "expected", **about)
    run.cache(["adjoint"])
    plan = run.methods.plan_cache(["lowrank"])
    assert plan.gradients == LOW_RANK_TERMS.cost(open_low_rank(run.context).spec).gradients - 3 * 5
    monkeypatch.setattr("fut.training.problem.Problem.item_gradients", lambda *a: pytest.fail("computed again"))
    run.cache(["lowrank"])
    monkeypatch.undo()
    expected.cache(["lowrank"])
    assert terms_of(run) == terms_of(expected)
    other = trained(tmp_path / "other")
    expand(other.context, AdjointConfig(num_anchors=2, coordinates=300))
    assert open_low_rank(other.context).lender is None
    ensemble = trained(tmp_path / "ensemble")
    ensemble.cache(["adjoint"])
    assert open_low_rank(ensemble.context).lender is None, "the base is about mixtures"
    ensemble.cache(["lowrank"])
    found, others = (open_low_rank(r.context).terms().read("centre", 5) for r in (ensemble, run))
    assert np.array_equal(found, others)


@pytest.mark.parametrize("name", ["lowrank", "gradient", "centre", "refresh", "eigenvalue"])
def test_a_damaged_chunk_is_found_and_computed_again(curved_run: fut.Run, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(curved_run.path, tmp_path / "own"))
    run, expected = fut.open(path, device="cpu"), terms_of(curved_run)
    assert run.check() == []
    chunk = next(p for p in (path / f"lowrank/terms/arrays/{name}/c").rglob("*") if p.is_file())
    flip(chunk, chunk.stat().st_size // 2)
    assert any(name in damage.path for damage in run.check())
    assert run.methods.repair() == 1
    with pytest.raises(NotCachedError, match="--terms lowrank"):
        run.methods.open("lowrank").ready()
    curve(run.context)
    assert terms_of(run) == expected
    assert run.check() == []


def test_a_damaged_manifest_is_found(curved_run: fut.Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(curved_run.path, tmp_path / "own"))
    flip(path / "lowrank/manifest.json", 40)
    assert [Path(d.path).parent.name for d in check_path(path)] == ["lowrank"]


def test_sixteen_bits_are_stored_where_asked_and_serve(tmp_path: Path, curved_run: fut.Run) -> None:
    for name, model in (("single", {}), ("double", FLOAT64)):
        run = trained(tmp_path / name, **model, lowrank=FEW | {"dtype": "bfloat16"})
        run.cache(["lowrank"])
        assert {s.name: s.dtype for s in open_low_rank(run.context).terms().specs}["lowrank"] == "bfloat16"
        truth, theta = run.retrain("reverse").theta, run.context.state(5).theta
        found = run.methods.open("lowrank").final_states([run.order("reverse")])[0]
        assert (found - truth).norm() < 0.5 * (truth - theta).norm()
        assert run.estimate(["identity"], "lowrank", known=False)[0].delta == 0.0


def test_the_command_writes_an_endpoint_by_it_once_it_is_cached(tmp_path: Path, cli: Cli) -> None:
    run = trained(tmp_path / "run")
    hinted = cli("endpoint", run.path, "--order", "reverse", "--out", tmp_path / "a.safetensors", "--device", "cpu")
    assert "by replay-exact" in hinted.out
    assert "fut cache RUN --terms lowrank" in hinted.out
    refused = cli(
        "endpoint", run.path, "--order", "reverse", "--out", tmp_path / "b", "--estimator", "lowrank", "--device", "cpu"
    )
    assert refused.status == 1
    assert "run `fut cache RUN --terms lowrank` first" in refused.err
    said = cli("cache", run.path, "--terms", "lowrank", "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert said.json["plan"]["terms"] == ["lowrank"]
    assert said.json["lowrank_cached"] is True
    assert said.json["adjoint_cached"] is False
    found = cli(
        "endpoint", run.path, "--order", "reverse", "--out", tmp_path / "c.safetensors", "--device", "cpu", "--json"
    ).json
    assert found["estimator"] == "lowrank"
    assert found["estimated_loss"] == found["evaluated_loss"]
    tensors = load_file(tmp_path / "c.safetensors")
    assert sum(t.numel() for t in tensors.values()) >= run.context.parameters


def test_what_it_costs_is_said_and_planned(curved_run: fut.Run) -> None:
    info, base, plan = curved_run.info(), open_low_rank(curved_run.context), curved_run.plan()
    stages = [s for s in plan.stages if s.stage.startswith("lowrank:")]
    assert len(stages) == 4
    cost = LOW_RANK_TERMS.cost(base.spec)
    assert sum(s.gradients for s in stages) == cost.gradients == info["precompute_gradients"]["lowrank"]
    assert cost.gradients == 4 * 5 + 2 * 2 * 3 * 2 + 3 * 5 + 2 * 2
    assert sum(s.kept_bytes for s in stages) == cost.kept
    assert sum(s.scratch_bytes for s in stages) == cost.scratch
    assert cost.kept / 2 < info["term_bytes"]["lowrank"] < cost.kept + 100_000
    assert info["query_gradients"]["lowrank"] == 4
    assert plan["query: lowrank"].memory > 0
    assert curved_run.methods.plan_cache(["lowrank"]).blocks == 0


def test_calibrations_are_not_used_on_terms_made_anew(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    run.cache(["lowrank"])
    run.calibrate(orders=3, estimator="lowrank")
    assert run.estimate(["reverse"], "lowrank", known=False)[0].interval is not None
    assert run.estimate(["reverse"], "lowrank:refresh=1", known=False)[0].interval is None
    shutil.rmtree(run.path / "lowrank")
    curve(run.context, LowRankConfig(rank=2, num_anchors=2, refresh=2))
    assert run.estimate(["reverse"], "lowrank", known=False)[0].interval is None


def test_what_it_refuses(tmp_path: Path, curved_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IdentityError, match=r"lowrank\.rank"):
        curve(curved_run.context, LowRankConfig(rank=7, num_anchors=2, refresh=2))
    run = trained(tmp_path / "run")
    cost = LOW_RANK_TERMS.cost(open_low_rank(run.context).spec)
    needed = cost.scratch + cost.kept
    monkeypatch.setattr("storage.atomic._free_bytes", lambda directory: needed - 1)
    with pytest.raises(DiskFullError, match="the low-rank curvature and its scratch"):
        run.cache(["lowrank"])
    assert not (run.path / "lowrank").exists()


def test_a_rule_without_a_derivative_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run")
    monkeypatch.setattr(type(run.context.problem.rule), "smooth", False)
    with pytest.raises(UsageError, match="expected a rule with a derivative"):
        run.cache(["lowrank"])


def test_every_stage_and_query_is_refused_where_memory_is_scarce(
    tmp_path: Path, own_curved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "run")
    monkeypatch.setattr("fut.resources.memory.available_bytes", lambda device: 1 << 16)  # a model fits
    with pytest.raises(fut.ResourceError, match=r"trajectory: expected"):
        run.cache(["lowrank"])
    assert not (run.path / "lowrank").exists()
    with pytest.raises(fut.ResourceError, match=r"tables of lowrank: expected .* lower lowrank\.rank"):
        fut.open(own_curved, device="cpu").methods.open("lowrank")


@pytest.fixture
def own_curved(curved_run: fut.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(curved_run.path, tmp_path / "own"))


def test_all_samples_of_one_setting_are_answered_alike(curved_run: fut.Run) -> None:
    losses, variances = raw_estimates(curved_run.methods.open("lowrank"), [curved_run.order("reverse")] * 2)
    assert losses[0] == losses[1] != curved_run.reference_loss
    assert variances == [0.0, 0.0]


def test_steps_of_several_items_and_any_readout(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", data={"items": 6, "per_step": 2}, lowrank=FEW | {"refresh": 1})
    run.cache(["lowrank"])
    assert open_low_rank(run.context).spec.query_gradients() == 3 * 2 * 2
    assert len(open_low_rank(run.context).batch(LOW_RANK_KEY, 0)[0]) == 2 * 2 * 2
    order = [[5, 0], [3, 2], [1, 4]]
    estimator = run.methods.open("lowrank", readout="item:1")
    same, other = estimator.final_states([run.order("identity"), run.order(order)])
    theta, truth = run.context.state(3).theta, run.retrain(order).theta
    assert torch.equal(same, theta)
    assert (other - truth).norm() < 0.5 * (truth - theta).norm()
    values = run.estimate(["identity", order], "lowrank", known=False, readout="item:1")
    assert values[0].delta == 0.0
    assert values[1].value == estimator.readout.value(other)


def test_a_replay_that_runs_away_speaks_against_itself(curved_run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    true, centre = curved_run.context.state(curved_run.steps).theta, curved_run.methods.open("lowrank")
    assert isinstance(centre, LowRankReplay)
    apart = centre._read("centre", curved_run.steps)[0] - true
    assert centre.own_miss() == pytest.approx(((centre._own(5) - true).norm() / apart.norm()).item())
    assert centre.own_miss() < 0.9
    assert centre.caution() == ""
    assert "does not hold" not in curved_run.estimate(["reverse"], "lowrank", known=False)[0].note
    with monkeypatch.context() as same:
        same.setattr(LowRankReplay, "own_miss", lambda self: float("nan"))
        assert centre.caution() == "", (
            "where the trajectory ends as the reference run does there is nothing to compare with"
        )
    monkeypatch.setattr(LowRankReplay, "_own", lambda self, steps: true + 1.5 * apart)
    said = "ends 1.50 times as far from the truth as the mean over orders does"
    assert said in curved_run.estimate(["reverse"], "lowrank", known=False)[0].note
    assert said in curved_run.endpoint("reverse", estimator="lowrank").as_dict()["note"]
