"""Read-outs that are taken before the end of the window: what counts of an order, against real retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import shared
from scipy.stats import spearmanr
from small import MakeRun, small_config

import fut
from estimators.errors import OrderError
from fut.errors import UsageError
from fut.planning import plan_problem
from fut.progress import silent
from fut.training.trainer import train_order

NAMES = ["probe", "probe@3", "probe@6", "probe@8", "item:1@5"]
SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"items": 8},
    "model": {"dtype": "float64"},
    "adjoint": {"functionals": 0, "readouts": NAMES},
}
ORDERS = [f"random:{seed}" for seed in range(12)]


@pytest.fixture(scope="module")
def early(make_run: MakeRun) -> fut.Run:
    """A run with an adjoint pass of read-outs that are taken after some steps. Shared: read only."""
    return make_run(**SECTIONS)


def values(run: fut.Run, orders: list[Any], readout: str, method: str = "adjoint") -> list[float]:
    return [e.value for e in run.estimate(orders, method, known=False, calibrated=False, readout=readout)]


@pytest.mark.parametrize("method", ["adjoint", "positions"])
def test_only_what_an_order_places_before_the_step_counts(early: fut.Run, method: str) -> None:
    alike = [[5, 0, 7, 1, 2, 3, 4, 6], [5, 0, 7, 6, 4, 3, 2, 1]]
    first, second = values(early, alike, "probe@3", method)
    assert first == second
    assert len(set(values(early, alike, "probe@6", method))) == 2
    (same,) = values(early, [[0, 1, 2, 7, 6, 5, 4, 3]], "probe@3", method)
    assert same == early.context.readouts.at_reference(early.context.readouts.get("probe@3"))


def test_the_table_of_positions_is_zero_from_the_step_on(early: fut.Run) -> None:
    table = early.orders.positions("item:1@5")
    assert table.shape == (8, 8)
    assert not table[5:].any()
    assert table[:5].any(axis=1).all()


def test_a_read_out_after_all_steps_is_the_one_at_the_end(early: fut.Run) -> None:
    assert values(early, ORDERS, "probe@8") == pytest.approx(values(early, ORDERS, "probe"), rel=1e-14)
    assert np.array_equal(early.orders.positions("probe@8"), early.orders.positions("probe"))


@pytest.mark.parametrize("readout", ["probe@3", "probe@6", "item:1@5"])
def test_estimates_are_near_what_retraining_gives_after_these_steps(early: fut.Run, readout: str) -> None:
    step = int(readout.partition("@")[2])
    about = early.context.readouts.get(readout)
    parts = [early.context.retrain(early.order(order).first(step)) for order in ORDERS]
    true = [about.value(part.theta) for part in parts]
    told = [e.value for e in early.estimate(ORDERS, "retrain", readout=readout)]
    assert told == true
    guess = values(early, ORDERS, readout)
    assert spearmanr(true, guess)[0] > 0.9
    spread = np.std(np.array(true) - early.context.readouts.at_reference(about))
    assert np.std(np.array(guess) - true) < 0.4 * spread


def test_one_training_keeps_what_the_first_steps_come_to(make_run: MakeRun) -> None:
    """Bit for bit what training these steps alone gives, and nothing of it is trained twice."""
    run, other = (make_run(False, **{**SECTIONS, "data": {"items": 8, "seed": 3 + n}}) for n in range(2))
    order = run.order("random:5")
    steps: list[int] = []
    run.context.retrain(order, lambda step, state: steps.append(step), at=[3, 6])
    alone = train_order(run.context.problem, run.context.state(0), order.first(3))
    kept = run.context.retrain(order.first(3))
    assert (kept.loss, kept.theta.tolist()) == (alone.loss, alone.theta.tolist())
    assert steps == list(range(1, 9))
    run.context.retrain(order, lambda step, state: steps.append(step), at=[3, 5])
    assert steps[8:] == list(range(1, 6)), "a known order is trained again only as far as it is not known"
    whole = other.context.retrain(order)
    other.context.retrain(order, at=[4])
    assert other.context.retrain(order).loss == whole.loss


def test_adding_them_gives_what_a_joint_adjoint_pass_gives(early: fut.Run, tmp_path: Path) -> None:
    sections = {**SECTIONS, "adjoint": {"functionals": 0}}
    run = shared(tmp_path / "run", small_config(**sections), cached=False)
    run.cache()
    run.cache(readouts=["probe@3", "item:1@5"])
    for readout in ("probe@3", "item:1@5"):
        assert values(run, ORDERS, readout) == pytest.approx(values(early, ORDERS, readout), rel=1e-9)


@pytest.mark.parametrize("drawn", ["after", "before"])
def test_a_sample_of_coordinates_knows_them_too(make_run: MakeRun, drawn: str) -> None:
    """Also where it is drawn before the backward pass, by slopes that are known at each read-out's own step."""
    sampled = {"functionals": 0, "readouts": ["probe@3", "probe"], "coordinates": 900, "drawn": drawn}
    run = make_run(**{**SECTIONS, "adjoint": sampled})
    truth = [e.value for e in run.estimate(ORDERS, "retrain", readout="probe@3")]
    assert spearmanr(truth, values(run, ORDERS, "probe@3"))[0] > 0.8
    alike = [[5, 0, 7, 1, 2, 3, 4, 6], [5, 0, 7, 6, 4, 3, 2, 1]]
    first, second = values(run, alike, "probe@3")
    assert first == pytest.approx(second, rel=1e-12)


