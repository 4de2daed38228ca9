"""Every update rule on a run: trained as any other, replayed where a method takes it, and else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_config

import fut
from estimators.errors import RuleError
from estimators.orders.order import Order
from estimators.rules import RULES, make_rule
from estimators.rules.kinds import MatrixRule
from estimators.rules.signals import Signals
from fut.errors import UsageError
from fut.methods.applicability import rule_table
from fut.methods.coupling import ALL
from fut.methods.pairwise.pipeline import PAIRWISE_TERMS, PairwiseSpec
from fut.methods.pairwise.terms import TermLayout, needs
from fut.methods.registry import METHODS, default_estimator
from fut.methods.settings import Config
from fut.planning import plan
from fut.training.curvature import item_curvature
from fut.training.problem import build_problem

MUON = {
    "name": "grouped",
    "options": {
        "groups": [
            {"name": "matrices", "rule": "muon", "tensors": ["blocks.*.qkv.weight", "blocks.*.up.weight"]},
            {"name": "rest", "rule": "adamw", "options": {"betas": [0.9, 0.95]}, "scale": 0.1},
        ]
    },
}
FLOAT64 = {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}
ALONE = [name for name, rule in RULES.items() if not issubclass(rule, MatrixRule) and name != "grouped"]


def config(name: str, **sections: Any) -> Config:
    rule: dict[str, Any] = MUON if name in ("muon", "grouped") else {"name": name}
    several = {"items": 8, "per_step": 4, "batch": 1} if name.endswith("_corrected") else {}
    return small_config(
        **{"model": FLOAT64, "rule": rule, "schedule": {"rate": 1e-3}}
        | ({"data": several} if several else {})
        | sections
    )


@pytest.mark.parametrize("name", [*ALONE, "muon"])
def test_every_rule_trains_and_trains_again(name: str, tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", config(name), device="cpu")
    first, last = run.context.state(0), run.context.state(run.steps)
    assert not torch.equal(first.theta, last.theta)
    assert all(torch.isfinite(part).all() for part in (last.theta, *last.memory.values()))
    again = run.retrain(Order.of(run.reference.steps))
    assert torch.equal(torch.as_tensor(again.theta), last.theta), "the reference order must be bitwise"
    assert run.retrain("reverse").loss != run.reference_loss


def test_a_rule_of_matrices_alone_is_refused_by_name_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(
        RuleError, match=r"the rule `muon`: expected matrices alone, got `blocks.0.norm1.weight`.*`grouped`"
    ):
        fut.train(tmp_path / "run", small_config(rule={"name": "muon"}), device="cpu")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("name", ["adamw_corrected", "shampoo_corrected"])
def test_training_gives_the_items_of_a_step_to_a_rule_that_needs_them(name: str, tmp_path: Path) -> None:
    """Against the rule stepped by hand, warm-up included."""
    run = fut.train(tmp_path / "run", config(name, warmup={"steps": 6, "ramp": 3}), device="cpu")
    problem, items = run.context.problem, run.context.problem.data.warmup
    rule, _ = problem.rule, problem.objective.module  # which a transform cannot build
    state, warmup = rule.init(problem.objective.start()), problem.config.warmup
    assert warmup.steps > 4

    def stepped(state: Any, gradients: list[torch.Tensor], rate: float) -> Any:
        stack = torch.stack(gradients)
        return rule.step(state, stack.mean(0), rate, signals=Signals(stack))[0]

    for t in range(warmup.steps):
        chosen = [items[(t + i) % warmup.steps] for i in range(4)]
        grads = [torch.func.grad(lambda at, i=item: problem.objective.loss(at, i))(state.theta) for item in chosen]
        state = stepped(state, grads, warmup.rate * min(1.0, (t + 1) / warmup.ramp))
    assert torch.allclose(state.theta, run.context.state(0).theta, rtol=0, atol=1e-10)
    for t, step in enumerate(run.reference.steps):
        state = stepped(state, [problem.gradient(state.theta, item) for item in step], problem.rate(t))
    assert torch.allclose(state.theta, run.context.state(run.steps).theta, rtol=0, atol=1e-10)
    losses = [problem.objective.loss(run.context.state(0).theta, problem.data.items[i]).item() for i in range(4)]
    recorded = run.context.checkpoints.read(1).attributes["train_loss"]
    assert recorded == pytest.approx(sum(losses) / 4, abs=1e-12)


def test_sophia_trains_on_curvature_that_goes_with_the_item(tmp_path: Path) -> None:
    rule = {"name": "sophia", "options": {"period": 4}}  # warm-up ends there
    run = fut.train(tmp_path / "run", config("sophia", rule=rule), device="cpu")
    problem = run.context.problem
    theta = run.context.state(0).theta
    one, again, other = (item_curvature(problem)(theta, item) for item in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    expected = 0.99 * run.context.state(0).memory["h"] + (1 - 0.99) * one
    assert torch.equal(run.context.state(1).memory["h"], expected)
    assert torch.equal(run.context.state(2).memory["h"], run.context.state(1).memory["h"])
    for method in ("replay-exact", "replay", "taylor1"):
        with pytest.raises(
            UsageError, match=f'{method}: expected a rule that reads the mean gradient.*use estimator="retrain"'
        ):
            run.estimate(["reverse"], method, known=False)
    assert default_estimator(run.context) == "retrain"


@pytest.mark.parametrize("name", ["muon", "shampoo", "adafactor", "soap", "lamb", "lion", "adamw_corrected"])
def test_replay_with_exact_curvature_follows_real_retraining(name: str, tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", config(name, schedule={"rate": 1e-4}), device="cpu")
    assert run.estimate(["identity"], "replay-exact", known=False)[0].value == run.reference_loss
    orders = [f"random:{seed}" for seed in range(3)]
    truth = [run.retrain(order).loss for order in orders]
    found = [e.value for e in run.estimate(orders, "replay-exact", known=False)]
    off = max(abs(a - b) for a, b in zip(found, truth, strict=True))
    effect = max(abs(b - run.reference_loss) for b in truth)
    assert effect > 0
    assert off < 0.35 * effect


def test_muon_is_replayed_with_all_coordinates_and_refused_on_a_sample(tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", config("muon", cache={"coordinates": 200}), device="cpu")
    with pytest.raises(
        UsageError, match=r"replay: expected all \d+ coordinates .*`grouped`.*coupling `matrix`.*got a sample of 200"
    ):
        run.cache(["gradient", "norm"])
    full = fut.train(tmp_path / "full", config("muon", schedule={"rate": 1e-4}), device="cpu")
    full.cache(["gradient", "norm"])
    truth = full.retrain("reverse").loss - full.reference_loss
    assert full.estimate(["reverse"], "replay", known=False)[0].delta == pytest.approx(truth, rel=0.5)
    assert full.estimate(["identity"], "replay", known=False)[0].delta == 0


def test_shampoo_is_replayed_and_its_memory_refused_by_what_samples_coordinates(tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", config("shampoo", schedule={"rate": 1e-4}), device="cpu")
    with pytest.raises(
        UsageError, match=r"adjoint: expected a rule with one number of memory .*`shampoo` with \d+ in `factors`"
    ):
        run.cache(["adjoint"])
    assert default_estimator(run.context) == "replay"
    run.cache(["gradient", "norm"])
    truth = run.retrain("reverse").loss - run.reference_loss
    assert run.estimate(["reverse"], "replay", known=False)[0].delta == pytest.approx(truth, rel=0.5)


def test_what_is_linear_in_gradients_refuses_a_sign(tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", config("lion"), device="cpu")
    for terms, name in ((["adjoint"], "adjoint"), (["update"], "terms"), (["adjoint", "lowrank"], "adjoint")):
        with pytest.raises(
            UsageError, match=f'{name}: expected a rule with a derivative.*`lion`.*use estimator="replay", replay-exact'
        ):
            run.cache(terms)
    with pytest.raises(UsageError, match="taylor1: expected a rule with a derivative"):
        run.estimate(["reverse"], "taylor1", known=False)
    run.cache()  # what is usual leaves these out
    assert default_estimator(run.context) == "replay"
    assert run.estimate(["reverse"], known=False)[0].value != run.reference_loss


@pytest.mark.parametrize("name", RULES)
def test_the_table_of_rules_says_what_is_refused(name: str) -> None:
    """With all coordinates kept, and with a sample of them, for each method that prepares something."""
    table = {info.name: info.estimators for info in rule_table()}
    if name in ("muon", "grouped"):  # with the groups below, whose widest coupling is that of Muon
        assert table["muon"] == table["lamb"]
        assert table["grouped"] == table["adamw"]
    told = table["muon" if name == "grouped" else name]
    problem = build_problem(config(name), torch.device("cpu"))
    size = problem.objective.size
    for method in METHODS:
        if method.preparation is None:
            continue
        for kept in (size, size // 3):
            own = config(
                name,
                cache={"coordinates": 0 if kept == size else kept},
                adjoint={"coordinates": kept, "rank": 0},
                reweighting={"coordinates": kept},
                lowrank={"rank": 2, "num_anchors": 1, "refresh": 1},
            )
            refused = _refused(method, problem, own)
            allowed = told.get(method.name) == "" or (told.get(method.name) == ALL and kept == size)
            assert refused is not allowed, (method.name, kept, told.get(method.name))


def _refused(method: Any, problem: Any, own: Config) -> bool:
    try:
        spec = method.preparation.planned(problem, own)
        if method.preparation is PAIRWISE_TERMS:
            layout = TermLayout.of(problem, own.cache)
            spec = PairwiseSpec(problem, layout, needs(layout, method.name))
        method.preparation.require_possible(spec)
    except UsageError as error:
        return f"`{problem.rule.name}`" in str(error)
    return False


def test_the_table_counts_memory_by_parameter() -> None:
    memory = {info.name: info.memory for info in rule_table()}
    assert (memory["sgd"], memory["lion"], memory["adamw"], memory["adafactor"]) == (0.0, 1.0, 2.0, 0.003)
    assert memory["shampoo"] == round(1 + (512**2 + 1024**2) / (512 * 1024), 3)


@pytest.mark.parametrize("name", ["shampoo", "lion", "sophia", "adamw_corrected"])
def test_a_plan_leaves_out_what_does_not_take_the_rule(name: str) -> None:
    found = plan(config(name))
    queries = {stage.stage.removeprefix("query: ") for stage in found.stages if stage.stage.startswith("query")}
    told = {info.name: info.estimators for info in rule_table()}[name]
    assert queries <= set(told)
    assert any(stage.stage == "one retraining" for stage in found.stages)


def test_grouped_is_made_of_rules_that_need_items() -> None:
    rule = make_rule("grouped", groups=[{"name": "all", "rule": "adamw_corrected"}])
    assert rule.signals == {"micro_batches"}
