"""Update rules compared on a run: against trainings by hand, with the noise of the order beside each difference."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from small import Cli, MakeRun
from truths import Answers, TableOfTruths, table_context

import fut
from estimators.errors import DivergenceError, RuleError
from estimators.orders.order import random_orders
from estimators.rules import make_rule
from fut.errors import UsageError
from fut.studies.compare.arms import arms_of, baseline
from fut.studies.compare.ask import COMPARE, CompareRequest, order_noise, searched
from fut.studies.compare.result import ALIKE, LARGER, NONE, SMALLER, UNKNOWN, Compared, verdict
from fut.studies.paired import paired_effect
from fut.training.other_rules import TrainedRules

RATE = 3e-3


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> fut.Run:
    """Six steps of four items, in double precision."""
    data = {"items": 24, "per_step": 4, "batch": 1}
    return make_run(False, data=data, model={"dtype": "float64"}, schedule={"rate": RATE, "kind": "constant"})


def by_hand(run: fut.Run, order: fut.Order, name: str, rate: float, **options: Any) -> float:
    """The probe loss after training from the run's parameters with empty memory, step by step."""
    problem, rule = run.context.problem, make_rule(name, **options).on(run.context.problem.objective.layout)
    state = rule.init(run.context.state(0).theta)
    for items in order.steps:
        gradient = torch.stack([problem.gradient(state.theta, item) for item in items]).mean(0)
        state, _ = rule.step(state, gradient, rate)
    return problem.probe_loss(state.theta)


def test_every_arm_is_what_training_by_hand_gives(run: fut.Run) -> None:
    rules = ("momentum:beta=0.8:rate=0.05", "lion:rate=0.002")
    found = run.ask(CompareRequest(rules, seeds=3, fill=0))
    orders = random_orders(run.reference, 3, 0)
    for arm, (name, options) in zip(found.arms, (("momentum", {"beta": 0.8}), ("lion", {})), strict=True):
        expected = [by_hand(run, order, name, arm.rate, **options) for order in orders]
        assert list(arm.values) == pytest.approx(expected, abs=1e-10)
        assert arm.sd == pytest.approx(np.std(expected, ddof=1))
    (one,) = found.differences
    momentum, lion = (np.array(arm.values) for arm in found.arms)
    assert one.differences == pytest.approx(list(lion - momentum))
    assert one.effect == paired_effect(list(lion - momentum))
    assert one.noise == pytest.approx(student.ppf(0.975, 2) * math.sqrt(2) * momentum.std(ddof=1))
    assert one.rho == pytest.approx(np.corrcoef(momentum, lion)[0, 1])


def test_the_runs_own_rule_filled_is_near_the_run_itself(run: fut.Run) -> None:
    """From its parameters with another memory; with the memory that the run has, it is the run, bit for bit."""
    rules = TrainedRules(run.context.problem, run.context.state(0).theta, run.context.problem.probe_loss)
    (own, _) = arms_of(("own", "lion"), fill=4)
    problem = rules._problem(own.choice, rules.rate)
    assert problem.rule == run.context.problem.rule
    assert [problem.rate(step) for step in range(6)] == [run.context.problem.rate(step) for step in range(6)]
    filled = rules._filled(problem, own.choice.fill)
    assert torch.equal(filled.theta, run.context.state(0).theta)
    assert filled.clock["step"] == 4
    assert bool(filled.memory["v"].any())
    value, loss = rules.train(own.choice, rules.rate, run.reference, lambda: None)
    assert value == loss == pytest.approx(run.reference_loss, abs=0.02)


def test_corrections_stand_beside_their_plain_rule(run: fut.Run) -> None:
    found = run.ask(CompareRequest(("corrections:adamw", "corrections:shampoo", "own"), seeds=2, search=False, fill=2))
    pairs = {one.arm: one.against for one in found.differences}
    assert pairs == {
        "adamw cross-fitted": "adamw",
        "adamw variance-corrected": "adamw",
        "adamw both": "adamw",
        "shampoo": "adamw",
        "shampoo cross-fitted": "shampoo",
        "shampoo variance-corrected": "shampoo",
        "shampoo both": "shampoo",
        "own": "adamw",
    }
    values = {arm.label: arm.values for arm in found.arms}
    assert values["own"] == values["adamw"], "the run's own rule is AdamW with the usual constants"
    assert len({tuple(own) for name, own in values.items() if name.startswith("adamw")}) == 4
    options = {arm.label: arm.options for arm in found.arms}
    assert options["adamw both"] == {**options["adamw"], "cross_fit": "leave_one_out", "correct_variance": True}


def test_all_corrections_are_three_families_of_four() -> None:
    arms = arms_of(("corrections",))
    assert len(arms) == 12
    assert {baseline(arm, arms).label for arm in arms} == {"adamw", "sophia", "shampoo"}


def test_without_both_corrections_a_rule_is_the_plain_one(run: fut.Run) -> None:
    off = "adamw_corrected:cross_fit=none:correct_variance=false"
    found = run.ask(CompareRequest(("adamw", off), seeds=2, search=False))
    assert found.differences[0].differences == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found.differences[0].verdict == NONE


@pytest.mark.parametrize(("best", "tries"), [(0, 3), (3, 5), (-5, 8)])
def test_a_search_ends_beside_the_best_rate(best: int, tries: int) -> None:
    rate, tried = searched(lambda r: (math.log2(r) - best) ** 2 if r < 64 else math.inf, 1.0)
    assert rate == 2.0**best
    assert len(tried) == tries
    assert [r for r, _ in tried] == sorted(r for r, _ in tried)


