"""Items finer than batches, several to a step, and items with weights: through the run and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import shared
from small import Cli, MakeRun, arguments, small_config

import fut
from estimators.orders.order import Order, random_order
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates
from fut.methods.registry import METHODS
from fut.models.transformer import Transformer, next_token_loss
from fut.training.problem import Problem

BATCHES: dict[str, Any] = {"data": {"items": 12, "per_step": 4}}
SEQUENCES: dict[str, Any] = {"data": {"items": 12, "per_step": 4, "batch": 1}}
ONE_SEQUENCE: dict[str, Any] = {"data": {"items": 5, "batch": 1}}
ADAMW: dict[str, Any] = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
MOVING = [
    m.name for m in METHODS if m.capabilities.moves_items and m.name not in ("lowrank", "retrain")
]  # see test_curved_run
FLOAT64: dict[str, Any] = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
KINDS = pytest.mark.parametrize("sections", [BATCHES, SEQUENCES, ONE_SEQUENCE], ids=["batches", "sequences", "one"])
EPOCHS = {"data": {"items": 6, "per_step": 2, "epochs": 2}}
SAMPLED = {"cache": {"coordinates": 700}, "rule": {"name": "adamw", "options": {"clip": 0.5}}}


def test_the_reference_order_consumes_items_in_turn(make_run: MakeRun) -> None:
    run = make_run(cached=False, **EPOCHS)
    steps = ((0, 1), (2, 3), (4, 5))
    assert run.reference.steps == run.context.problem.reference.steps == steps * 2
    assert (run.steps, run.items, run.context.config.consumed) == (6, 6, 12)
    info = run.info()
    assert info["items_per_step"] == 2
    assert info["query_gradients"]["retrain"] == 12


def test_items_must_fill_their_steps(cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(fut.UsageError, match=r"`data\.per_step`: .*expected a divisor of data\.items=12; .*got 5"):
        small_config(data={"items": 12, "per_step": 5})
    settings = arguments(data={"items": 12, "batch": 1, "per_step": 3})
    said = cli("train", "--out", tmp_path / "run", "--steps", 4, *settings, "--device", "cpu", "--json").json
    assert (said["steps"], said["items"], said["items_per_step"]) == (4, 12, 3)


def test_warm_up_and_probe_are_cut_for_a_step(make_run: MakeRun) -> None:
    data = build_dataset(small_config(data=SEQUENCES["data"] | {"probe": 32}))
    assert [tuple(i[0].shape) for i in data.items] == [(1, 13)] * 12
    assert {tuple(i[0].shape) for i in data.warmup} == {(4, 13)}
    assert {len(i[0]) for i in data.probe} == {16}


@KINDS
@pytest.mark.parametrize("name", [*MOVING, "retrain"])
def test_identity_order_is_the_reference_bitwise(make_run: MakeRun, sections: dict[str, Any], name: str) -> None:
    run = make_run(**sections)
    identity, other = run.estimate(["identity", "random:3"], name, known=False)
    assert identity.value == run.reference_loss
    assert name == "reference" or other.value != run.reference_loss
    assert run.estimate([run.reference.steps], name, known=False)[0].value == run.reference_loss


@pytest.mark.parametrize("name", ["replay", "adjoint", "taylor1"])
def test_identity_order_is_bitwise_with_clipping_and_a_sample(make_run: MakeRun, name: str) -> None:
    run = make_run(**SEQUENCES, **SAMPLED, adjoint={"coordinates": 900})
    orders = ["identity", [[0, 1, 2, 3, 4], [5, 6], [7]], "random:1"]
    alone = [run.estimate([o], name, known=False)[0].value for o in orders]
    assert alone[0] == run.reference_loss
    assert [e.value for e in run.estimate(orders, name, known=False)] == alone, "whatever batch an order stands in"


@pytest.mark.parametrize("name", ["reference", "replay", "replay-exact"])
def test_the_endpoint_of_the_identity_order_is_bitwise(make_run: MakeRun, name: str) -> None:
    run = make_run(**BATCHES)
    found = run.methods.open(name).final_states([run.reference, run.order("reverse")])
    assert torch.equal(found[0], run.context.state(run.steps).theta)
    short = Order(run.reference.steps[:2])
    assert torch.equal(run.methods.open("replay").final_states([short])[0], run.context.state(2).theta)


def torch_optim_endpoint(run: fut.Run, order: Order) -> torch.Tensor:
    """The slow reference: torch.optim.AdamW, one backward pass per item, no code of the trainer."""
    config, model = run.context.config, run.context.config.model
    module = Transformer(256, config.data.context, model.width, model.layers, model.heads).double()
    torch.nn.utils.vector_to_parameters(run.context.state(0).theta, module.parameters())
    options = config.rule.options
    optimizer = torch.optim.AdamW(
        module.parameters(), config.schedule.rate, tuple(options["betas"]), options["eps"], options["weight_decay"]
    )
    for t, step in enumerate(order.entries):
        optimizer.param_groups[0]["lr"] = run.context.problem.rate(t)
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        for item, weight in step:
            share = weight / sum(w for _, w in step)
            (share * next_token_loss(module, run.context.problem.data.items[item][0])).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


EXACT: dict[str, Any] = FLOAT64 | {"rule": {"name": "adamw", "options": ADAMW | {"eps": 1e-4}}, "warmup": {"steps": 0}}
HALVED = Order.of([{"items": [0, 5, 7, 9], "weights": [1, 0.5, 0, 2]}, [1, 1, 4], [2, 3, 6, 8, 10, 11]])


@pytest.mark.parametrize("sections", [BATCHES, SEQUENCES], ids=["batches", "sequences"])
@pytest.mark.parametrize("name", ["identity", "random:7", "weighted"])
def test_training_in_new_batches_is_what_torch_optim_does(
    make_run: MakeRun, sections: dict[str, Any], name: str
) -> None:
    run = make_run(cached=False, **sections, **EXACT)
    order = HALVED if name == "weighted" else run.order(name)
    found, expected = run.retrain(order).theta, torch_optim_endpoint(run, order)
    assert (expected - run.context.state(0).theta).abs().max() > 1e-4, (
        "a comparison of runs that did not move says nothing"
    )
    assert (found - expected).abs().max() < 1e-12


def test_the_recorded_loss_of_a_step_is_its_items_mean(make_run: MakeRun) -> None:
    run = make_run(cached=False, **SEQUENCES, **FLOAT64)
    for t, step in enumerate(run.reference.steps):
        losses = [
            run.context.problem.objective.loss(run.context.state(t).theta, run.context.problem.data.items[i]).item()
            for i in step
        ]
        assert run.context.checkpoints.read(t + 1).attributes["train_loss"] == pytest.approx(sum(losses) / 4, rel=1e-12)


@pytest.fixture(scope="module", params=[1, 2])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A run of which items 1 and 5 are equal, of one sequence or of two each. Shared: read only."""
    config = small_config(data={"items": 6, "per_step": 3, "batch": request.param})
    data = build_dataset(config)
    twin = Dataset((*data.items[:5], data.items[1]), data.probe, data.warmup)
    run = fut.train(tmp_path_factory.mktemp("twins") / "run", config, data=twin, device="cpu")
    run.cache("all")
    return run


