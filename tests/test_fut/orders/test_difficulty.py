"""Scores of the items of a run, and the orders named by them: against torch alone, kept, and refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from small import Cli, MakeRun, flip, small_config
from torch import nn

import fut
from estimators.errors import OrderError
from fut.data.dataset import Dataset
from fut.errors import UsageError
from storage import FORMAT, DamagedError, IdentityError, Manifest

FINE = {"data": {"items": 12, "per_step": 4, "batch": 1}}


def by_torch(run: fut.Run, step: int, item: int) -> tuple[float, float]:
    """Loss and gradient norm of an item at a checkpoint, with autograd on the module itself."""
    problem = run.context.problem
    module = fut.Transformer(256, 12, width=8, layers=1, heads=2)
    module.load_state_dict(problem.objective.state_dict(run.context.state(step).theta))
    loss = fut.next_token_loss(module, *problem.data.items[item])
    loss.backward()
    return loss.item(), math.sqrt(
        sum(p.grad.double().square().sum().item() for p in module.parameters() if p.grad is not None)
    )


def test_scores_are_what_torch_finds(small_run: fut.Run) -> None:
    first, last = ([by_torch(small_run, t, i) for i in range(5)] for t in (0, small_run.steps))
    assert small_run.orders.difficulty("loss").scores == pytest.approx([loss for loss, _ in first], rel=1e-6)
    assert small_run.orders.difficulty("gradient-norm").scores == pytest.approx([norm for _, norm in first], rel=1e-5)
    drops = [math.exp(a) - math.exp(b) for (a, _), (b, _) in zip(first, last, strict=True)]
    assert small_run.orders.difficulty("perplexity-drop").scores == pytest.approx(drops, rel=1e-3)
    assert small_run.orders.difficulty("length").scores == [26.0] * 5
    assert [small_run.orders.difficulty(k).unit for k in ("length", "loss", "perplexity-drop")] == [
        "tokens",
        "nats/token",
        "perplexity",
    ]


def test_names_are_orders_wherever_an_order_is_named(small_run: fut.Run, cli: Cli) -> None:
    scores = small_run.orders.difficulty("loss").scores
    ranked = sorted(range(5), key=scores.__getitem__)
    assert small_run.order("sort:loss").tolist() == ranked
    assert small_run.order("sort:loss:desc").tolist() == ranked[::-1]
    assert small_run.order("folding:loss:2").tolist() == [*ranked[::2], *ranked[1::2]]
    assert small_run.orders.arranged([-s for s in scores]).tolist() == ranked[::-1]
    said = cli("estimate", small_run.path, "--order", "zigzag:loss:2:desc", "--json").json
    assert said["order"] == small_run.orders.arranged(scores, "zigzag", 2, True).digest
    assert "sort:SCORE" in cli("estimate", small_run.path, "--order", "sorted").err


def test_finer_items_fill_steps_in_turn(make_run: MakeRun) -> None:
    run = make_run(cached=False, **FINE)
    scores = run.orders.difficulty("gradient-norm").scores
    ranked = sorted(range(12), key=scores.__getitem__)
    assert run.order("sort:gradient-norm").tolist() == [sorted(ranked[i : i + 4]) for i in (0, 4, 8)]


def test_scores_are_kept_and_belong_to_their_run(own_run: Path, make_run: MakeRun, tmp_path: Path) -> None:
    run, kept = fut.open(own_run, device="cpu"), own_run / "difficulty" / "loss.json"
    found = run.orders.difficulty("loss")
    changed = Manifest.read(kept)
    Manifest(changed.kind, FORMAT, changed.identity | {"scores": [4.0, 3.0, 2.0, 1.0, 0.0]}, changed.environment).write(
        kept
    )
    assert run.order("sort:loss").tolist() == [4, 3, 2, 1, 0], "kept scores are read, not computed again"
    other = Path(shutil.copytree(make_run(cached=False, data={"seed": 3}).path, tmp_path / "other"))
    (other / "difficulty").mkdir(exist_ok=True)
    shutil.copy(kept, other / "difficulty" / "loss.json")
    with pytest.raises(IdentityError, match=r"loss\.json: expected a file of this run"):
        fut.open(other, device="cpu").orders.difficulty("loss")
    (other / "difficulty" / "loss.json").unlink()
    theirs = fut.open(other, device="cpu").orders.difficulty("loss").scores
    assert theirs[0] not in (4.0, found.scores[0])
    assert theirs == make_run(cached=False, data={"seed": 3}).orders.difficulty("loss").scores
    flip(kept, kept.read_text().index("scores"))
    with pytest.raises(DamagedError, match=r"loss\.json"):
        fut.open(own_run, device="cpu").orders.difficulty("loss")
    assert any("loss.json" in d.path for d in run.check())


def test_named_orders_are_what_run_order_reads(small_run: fut.Run, make_run: MakeRun) -> None:
    orders = small_run.orders.named()
    assert list(orders)[:3] == ["identity", "reverse", "sort:loss"]
    assert {"sort:gradient-norm:desc", "folding:perplexity-drop:4", "saw:loss:3:desc", "segment:loss:25"} <= set(orders)
    assert not [name for name in orders if "length" in name], "batches of one length have no order by it"
    for name, order in orders.items():
        assert small_run.order(name) == order
        assert order.multiset_digest == small_run.reference.multiset_digest
    short = make_run(cached=False, data={"items": 3}).orders.named()
    assert "sort:loss" in short
    assert not [name for name in short if name.startswith("folding")]


def test_items_of_different_length_sort_by_it(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    items = tuple((torch.randn(n, 4, generator=draw), torch.zeros(n, dtype=torch.long)) for n in (3, 1, 2))
    config = fut.load_config(data={"items": 3}, warmup={"steps": 0})
    loss = lambda module, x, y: nn.functional.cross_entropy(module(x), y)  # noqa: E731
    run = fut.train(
        tmp_path / "run", config, module=nn.Linear(4, 2), loss=loss, data=Dataset(items, items[:1]), device="cpu"
    )
    assert run.orders.difficulty("length").scores == [12.0, 4.0, 8.0]
    assert run.order("sort:length").tolist() == [1, 2, 0]
    assert "sort:length:desc" in run.orders.named()


def test_what_cannot_be_sorted_is_refused(small_run: fut.Run, cli: Cli) -> None:
    with pytest.raises(
        OrderError, match=r"differ in length for `sort:length`, got 5 items of 26 tokens each; sort by another"
    ):
        small_run.order("sort:length")
    with pytest.raises(UsageError, match="expected one of length, loss, gradient-norm, perplexity-drop, got `beauty`"):
        small_run.order("sort:beauty")
    with pytest.raises(OrderError, match="expected 5 scores, one per item, got 6"):
        small_run.orders.arranged([1.0] * 6)
    with pytest.raises(OrderError, match="folds from 2 to 5"):
        small_run.order("folding:loss:6")
    said = cli("estimate", small_run.path, "--order", "sort:beauty", "--json")
    assert (said.status, said.out) == (2, "")
    assert json.loads((small_run.path / "order.json").read_text())["order"] == [0, 1, 2, 3, 4]


def test_a_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    item = (torch.ones(2, 1) * 500, torch.zeros(2, 1))
    loss = lambda module, x, y: (module(x) - y).square().mean()  # noqa: E731
    config, module = small_config(data={"items": 1}, warmup={"steps": 0}, schedule={"rate": 1e-6}), nn.Linear(1, 1)
    nn.init.ones_(module.weight)  # a loss of 250,000, whatever the bias: its perplexity is infinite
    run = fut.train(tmp_path / "run", config, module=module, loss=loss, data=Dataset((item,), (item,)), device="cpu")
    with pytest.raises(UsageError, match="finite perplexity-drop of item 0, got"):
        run.orders.difficulty("perplexity-drop")