def test_a_trajectory_that_is_trained_again_gives_the_same_bits(early: fut.Run, make_run: MakeRun) -> None:
    again = make_run(**{**SECTIONS, "adjoint": {**SECTIONS["adjoint"], "storage": "retrain"}})
    for readout in ("probe@3", "item:1@5"):
        assert values(again, ORDERS, readout) == values(early, ORDERS, readout)


def test_they_cost_their_share_of_the_window(early: fut.Run) -> None:
    def gradients(readouts: list[str]) -> int:
        config = early.context.config
        changed = config.adjoint.model_copy(update={"readouts": readouts, "products": "exact"})
        found = plan_problem(early.context.problem, config.model_copy(update={"adjoint": changed}), silent)
        return found["adjoint: backward pass"].gradients

    alone, half, whole = (gradients(r) for r in (["probe"], ["probe", "probe@4"], ["probe", "probe@8"]))
    assert alone < half < whole
    assert abs((whole - alone) - 2 * (half - alone)) <= 4


def test_steps_that_there_are_not_are_refused_by_name(early: fut.Run) -> None:
    for wrong in ("probe@0", "probe@", "probe@x", "probe@-1", "probe@1.5", "@3@4"):
        with pytest.raises(UsageError, match="probe@STEP"):
            early.estimate(["reverse"], readout=wrong)
    with pytest.raises(UsageError, match="step from 1 to 8"):
        early.estimate(["reverse"], readout="probe@9")
    with pytest.raises(OrderError, match=r"expected 1\.\.2 steps"):
        early.estimate([[3, 1]], "retrain", readout="probe@3", partial=True)
    with pytest.raises(UsageError, match="reweighting: expected a read-out at the end"):
        early.estimate(["without:1"], "reweighting", readout="probe@3")
    with pytest.raises(UsageError, match="reweighting: expected read-outs at the end"):
        early.cache(["reweighting"], readouts=["probe@3"])


def test_a_first_read_out_that_is_taken_earlier_has_no_quadratic_term(make_run: MakeRun) -> None:
    run = make_run(**{**SECTIONS, "adjoint": {"functionals": 2, "readouts": ["probe@6", "probe"]}})
    truth = [e.value for e in run.estimate(ORDERS, "retrain", readout="probe@6")]
    assert spearmanr(truth, values(run, ORDERS, "probe@6"))[0] > 0.9
    assert run.methods.open("adjoint", readout="probe@6").own_error() is not None
    with pytest.raises(UsageError, match="functionals"):
        run.methods.open("adjoint", readout="probe@6", reading="quadratic")


def test_the_baseline_stands_where_the_reference_run_does(early: fut.Run) -> None:
    baseline = early.methods.open("reference", readout="probe@3")
    (found,) = baseline.final_states([early.order("reverse").first(3)])
    assert found.tolist() == early.context.state(3).theta.tolist()


def test_other_questions_take_them(early: fut.Run) -> None:
    alone = early.whatif(edits=["swap:0,5"], readouts=["probe@3"])
    answer = early.whatif(edits=["swap:0,5", "swap:6,7"], readouts=["probe", "probe@3"], verify=True)
    assert answer["probe@3"].delta == pytest.approx(alone["probe@3"].delta, rel=1e-12)
    assert alone["probe@3"].delta != 0.0
    assert answer["probe@3"].truth == early.context.retrain(early.order("swap:0,5").first(3)).loss
    assert early.whatif(edits=["swap:6,7"], readouts=["probe@3"])["probe@3"].delta == 0.0
