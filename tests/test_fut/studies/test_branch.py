"""Branch and hold on a run, against a loop of `torch.optim` that is treated by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Cli, MakeRun

import fut
from estimators.errors import DivergenceError
from estimators.orders.order import random_orders
from fut.api.run import Run
from fut.errors import UsageError
from fut.studies.branch.ask import BRANCH, BranchRequest
from fut.studies.branch.result import BranchEffect

AT, WINDOW = 2, 2
STATES = {"optimizer": "reset", "path": "noise:0.1", "schedule": "scale:0.5", "averages": "reset", "order": "reverse"}


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Run:
    """Eight steps in double precision, so that another code's sums agree."""
    return make_run(False, data={"items": 8}, model={"dtype": "float64"})


def asked(run: Run, **fields: Any) -> BranchEffect:
    return run.ask(BranchRequest(**({"at": AT, "window": WINDOW, "seeds": 2} | fields)))


def by_hand(run: Run, order: fut.Order, treat: str = "") -> float:
    """The probe loss after training with `torch.optim.AdamW` from the run's state before the window."""
    problem, state = run.context.problem, run.context.state(0)
    theta = state.theta.clone().requires_grad_()
    rule: Any = problem.rule
    constants = {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay}
    optimizer = torch.optim.AdamW([theta], lr=1.0, **constants)
    began = {"step": torch.tensor(state.clock["step"]), "exp_avg": state.memory["m"], "exp_avg_sq": state.memory["v"]}
    optimizer.state[theta] = {name: value.clone() for name, value in began.items()}
    for step, items in enumerate(order.steps):
        if step == AT and treat == "reset":
            optimizer.state[theta] = {n: torch.zeros_like(v) for n, v in began.items()}
        if step == AT and treat == "reset m":
            optimizer.state[theta]["exp_avg"].zero_()
        halved = treat == "halve" and AT <= step < AT + WINDOW
        optimizer.param_groups[0]["lr"] = problem.rate(step) * (0.5 if halved else 1.0)
        theta.grad = problem.gradient(theta.detach(), items[0])
        optimizer.step()
    return problem.probe_loss(theta.detach())


@pytest.mark.parametrize(
    ("source", "treatment", "treat"),
    [("optimizer", "reset", "reset"), ("optimizer", "reset-memory:m", "reset m"), ("schedule", "scale:0.5", "halve")],
)
def test_both_arms_are_what_torch_trains(run: Run, source: str, treatment: str, treat: str) -> None:
    found = asked(run, source=source, treatment=treatment)
    for pair, order in zip(found.pairs, random_orders(run.reference, 2, 0), strict=True):
        end = pair.readings[-1]
        assert end.control["loss"] == pytest.approx(by_hand(run, order), abs=1e-11)
        assert end.treated["loss"] == pytest.approx(by_hand(run, order, treat), abs=1e-11)
        assert abs(end.treated["loss"] - end.control["loss"]) > 1e-7


def test_an_order_is_what_retraining_says_and_the_effect_is_the_mean(run: Run) -> None:
    found = asked(run, source="order", treatment="swap:0:1")
    truths = []
    for order in random_orders(run.reference, 2, 0):
        other = order.swap(AT, AT + 1)
        truths.append(run.retrain(other).loss - run.retrain(order).loss)
    assert found.deltas() == truths
    assert found.effects["loss"].mean == np.mean(truths)
    assert found.checks == {"repeatable": True, "only_its_source": True, "same_items": True, "null_is_zero": None}


@pytest.mark.parametrize("source", STATES)
def test_nothing_changes_nothing(run: Run, source: str) -> None:
    average = "0.9" if source == "averages" else None
    found = asked(run, source=source, treatment="nothing", average=average)
    assert found.checks["null_is_zero"] is True
    assert all(effect.mean == 0.0 for effect in found.effects.values())
    assert set(found.distances.values()) == {0.0}


@pytest.mark.parametrize(("source", "treatment"), STATES.items())
def test_at_the_branch_only_the_source_differs(run: Run, source: str, treatment: str) -> None:
    found = asked(run, source=source, treatment=treatment, average="uniform" if source == "averages" else None)
    assert found.checks["only_its_source"]
    assert found.checks["repeatable"]
    assert any(found.deltas()), "the treatment did nothing"
    if source in ("order", "schedule", "averages"):
        assert all(pair.digests["branch"] == pair.digests["treated"] for pair in found.pairs)


def test_a_treatment_of_another_source_fails_its_check(run: Run) -> None:
    found = asked(run, source="optimizer", treatment="reset")
    broken = replace(found, plan=replace(found.plan, source="path", treatment="noise:1"))
    assert broken.checks["only_its_source"] is False


def test_with_replacement_is_no_effect_of_order_alone(run: Run) -> None:
    found = asked(run, at=0, window=8, source="order", treatment="with-replacement")
    assert found.checks["same_items"] is None
    assert "not an effect of order alone" in BRANCH.text(found)