@pytest.mark.parametrize("name", ["fut", "taylor2", "replay", "replay-exact", "adjoint", "retrain"])
def test_exchanging_equal_items_between_steps_changes_nothing(twins: fut.Run, name: str) -> None:
    orders = [[[0, 5, 2], [3, 4, 1]], [[2, 1, 0], [5, 4, 3]], [[0, 3, 2], [1, 4, 5]]]
    swapped, shuffled, moved = twins.estimate(orders, name, known=False)
    assert swapped.delta == shuffled.delta == 0.0
    assert moved.delta != 0.0, "an estimator that never moves would pass the line above"


@pytest.mark.parametrize("name", ["replay", "replay-exact", "adjoint", "taylor1", "retrain"])
def test_leaving_items_out_is_the_smaller_batch(make_run: MakeRun, name: str) -> None:
    run = make_run(**SEQUENCES)
    smaller = [[0, 1, 2], [4, 6, 7], [8, 9, 10, 11]]
    out, same, whole = run.estimate(["without:3,5", smaller, "identity"], name, known=False)
    assert out.value == same.value != whole.value
    assert out.order != same.order, "they are two orders that train the same content"


def test_the_truth_of_a_weighted_order_is_found_again(tmp_path: Path, cli: Cli) -> None:
    run = shared(tmp_path / "run", small_config(**SEQUENCES), cached=False)
    weighted = run.order("identity").without([3, 5])
    assert run.context.retrained.find(weighted) is None
    truth = run.retrain(weighted)
    assert truth.loss != run.reference_loss
    again = fut.open(tmp_path / "run", device="cpu")
    for same in (weighted, again.order([[0, 1, 2], [7, 6, 4], [8, 9, 10, 11]])):
        assert again.context.retrained.find(same).loss == truth.loss  # type: ignore[union-attr]
    assert again.context.retrained.find(again.reference) is None, "a weighted order is not the one without weights"
    (tmp_path / "order.json").write_text(json.dumps(weighted.tolist()))
    for spec in ("without:3,5", tmp_path / "order.json"):
        said = cli("estimate", tmp_path / "run", "--order", spec, "--estimator", "reference", "--json").json
        assert (said["source"], said["truth"], said["order"]) == ("estimate", truth.loss, weighted.digest)
        said = cli("estimate", tmp_path / "run", "--order", spec, "--json").json
        assert (said["source"], said["value"], said["order"]) == ("retrained", truth.loss, weighted.digest)