def test_a_search_begins_below_where_training_diverges() -> None:
    rate, tried = searched(lambda r: math.inf if r > 0.1 else abs(math.log2(r) + 6), 1.0)
    assert rate == 2.0**-6
    assert [loss for r, loss in tried if r > 0.1] == [None] * sum(r > 0.1 for r, _ in tried)
    with pytest.raises(DivergenceError, match="expected a rate at which training does not diverge"):
        searched(lambda r: math.inf, 1.0)


def test_verdicts_are_of_the_interval_against_the_noise() -> None:
    effect = paired_effect([1.0, 1.1, 0.9, 1.0])
    assert effect.interval is not None
    assert verdict(effect, 0.5) == LARGER
    assert verdict(effect, 2.0) == SMALLER
    assert verdict(effect, 1.0) == ALIKE
    assert verdict(paired_effect([1.0, -1.0, 0.5]), 0.1) == NONE
    assert verdict(paired_effect([-1.0, -1.1, -0.9, -1.0]), 0.5) == LARGER
    assert verdict(paired_effect([1.0]), None) == UNKNOWN
    assert order_noise([1.0]) is None


def test_the_noise_holds_differences_of_two_runs_as_often_as_it_says() -> None:
    draw, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        noise = order_noise(list(draw.normal(size=6)))
        assert noise is not None
        inside += abs(draw.normal() - draw.normal()) <= noise
    assert 0.935 <= inside / 2000 <= 0.965


def test_an_order_that_diverges_is_left_out_of_its_pairs_and_named() -> None:
    class Diverging:
        rate = 1e-3

        def check(self, choice: Any) -> None:
            """Every rule can train."""

        def train(self, choice: Any, rate: float, order: Any, tick: Any) -> tuple[float, float]:
            if choice.name == "lion" and order == bad:
                raise DivergenceError("no number")
            return float(order.steps[0][0]), 1.0

    truths = TableOfTruths()
    bad = random_orders(truths.order, 3, 0)[1]
    context = replace(table_context(truths, Answers()), rules=Diverging())
    found = COMPARE.ask(CompareRequest(seeds=3), context)
    assert found.arms[1].values[1] is None
    assert found.differences[0].effect.count == 2
    assert bad.digest[:12] in found.note
    assert found.note in COMPARE.text(found)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("adamw",), "at least two different rules"),
        (("adamw", "adamw"), "at least two different rules"),
        (("adamw", "adamv"), "or a rule of sgd, .*got `adamv`"),
        (("adamw", "lion:beta=1"), "expected options among"),
        (("adamw", "lion:fast"), "expected option=value behind a colon, got `fast`"),
        (("adamw", "lion:rate=high"), "expected a number as rate"),
        (("adamw", "own:eps=1"), "no options of the run's own rule"),
        (("corrections:lion",), "expected corrections of adamw, sophia, shampoo, got lion"),
    ],
)
def test_rules_that_are_none_are_refused(rules: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CompareRequest(rules)


def test_what_cannot_train_the_run_is_refused_before_training(run: fut.Run, small_run: fut.Run) -> None:
    with pytest.raises(RuleError, match=r"data.per_step = 3 or more"):
        small_run.ask(CompareRequest(("adamw", "adamw_corrected")))
    with pytest.raises(RuleError, match="muon"):
        run.ask(CompareRequest(("adamw", "muon")))
    with pytest.raises(UsageError, match="expected a rate > 0"):
        run.ask(CompareRequest(("adamw", "lion:rate=0")))
    with pytest.raises(UsageError, match="at least 2 seeds"):
        CompareRequest(seeds=1)


def test_the_command_says_the_same_as_python_and_is_kept(run: fut.Run, cli: Cli, tmp_path: Path) -> None:
    rules = ("adamw:rate=0.002", "lion:rate=0.0005")
    flags = [word for rule in rules for word in ("--rule", rule)]
    said = cli("compare", run.path, *flags, "--seeds", 2, "--plot", tmp_path / "p.png", "--json", "--device", "cpu")
    assert said.status == 0, said.err
    found = run.ask(CompareRequest(rules, seeds=2))
    assert {name: value for name, value in said.json.items() if name != "plot"} == json.loads(
        json.dumps(found.as_dict())
    )
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    kept = [json.loads(file.read_text()) for file in run.path.glob("answers/compare-*.json")]
    (again,) = [Compared.from_dict(own) for own in kept if own["request"]["rules"] == list(rules)]
    assert json.dumps(again.as_dict()) == json.dumps(found.as_dict())
    assert again.readout == "probe"


def test_a_rate_is_searched_on_the_reference_order(run: fut.Run) -> None:
    found = run.ask(CompareRequest(("adamw", "lion"), seeds=2, fill=0))
    for arm in found.arms:
        losses = {rate: loss for rate, loss in arm.tried if loss is not None}
        assert arm.rate == min(losses, key=lambda rate: losses[rate])
        options = {"betas": (0.9, 0.95), "eps": 1e-8} if arm.rule == "adamw" else {}
        own = by_hand(run, run.reference, arm.rule, arm.rate, **options)
        assert losses[arm.rate] == pytest.approx(own, abs=1e-9)
        assert {arm.rate / 2, arm.rate * 2} <= {rate for rate, _ in arm.tried}