def test_a_clamped_reset_acts_at_every_step_of_the_window(run: Run) -> None:
    once, clamped = (asked(run, source="optimizer", treatment="reset", clamp=clamp) for clamp in (False, True))
    assert once.pairs[0].digests["treated"] == clamped.pairs[0].digests["treated"]
    assert once.pairs[0].digests["window treated"] != clamped.pairs[0].digests["window treated"]
    assert clamped.pairs[0].digests["window control"] == once.pairs[0].digests["window control"]


def test_averages_are_those_of_the_states(run: Run) -> None:
    found = asked(run, source="averages", treatment="reset", average="0.5", seeds=1)
    order = random_orders(run.reference, 1, 0)[0]
    states: list[torch.Tensor] = [run.context.state(0).theta]
    run.context.problem.probe_loss(states[0])
    from fut.training.trainer import train_order

    train_order(run.context.problem, run.context.state(0), order, lambda step, state: states.append(state.theta[0]))
    carried, begun = states[0], states[AT]
    for step, theta in enumerate(states[1:], 1):
        carried = carried + 0.5 * (theta - carried)
        begun = begun + 0.5 * (theta - begun) if step > AT else begun
    end = found.pairs[0].readings[-1]
    assert end.control["loss"] == pytest.approx(run.context.problem.probe_loss(carried), abs=1e-12)
    assert end.treated["loss"] == pytest.approx(run.context.problem.probe_loss(begun), abs=1e-12)


def test_an_estimate_stands_beside_the_truth_of_orders(small_run: Run) -> None:
    found = small_run.ask(BranchRequest(at=1, window=3, seeds=3, source="order", treatment="reverse"))
    assert found.estimated is not None
    method, deltas = found.estimated
    assert method.startswith("adjoint")
    asked_orders = [order for pair in found.pairs for order in pair.orders]
    values = [e.value for e in small_run.estimate(asked_orders, method, known=False)]
    assert list(deltas) == [t - c for c, t in zip(values[::2], values[1::2], strict=True)]
    assert "no interval" in BRANCH.text(found)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"at": 8}, "expected 0 <= at < horizon <= 8"),
        ({"horizon": 9}, "expected 0 <= at < horizon <= 8"),
        ({"window": 7}, "expected a window of 1 to 6 steps"),
        ({"seeds": 0}, "expected seeds >= 1"),
        ({"source": "averages", "treatment": "reset"}, "expected an average to treat"),
        ({"average": "1.5"}, "expected a decay of the average"),
        ({"source": "order", "treatment": "reverse", "clamp": True}, "can be repeated at every step"),
        ({"treatment": "zero"}, "expected a treatment of the source `optimizer`: reset"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_training(run: Run, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked(run, **fields)


def test_the_planned_gradients_are_those_that_are_taken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    problem = type(run.context.problem)
    gradient = problem.gradient_and_loss

    def counted(self: Any, *given: Any) -> Any:
        nonlocal taken
        taken += 1
        return gradient(self, *given)

    monkeypatch.setattr(problem, "gradient_and_loss", counted)
    said: list[str] = []
    run.ask(BranchRequest(at=AT, window=WINDOW, seeds=2, treatment="reset"), said.append)
    assert f" {taken} gradients" in said[0]
    assert "fewer than 6 seeds" in said[0]


def test_the_command_says_the_same_as_python_and_draws(run: Run, cli: Cli, tmp_path: Path) -> None:
    flags = (
        "--at",
        AT,
        "--window",
        WINDOW,
        "--seeds",
        2,
        "--treatment",
        "reset",
        "--plot",
        tmp_path / "p.png",
        "--json",
    )
    said = cli("branch", run.path, *flags)
    assert said.status == 0, said.err
    content = json.loads(said.out)
    assert content["deltas"]["loss"] == asked(run, treatment="reset").deltas()
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert content["orientation"] == "treated minus control"
    assert set(content["checklist"]) >= {"order hashes", "multiset hashes", "buffer hashes", "random streams", "probe"}


def test_half_lives_are_those_of_the_rule(run: Run) -> None:
    rule: Any = run.context.problem.rule
    b1, b2 = rule.betas
    found = asked(run, treatment="nothing").half_lives
    assert found == pytest.approx({"m": np.log(0.5) / np.log(b1), "v": np.log(0.5) / np.log(b2)})


@pytest.mark.parametrize("treatment", ["reset", "swap"])
def test_a_seed_that_diverges_is_named_and_the_others_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, treatment: str
) -> None:
    bad = random_orders(run.reference, 3, 0)[0]
    problem = type(run.context.problem)
    gradient = problem.gradient_and_loss

    def diverging(self: Any, theta: Any, item: int) -> Any:
        if item == bad.steps[1][0]:
            seen.append(item)
            if len(seen) == 1:  # the common part of the first seed
                raise DivergenceError("item: expected a finite loss")
        return gradient(self, theta, item)

    seen: list[int] = []
    monkeypatch.setattr(problem, "gradient_and_loss", diverging)
    found = asked(run, treatment=treatment, seeds=3)
    assert [pair.seed for pair in found.pairs] == [1, 2]
    assert bad.digest[:12] in found.note
    assert found.note in BRANCH.text(found)
    assert found.checks["repeatable"]
    assert found.effects["loss"].count == 2
