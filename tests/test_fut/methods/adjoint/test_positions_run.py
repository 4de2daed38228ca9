"""The positions estimator on a run: its table written out, sampled, assigned, and refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from centres import written_out_table
from runs import shared
from small import Cli, MakeRun, expand, small_config

import fut
from estimators.control_variates import Bounded
from estimators.errors import OrderError
from estimators.orders.order import random_orders
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint import sampling
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
ADJOINT = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact"}


def as_it_comes(run: fut.Run) -> np.ndarray:
    """The table that is not held."""
    terms = open_expansion(run.context).terms()
    return np.stack([terms.read("positions", t)[0] for t in range(run.steps)])


@pytest.mark.parametrize("kind", ["ensemble", "mixture"])
def test_the_table_is_its_formula(make_run: MakeRun, kind: str) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint=ADJOINT | {"trajectory": kind})
    expected = written_out_table(run).sum(-1)
    assert np.abs(expected).max() > 1e-5
    assert as_it_comes(run) == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())
    order, table = [4, 3, 2, 1, 0], run.orders.positions()
    delta = run.estimate([order], "positions", known=False)[0].delta
    assert delta == pytest.approx(sum(table[t, i] - table[t, t] for t, i in enumerate(order)), rel=1e-9)


def test_the_table_is_held_where_memory_is_cold(tmp_path: Path) -> None:
    """To first order a memory that has not begun answers out of all proportion; what is read is held within what replays do."""
    data = {"items": 12, "batch": 1, "context": 16, "probe": 16}
    model, warmup = {"width": 8, "layers": 1, "heads": 2}, {"steps": 0}
    run = shared(tmp_path / "run", small_config(data=data, model=model, warmup=warmup), cached=False)
    run.cache(["adjoint"])
    orders = random_orders(run.reference, 16, 5)
    truth = np.array([run.retrain(order).loss for order in orders])

    def left(table: np.ndarray) -> float:
        guess = np.array([sum(table[t, i] for t, (i,) in enumerate(order.steps)) for order in orders])
        return float((guess - truth).std() / truth.std())

    assert left(run.orders.positions()) < 0.5
    assert left(as_it_comes(run)) > 2
    adjoint = np.array(raw_estimates(run.methods.open("adjoint"), orders)[0])
    assert (adjoint - truth).std() < 0.2 * truth.std(), "nor is curvature taken where no item has any"


def test_the_table_is_of_all_coordinates_whatever_is_kept(tmp_path: Path, make_run: MakeRun) -> None:
    exact = make_run("adjoint", **FLOAT64).orders.positions()
    run = shared(tmp_path / "run", small_config(**FLOAT64), cached=False)
    expand(run.context, AdjointConfig(coordinates=600))
    assert len(open_expansion(run.context).indices) < run.context.parameters / 2
    assert np.array_equal(run.orders.positions(), exact)


def test_without_a_control_variate_the_table_is_of_the_sample(tmp_path: Path, make_run: MakeRun) -> None:
    exact = as_it_comes(make_run("adjoint", **FLOAT64))
    run = shared(tmp_path / "run", small_config(**FLOAT64), cached=False)
    expand(run.context, AdjointConfig(coordinates=1500, control="never"))
    found = run.orders.positions()
    assert len(open_expansion(run.context).indices) < run.context.parameters / 2
    assert run.methods.open("adjoint").control is None  # type: ignore[attr-defined]
    assert not np.array_equal(found, exact)
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.9
    assert run.info()["adjoint_anchor_error"] > 0
    losses, variances = raw_estimates(run.methods.open("adjoint"), [run.order("reverse")])
    whole = raw_estimates(make_run("adjoint", **FLOAT64).methods.open("adjoint"), [run.order("reverse")])[0]
    assert 0 < abs(losses[0] - whole[0]) < 4 * variances[0] ** 0.5


def test_the_best_order_beats_the_reference_on_the_table_and_in_truth(tmp_path: Path) -> None:
    data = {"items": 8, "batch": 4, "context": 24, "probe": 16}
    model, warmup = {"width": 16, "layers": 1, "heads": 2}, {"steps": 40, "ramp": 5}
    run = shared(tmp_path / "run", small_config(data=data, model=model, warmup=warmup), cached=False)
    run.cache(["adjoint"])
    best, table = run.orders.best(), run.orders.positions()
    assert sorted(i for (i,) in best.steps) == list(range(8))
    assert sum(table[t, i] for t, (i,) in enumerate(best.steps)) < sum(table[t, t] for t in range(8))
    assert run.estimate([best], "positions", known=False)[0].delta < 0
    assert run.estimate([best], "retrain")[0].delta < 0
    row = run.verify(8, 1, ["positions"]).estimators["positions"]
    assert row["spearman"] > 0.5


def test_what_it_costs_is_said(make_run: MakeRun, cli: Cli) -> None:
    run = make_run()
    info = cli("info", run.path, "--json").json
    assert info["estimators"].index("positions") == info["estimators"].index("adjoint") + 1
    assert info["precompute_gradients"]["positions"] == info["precompute_gradients"]["adjoint"]
    assert info["query_gradients"]["positions"] == 0
    assert 0 < info["term_bytes"]["positions"] < info["term_bytes"]["adjoint"]


def test_what_positions_cannot_answer(make_run: MakeRun) -> None:
    run = make_run()
    for order in ("drop:2", [0, 1, [], 3, 4], "without:2"):
        with pytest.raises(OrderError, match="expected orders of 5 steps with an item in each"):
            run.estimate([order], "positions", known=False)
    with pytest.raises(UsageError, match="rebuilds parameters"):
        run.endpoint("reverse", "positions")
    with pytest.raises(NotCachedError, match="fut cache"):
        make_run(cached=False, data={"seed": 5}).orders.positions()
    twice = make_run(cached=False, data={"epochs": 2})
    expand(twice.context, None)
    assert twice.orders.positions().shape == (10, 5)
    with pytest.raises(OrderError, match="got 5 items and 10 steps"):
        twice.orders.best()


def test_a_damaged_table_is_found_and_computed_again(make_run: MakeRun, tmp_path: Path) -> None:
    path = Path(shutil.copytree(make_run().path, tmp_path / "own"))
    run = fut.open(path, device="cpu")
    expected = run.orders.positions()
    chunk = next(p for p in (path / "adjoint/terms/arrays" / "controlled_positions" / "c").rglob("*") if p.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    assert any("positions" in d.path for d in run.check())
    assert run.methods.repair() == 1
    with pytest.raises(NotCachedError, match="1 blocks missing"):
        run.orders.positions()
    assert run.estimate(["reverse"], "adjoint", known=False)[0].delta != 0, "the adjoint does without it"
    run.cache(["adjoint"])
    assert np.array_equal(run.orders.positions(), expected)


def test_leaving_an_anchor_out_is_valued_as_the_table_without_it_is(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen, keep = (
        shared(tmp_path / "run", small_config(**FLOAT64), cached=False),
        list[Bounded](),
        sampling._keep_tamed,
    )
    monkeypatch.setattr(sampling, "_keep_tamed", lambda *given: (seen.append(keep(*given)), seen[-1])[1])
    expand(run.context, AdjointConfig.model_validate(ADJOINT))
    expansion, held = open_expansion(run.context), seen[0]
    terms, (first, middle, last) = expansion.terms(), expansion.spec.anchors
    left = [terms.read("left_out", a)[0] for a in range(3)]
    assert not left[0].any()
    assert not left[2].any()
    tables = [torch.from_numpy(written_out_table(run, anchors)) for anchors in ([first, last], None)]
    without, full = ((held.share[0] * table.clamp(-held.bound[0], held.bound[0])).sum(-1).numpy() for table in tables)
    assert run.orders.positions() == pytest.approx(full, rel=1e-9, abs=1e-9 * np.abs(full).max())
    expected = (without - full)[middle]
    assert expected.std() > 1e-3 * written_out_table(run).sum(-1)[middle].std()
    assert left[1] == pytest.approx(expected, rel=1e-4, abs=1e-5 * np.abs(expected).max())
    error = run.info()["adjoint_anchor_error"]
    assert error == pytest.approx(float(np.sqrt(run.steps * expected.var())), rel=1e-4)
    assert make_run("adjoint", adjoint={"num_anchors": 2}).info()["adjoint_anchor_error"] is None


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"items": 12}, "rule": {"name": "sgd"}, "schedule": {"kind": "constant", "rate": 0.02}},
        {"data": {"items": 16, "per_step": 4}, "schedule": {"kind": "cosine", "rate": 3e-3}},
    ],
    ids=["sgd", "several items a step"],
)
def test_the_hold_leaves_alone_what_is_not_cold(tmp_path: Path, sections: dict[str, Any]) -> None:
    """Within an order placements cancel, and an item of several counts by its share: an entry may be far larger."""
    warmup = {"steps": 40, "ramp": 5}
    data = {"batch": 2, "context": 24, "probe": 32} | sections["data"]
    more = {"data": data, "warmup": warmup, "model": {"width": 16, "layers": 1, "heads": 2}}
    run = shared(tmp_path / "run", small_config(**sections | more), cached=False)
    run.cache(["adjoint"])
    held, raw = (table - table.mean(1, keepdims=True) for table in (run.orders.positions(), as_it_comes(run)))
    assert np.corrcoef(held.ravel(), raw.ravel())[0, 1] > 0.98