def test_a_calibrated_answer_does_not_take_a_weighted_order_for_the_reference(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(**SEQUENCES), cached=False)
    run.cache(["adjoint"])
    run.calibrate(orders=4)
    half = Order.of([{"items": [0, 1, 2, 3], "weights": [1, 1, 1, 0.5]}, [4, 5, 6, 7], [8, 9, 10, 11]])
    alike = Order.of([{"items": [3, 2, 1, 0], "weights": [3, 3, 3, 3]}, [4, 5, 6, 7], [8, 9, 10, 11]])
    answers = run.estimate([half, alike, "identity"])
    assert [a.source for a in answers] == ["estimate", "retrained", "retrained"]
    assert answers[0].interval is not None
    assert answers[1].value == answers[2].value == run.reference_loss
    table = run.verify(orders=3, estimators=["adjoint"])
    assert all(sorted(i for s in o for i in s) == list(range(12)) for o in table.orders)


def test_a_step_of_weight_nothing_still_decays(make_run: MakeRun) -> None:
    run = make_run(cached=False, **EXACT, **ONE_SEQUENCE)
    found = run.retrain("without:4").theta
    assert torch.equal(found, run.retrain([[0], [1], [2], [3], []]).theta)
    assert not torch.equal(found, run.retrain(Order.of([0, 1, 2, 3])).theta)


def test_the_adjoint_expands_about_whole_steps(make_run: MakeRun) -> None:
    run = make_run(**SEQUENCES)
    expansion = open_expansion(run.context)
    assert [len(g) for g in expansion.spec.trajectory.groups] == [4] * 4 * run.steps
    assert all(len(set(g)) == 4 for g in expansion.spec.trajectory.groups)
    counts = torch.bincount(torch.tensor(expansion.spec.trajectory.groups).flatten(), minlength=12)
    assert counts.tolist() == [4] * 12, "each item as often as any other"


def test_the_adjoint_follows_the_truth_of_new_batches(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(data={"items": 32, "per_step": 4, "batch": 1}), cached=False)
    run.cache(["adjoint"])
    orders = [random_order(run.reference, 11, i) for i in range(8)]
    truth = torch.tensor([run.retrain(o).loss for o in orders])
    found = torch.tensor(raw_estimates(run.methods.open("adjoint"), orders)[0])
    assert torch.corrcoef(torch.stack([truth, found]))[0, 1] > 0.9


def test_show_batch_names_the_weights(make_run: MakeRun, cli: Cli) -> None:
    run = make_run(**SEQUENCES)
    shown = cli("show-batch", run.path, 1, "--order", "without:5", "--json").json["items"]
    assert [(e["item"], e["weight"]) for e in shown] == [(4, 1.0), (5, 0.0), (6, 1.0), (7, 1.0)]
    said = cli("show-batch", run.path, 1, "--order", "without:5").out
    assert "item 5, weight 0, content hash" in said
    assert "item 4, content hash" in said


@pytest.mark.parametrize("per_step", [1, 4])
def test_what_replay_exact_costs_is_counted(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, per_step: int) -> None:
    run = make_run(cached=False, data={"items": 12, "per_step": per_step})
    plan, said = run.plan()["query: replay-exact"].gradients, run.info()["query_gradients"]["replay-exact"]
    taken: list[int] = []
    for name, cost in {
        "gradient": lambda *_: 1,
        "product": lambda *_: 2,
        "mean_gradient": lambda *a: len(a[2]),
    }.items():
        monkeypatch.setattr(Problem, name, counted(getattr(Problem, name), cost, taken))
    run.estimate(["reverse"], "replay-exact", known=False)
    at_the_start = 2 * per_step  # the first step stands where the reference run did, so that nothing is to be corrected
    assert plan == said == sum(taken) + at_the_start == 3 * 12


def counted(function: Callable[..., Any], cost: Callable[..., int], taken: list[int]) -> Callable[..., Any]:
    """The same function, which adds what a call costs to a list."""

    def call(*arguments: Any) -> Any:
        taken.append(cost(*arguments))
        return function(*arguments)

    return call
