"""Order noise of real runs: estimates beside retraining, from a run of fut and from a recorded one; and `fut noise`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr
from small import Cli, MakeRun
from truths import TableOfTruths, table_context
from user_loops import STEPS, recorded

import fut
from estimators.orders.order import Order, random_orders
from fut.api.questions import study_context
from fut.errors import UsageError
from fut.studies.noise import render
from fut.studies.noise.result import OrderNoise
from fut.studies.noise.seeds import SeedsRequest, ask, text
from fut.studies.noise.slopes import SlopesRequest, draw, noise_slopes
from fut.studies.noise.spread import order_effect
from fut.studies.noise.study import NoiseRequest, ending_orders

LOW: dict[str, Any] = {
    "schedule": {"rate": 1e-5, "kind": "constant"},
    "model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"},
    "warmup": {"steps": 150, "ramp": 2},
    "rule": {"name": "adamw", "options": {"betas": [0.9, 0.999]}},
}
"""A rate at which first order is nearly all, the precision to see it, and a memory that is warm."""


@pytest.fixture(scope="module")
def low(make_run: MakeRun) -> fut.Run:
    return make_run("adjoint", **LOW)


def test_the_spread_is_that_of_retrained_orders(low: fut.Run) -> None:
    found = low.ask(NoiseRequest(4))
    values = [low.retrain(order).loss for order in random_orders(low.reference, 4, 0)]
    assert found.spread == order_effect(values, low.reference_loss)
    (kept,) = (json.loads(file.read_text()) for file in low.path.glob("answers/noise-*.json"))
    assert (kept["values"], kept["readout"], kept["sd"]) == (values, "probe", found.spread.sd)
    assert found.difference == pytest.approx(2**0.5 * np.std(values, ddof=1))


def test_every_estimate_is_near_retraining_where_the_rate_is_low(low: fut.Run) -> None:
    found = low.ask(NoiseRequest(12, seed=1))
    local = found.local
    assert local is not None
    for name in ("closed form", "replay"):
        estimate = found.estimates[name]
        assert estimate.ratio == pytest.approx(1.0, abs=0.03), name
        assert estimate.spearman is not None
        assert estimate.spearman > 0.97, name
    assert found.estimates["positions"].sd == pytest.approx(found.estimates["closed form"].sd, rel=0.05)
    assert local.replay_trace == pytest.approx(local.retrained_trace, rel=0.02)
    assert sum(part.share for part in local.weights) == pytest.approx(1.0)
    assert np.mean(local.weights[0].weights) == pytest.approx(1.0)
    assert local.error_bar is not None
    assert local.error_bar[0] < 0 < local.error_bar[1]
    assert local.notes == []
    assert "only the order?" in render.text(found)


def test_the_reference_order_is_answered_exactly(low: fut.Run) -> None:
    context = study_context(low.context)
    assert context.local is not None
    local = context.local(low.steps, [low.reference], False)
    assert local.replay_values == [low.reference_loss]
    assert local.closed_values == [low.reference_loss]


def test_a_shorter_window_leaves_the_first_steps_alone(low: fut.Run) -> None:
    orders = ending_orders(low.reference, 3, 5, 0)
    assert all(order.steps[:2] == low.reference.steps[:2] for order in orders)
    assert {frozenset(order.steps[2:]) for order in orders} == {frozenset(low.reference.steps[2:])}
    found = low.ask(NoiseRequest(3, window=3, bracket=True))
    assert found.local is not None
    assert found.local.first == 2
    assert len(found.local.weights[0].weights) == 3
    assert found.local.bracket_trace is not None
    assert 0 < found.local.bracket_trace < (found.local.closed_trace or 0), "at a low rate memory is most of it"
    for window in (1, 6):
        with pytest.raises(UsageError, match=r"noise: expected a window"):
            low.ask(NoiseRequest(3, window=window))


def test_steps_of_several_items_are_made_anew(make_run: MakeRun) -> None:
    run = make_run(False, **LOW, data={"items": 6, "per_step": 2, "batch": 2, "context": 12, "probe": 4})
    found = run.ask(NoiseRequest(8))
    assert found.estimates["closed form"].ratio == pytest.approx(1.0, abs=0.05)
    assert found.estimates["replay"].ratio == pytest.approx(1.0, abs=0.05)
    weighted = {"items": 6, "per_step": 2, "batch": 2, "context": 12, "probe": 4, "weights": [1.0, 2, 1, 1, 1, 1]}
    other = make_run(False, **LOW, data=weighted).ask(NoiseRequest(8))
    assert list(other.estimates) == ["replay"]
    assert other.estimates["replay"].ratio == pytest.approx(1.0, abs=0.05)
    assert other.local is not None
    assert any("items of equal weight" in note for note in other.local.notes)


def test_a_rule_without_linear_memory_is_replayed_alone(make_run: MakeRun) -> None:
    found = make_run(False, **LOW | {"rule": {"name": "lion"}}).ask(NoiseRequest(4))
    assert list(found.estimates) == ["replay"]
    assert found.local is not None
    assert any("linear memory" in note for note in found.local.notes)
    assert "Not computed" in render.text(found)


def test_a_recorded_training_is_measured_like_one_of_its_own(tmp_path: Path) -> None:
    """AdamW in two groups, with a schedule, begun in its course: a kernel for each group."""
    found = recorded(tmp_path / "run").ask(NoiseRequest(6, window=3))
    assert isinstance(found, OrderNoise)
    assert found.local is not None
    assert [part.parameters for part in found.local.weights] == [56, 27], "decayed matrices, and the rest"
    assert found.local.weights[0].weights != found.local.weights[1].weights
    assert found.estimates["replay"].spearman is not None
    assert found.estimates["replay"].spearman > 0.8
    assert found.estimates["closed form"].spearman is not None
    assert found.estimates["closed form"].spearman > 0.8
    assert found.local.first == STEPS - 3


def test_budgets_are_measured_on_two_runs(low: fut.Run, make_run: MakeRun) -> None:
    other = make_run(False, **LOW | {"schedule": {"rate": 1.1e-5, "kind": "constant"}})
    request = SeedsRequest(delta=1e-6, paired=True, orders=8)
    found = ask(request, study_context(low.context), study_context(other.context))
    values = [[run.retrain(order).loss for order in random_orders(low.reference, 8, 0)] for run in (low, other)]
    assert found.rho == pytest.approx(float(pearsonr(*values).statistic))
    assert found.rho is not None
    assert found.rho_interval is not None
    assert found.rho_interval[0] < found.rho < found.rho_interval[1]
    assert found.sd == pytest.approx(np.std(values[0], ddof=1))
    assert found.paired is not None
    assert found.paired.runs is not None
    assert found.alone.runs is not None
    assert found.paired.runs < found.alone.runs
    assert found.alone_range is not None
    low_end, high_end = found.alone_range
    assert low_end is not None
    assert high_end is not None
    assert low_end <= found.alone.runs <= high_end
    assert f"needs {found.alone.runs} runs a side" in text(found)
    assert f"or {found.paired.runs} paired by order" in text(found)


def test_what_cannot_be_measured_is_refused_before_anything_is_trained() -> None:
    truths = TableOfTruths()
    other = TableOfTruths(order=Order.of(range(4)))
    for against in (None, table_context(other)):
        with pytest.raises(UsageError, match=r"noise seeds: expected (--rho|two runs of the same)"):
            ask(SeedsRequest(delta=1.0, paired=True), table_context(truths), against)
    assert not truths.trained + other.trained


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delta": 0.0}, "--delta: expected"),
        ({"delta": 1.0, "sd": -1.0}, "--sd: expected"),
        ({"delta": 1.0, "rho": 2.0}, "--rho: expected"),
        ({"delta": 1.0, "orders": 3}, "--orders: expected at least 4"),
        ({"delta": 1.0}, "a run to measure the noise on, or --sd"),
        ({"delta": 1.0, "sd": 1.0, "paired": True}, "two runs to measure it on"),
    ],
)
def test_what_cannot_be_budgeted_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask(SeedsRequest(**given))


def test_the_commands_say_what_python_says(low: fut.Run, cli: Cli, tmp_path: Path) -> None:
    said = cli("noise", low.path, "--orders", 4, "--plot", tmp_path / "noise.png", "--json", "--device", "cpu")
    assert said.status == 0, said.err
    assert (tmp_path / "noise.png").stat().st_size > 10_000
    python = json.loads(json.dumps(low.ask(NoiseRequest(4)).as_dict()))
    assert {name: value for name, value in said.json.items() if name != "plot"} == python
    seeds = cli("noise", "seeds", "--sd", 0.01, "--delta", 0.01, "--paired", "--rho", 0.98)
    assert "needs 17 runs a side, or 3 paired by order" in seeds.out
    seeds = cli("noise", "seeds", low.path, "--delta", 1e-6, "--json", "--orders", 4, "--device", "cpu")
    assert seeds.json["sd"] == python["sd"]
    for words in (["seeds"], [low.path, "--orders", 1], ["slopes", "--steps", 1], ["nowhere"]):
        refused = cli("noise", *words)
        assert refused.status in (1, 2)
        assert "expected" in refused.err, words


def test_slopes_are_reported_in_double_precision_alone(cli: Cli, tmp_path: Path) -> None:
    said = cli("noise", "slopes", "--steps", 4, "--permutations", 6, "--plot", tmp_path / "slopes.png", "--json")
    assert 3.9 < said.json["slopes"]["sgd"]["small"] < 4.05
    assert 1.9 < said.json["slopes"]["adamw"]["small"] < 2.05
    assert set(said.json["slopes"]["momentum"]) >= {"small", "finite", "local"}
    assert (tmp_path / "slopes.png").stat().st_size > 10_000
    single = cli("noise", "slopes", "--steps", 4, "--permutations", 6, "--precision", "float32", "--json")
    assert single.json["slopes"]["sgd"]["small"] is None
    assert "rounding hides the order of" in single.err
    with pytest.raises(UsageError, match="a precision of float64, float32, got half"):
        SlopesRequest(precision="half")


def test_a_picture_of_nothing_but_rounding_is_drawn(tmp_path: Path) -> None:
    found = noise_slopes(SlopesRequest(3, 4, precision="float32"))
    assert draw(found, tmp_path / "x.png").exists()


def test_estimates_that_rank_orders_otherwise_are_warned_of(low: fut.Run) -> None:
    found = low.ask(NoiseRequest(8))
    assert "Do not trust" not in render.text(found)
    poor = {name: replace(own, spearman=-0.2) for name, own in found.estimates.items() if name == "replay"}
    assert "Do not trust replay of frozen gradients here" in render.text(replace(found, estimates=poor))


def test_it_is_about_the_readout_that_is_named(low: fut.Run) -> None:
    found = low.ask(NoiseRequest(3, readout="item:1"))
    orders = random_orders(low.reference, 3, 0)
    assert found.readout == "item:1"
    assert found.values == [e.value for e in low.estimate(orders, "retrain", readout="item:1")]
    assert found.estimates["replay"].ratio == pytest.approx(1.0, abs=0.05)
