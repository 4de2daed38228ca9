"""Items of any kind: pooled only where their first dimension is samples; and data that no rate can train are refused as such."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_torch import by_fut, by_torch, config, cross_entropy, next_token, numbers, pairs, perceptron, tokens
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import fut
from fut.errors import DataError, FutWarning, ModelError, UsageError
from fut.models.objective import Item, Objective
from fut.training.samples import find_samples

PAIRS = pairs(12)


# --- items and losses whose first dimension is not samples


class Recurrent(nn.Module):
    """Time comes first."""

    def __init__(self, every: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.every, self.r, self.o = every, nn.GRU(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        states = self.r(x)[0]
        return self.o(states if self.every else states[-1])


def by_time(every: bool) -> list[Item]:
    x = numbers(12, 6, 4, 3)
    return list(zip(x, (x.cumsum(1).sum(-1) > 0).long() if every else (x.sum((1, 3)) > 0).long(), strict=True))


def last_state(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(m(x).flatten(0, -2), y.flatten())


def packed() -> list[Item]:
    """Sequences one after another, and where they begin."""
    draw = torch.Generator().manual_seed(1)
    found: list[Item] = []
    for k in range(12):
        ends = torch.tensor([0, 3, 5 + k % 3])
        found.append((torch.randn(int(ends[-1]), 6, generator=draw), ends, torch.randint(0, 2, (2,), generator=draw)))
    return found


def of_packed(m: nn.Module, x: Tensor, ends: Tensor, y: Tensor) -> Tensor:
    means = [x[a:b].mean(0) for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return functional.cross_entropy(m(torch.stack(means)), y)


def graphs(square: bool) -> list[Item]:
    draw = torch.Generator().manual_seed(2)

    def one(k: int) -> Item:
        n = 6 if square else 5 + k % 3
        edges = torch.randint(0, n, (6, 2) if square else (8, 2), generator=draw)
        labels = torch.randint(0, 2, (6 if square else 1,), generator=draw)
        return torch.randn(n, 6, generator=draw), edges if square else edges.T.contiguous(), labels

    return [one(k) for k in range(12)]


def of_graph(m: nn.Module, x: Tensor, edges: Tensor, y: Tensor) -> Tensor:
    source, target = edges.T if len(edges) == len(x) else edges
    h = torch.zeros_like(x).index_add(0, target, x[source])
    return functional.cross_entropy(m(h if len(y) > 1 else h.mean(0, keepdim=True)), y)


def contrastive(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    a, b = (functional.normalize(m(z), dim=-1) for z in (x, x + 0.3))
    return functional.cross_entropy(4 * a @ b.T, torch.arange(len(x)))


def summed(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(m(x), y, reduction="sum")


def weighted(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(m(x), y, weight=torch.tensor([1.0, 20.0]))


def ranked(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Every positive above every negative of the item."""
    z = m(x)[:, 0]
    return functional.relu(1 - (z[:, None] - z[None]) * (y[:, None] > y[None])).mean()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.Embedding(9, 6), nn.Linear(6, 9)

    def forward(self, t: Tensor) -> Tensor:
        return self.o(self.e(t))


def padded() -> list[Item]:
    found: list[Item] = []
    for (t,) in tokens(12, rows=4):
        t = t.clone()
        t[0, 2:], t[2, 4:] = 0, 0
        found.append((t,))
    return found


def of_padded(m: nn.Module, t: Tensor) -> Tensor:
    return functional.cross_entropy(m(t[:, :-1]).flatten(0, 1), t[:, 1:].flatten(), ignore_index=0)


def batch_normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2))


Case = tuple[Callable[[], nn.Module], Callable[..., Tensor], list[Item], str]
WHOLE: dict[str, Case] = {
    "time first": (lambda: Recurrent(False), last_state, by_time(False), "tensors of 6, 4 rows"),
    "time first, labels too": (lambda: Recurrent(True), last_state, by_time(True), "not the mean over its rows"),
    "packed": (perceptron, of_packed, packed(), "tensors of 5, 3, 2 rows"),
    "graph": (perceptron, of_graph, graphs(False), "tensors of 5, 2, 1 rows"),
    "graph, as many edges as nodes": (perceptron, of_graph, graphs(True), "the loss"),
    "contrastive": (perceptron, contrastive, PAIRS, "not the mean over its rows"),
    "sum": (perceptron, summed, PAIRS, "not the mean over its rows"),
    "class weights": (perceptron, weighted, PAIRS, "not the mean over its rows"),
    "ranking": (perceptron, ranked, PAIRS, "not the mean over its rows"),
    "padded": (Tokens, of_padded, padded(), "not the mean over its rows"),
    "batch statistics": (batch_normed, cross_entropy, PAIRS, "not the mean over its rows"),
    "several shapes": (
        perceptron,
        lambda m, x: m(x).square().mean(),
        [(numbers(2, 6),), (numbers(2, 3, 6),)],
        "2 shapes",
    ),
    "an empty tensor": (
        perceptron,
        lambda m, x, _: m(x).square().mean(),
        [(numbers(2, 6), torch.empty(0))] * 2,
        "2, 0 rows",
    ),
}


def bce(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(m(x)[:, 0], y.float())


def regression(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(m(x)[:, 0], x.sum(-1))


def penalised(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(m, x, y) + 0.05 * sum(p.square().sum() for p in m.parameters())


SAMPLES: dict[str, Case] = {
    "classification": (perceptron, cross_entropy, PAIRS, ""),
    "binary": (perceptron, bce, PAIRS, ""),
    "regression": (perceptron, regression, PAIRS, ""),
    "language model": (Tokens, next_token, tokens(12), ""),
    "weight penalty": (perceptron, penalised, PAIRS, ""),
    "dropout": (lambda: nn.Sequential(perceptron(), nn.Dropout(0.3)), cross_entropy, PAIRS, ""),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)), cross_entropy, PAIRS, ""),
    "one row each": (perceptron, cross_entropy, [(x[:1], y[:1]) for x, y in PAIRS], ""),
}


@pytest.mark.parametrize("name", [*WHOLE, *SAMPLES])
def test_whether_the_first_dimension_is_samples_is_found(name: str) -> None:
    make, loss, items, said = (WHOLE | SAMPLES)[name]
    found = find_samples(Objective(make(), loss), items)
    assert said in found.reason
    assert bool(found) is (name in SAMPLES)


@pytest.mark.parametrize("name", ["time first", "packed", "graph", "contrastive"])
def test_items_that_are_not_made_of_samples_are_taken_whole_and_that_is_said(name: str, tmp_path: Path) -> None:
    make, loss, items, said = WHOLE[name]
    net, probe = make(), [items[9]] * 2
    run = by_fut(tmp_path / "run", net, loss, items[:8], probe)
    for order in (list(range(8)), [5, 2, 7, 0, 6, 1, 4, 3]):
        expected = by_torch(net, loss, items[:8], probe, order)
        assert run.retrain(order).loss == pytest.approx(expected, abs=2e-6)
    assert any(said in note for note in run.plan().notes)
    with pytest.warns(FutWarning, match=rf'adjoint: items are taken whole, with adjoint.curvature = "items" .*{said}'):
        run.cache(["adjoint"])
    alike = by_fut(tmp_path / "alike", net, loss, items[:8], probe, adjoint={"curvature": "items"})
    alike.cache(["adjoint"])
    orders = ["reverse", *(f"random:{i}" for i in range(3))]
    found, again = ([e.value for e in r.estimate(orders, known=False)] for r in (run, alike))
    assert found == again
    with pytest.raises(UsageError, match=r"groups: expected probe chunks .* samples, .*of the probe"):
        run.context.readouts.get("probe:0of2")
    truths = [run.retrain(order).loss for order in orders]
    away = sum(abs(a - b) for a, b in zip(found, truths, strict=True))
    if name == "contrastive":  # at this rate too bent for an estimate of first order
        return
    assert away < 0.5 * sum(abs(b - run.reference_loss) for b in truths)


# --- losses that are not finite at the starting parameters


def ignored(which: int) -> list[Item]:
    found: list[Item] = []
    for number, (t,) in enumerate(tokens(11, rows=2)):
        labels = t.clone()
        labels[:, :2] = -100
        if number == which:
            labels[:] = -100
        found.append((t, labels))
    return found


def supervised(m: nn.Module, t: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(m(t)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def with_number(which: int, number: float) -> list[Item]:
    found: list[Item] = [(x.clone(), y) for x, y in PAIRS[:11]]
    found[which][0][0, 0] = number
    return found


def linear() -> nn.Module:
    return nn.Linear(6, 2)


def with_zeros(which: int) -> list[Item]:
    return [(0 * x, y) if i == which else (x, y) for i, (x, y) in enumerate(PAIRS[:11])]


def logarithm(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return -(x.abs().sum().log() + m(x).sigmoid().log().mean())


BAD: dict[str, tuple[Callable[[], nn.Module], Any, list[Item], str]] = {
    "all labels ignored": (Tokens, supervised, ignored(3), "item 3: .* got nan"),
    "an ignored probe": (Tokens, supervised, ignored(9), "probe chunk 1: .* got nan"),
    "NaN in the data": (perceptron, cross_entropy, with_number(5, float("nan")), "item 5: .* got nan"),
    "infinity in the data": (linear, cross_entropy, with_number(2, float("inf")), "item 2: .* got nan"),
    "infinity in the probe": (linear, cross_entropy, with_number(10, float("inf")), "probe chunk 2: .* got nan"),
    "logarithm of zero": (perceptron, logarithm, with_zeros(4), "item 4: .* got inf"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_loss_that_is_not_finite_at_the_start_is_the_datas(name: str, tmp_path: Path) -> None:
    make, loss, data, said = BAD[name]
    for rate in (1e-2, 1e-12):
        with pytest.raises(DataError, match=rf"{said}, whatever the rate; look at its numbers and labels"):
            by_fut(tmp_path / "run", make(), loss, data[:8], data[8:], schedule={"rate": rate})
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_finite_for_no_item_is_the_models(tmp_path: Path) -> None:
    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (m(x) - 100).log().mean()

    with pytest.raises(ModelError, match=r"got nan for every item, whatever the rate; mend the forward pass"):
        by_fut(tmp_path / "run", perceptron(), loss, PAIRS[:8], PAIRS[8:])
    net: Any = perceptron()
    with torch.no_grad():
        net[2].bias[1] = float("nan")
    with pytest.raises(ModelError, match=r"finite starting parameters, got NaN or infinity in `2\.bias`"):
        by_fut(tmp_path / "run", net, cross_entropy, PAIRS[:8], PAIRS[8:])


def rooted(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (m(x) * x.abs().sum()).square().sum().sqrt()


@pytest.mark.parametrize("case", ["saturated", "square root at zero"])
def test_a_gradient_that_is_not_finite_at_the_start_is_the_datas_too(case: str, tmp_path: Path) -> None:
    """The loss is: tanh of infinity is 1, and the square root of 0 is 0."""
    data, loss = (with_number(2, float("inf")), cross_entropy) if case == "saturated" else (with_zeros(4), rooted)
    with pytest.raises(
        DataError, match=r"item [24]: expected a finite gradient at the starting parameters, .*whatever the rate"
    ):
        by_fut(tmp_path / "run", perceptron(), loss, data[:8], data[8:])
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_warm_up_item_is_looked_at_too(tmp_path: Path) -> None:
    data = with_number(9, float("nan"))
    chosen = config(8).model_copy(update={"warmup": fut.load_config(warmup={"steps": 2}).warmup})
    given = fut.Dataset(tuple(data[:8]), tuple(data[8:9]), tuple(data[9:]))
    with pytest.raises(DataError, match=r"warm-up step 0: .* got nan"):
        fut.train(tmp_path / "run", chosen, module=perceptron(), loss=cross_entropy, data=given, device="cpu")


# --- what a data set is made from


def test_a_data_set_may_be_made_from_whatever_gives_its_items_once() -> None:
    listed = fut.Dataset(tuple(PAIRS[:8]), tuple(PAIRS[8:]))
    for items, probe in (
        (((x, y) for x, y in PAIRS[:8]), iter(PAIRS[8:])),
        ([list(pair) for pair in PAIRS[:8]], [list(pair) for pair in PAIRS[8:]]),
        (map(tuple, PAIRS[:8]), zip(*zip(*PAIRS[8:], strict=True), strict=True)),
        (DataLoader(TensorDataset(*map(torch.cat, zip(*PAIRS[:8], strict=True))), 4), PAIRS[8:]),
    ):
        made = fut.Dataset(items, probe)
        assert made.identity() == listed.identity()
        assert len(made.items) == 8


X, Y = PAIRS[0]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([(X.clone().requires_grad_(), Y)], r"`items` 0: .*in place 0 that requires a gradient; detach\(\)"),
        ([(X, Y), (X, Y[0])], r"`items` 1: .*a single number in place 1; write tensor\[None\]"),
        ([(X.to_sparse(), Y)], r"`items` 0: expected dense tensors"),
        ((), r"at least one of `items`, got none"),
    ],
)
def test_what_is_no_item_is_named(items: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fut.Dataset(items, tuple(PAIRS[8:]))


def test_an_empty_tensor_in_an_item_is_data_like_any_other(tmp_path: Path) -> None:
    def loss(m: nn.Module, x: Tensor, y: Tensor, masked: Tensor) -> Tensor:
        return cross_entropy(m, x, y) + 0.1 * masked.sum()

    data = [(x, y, torch.empty(0) if i % 2 else torch.ones(2)) for i, (x, y) in enumerate(PAIRS)]
    run = by_fut(tmp_path / "run", perceptron(), loss, data[:8], data[9:10])
    assert run.retrain("reverse").loss == pytest.approx(
        by_torch(perceptron(), loss, data[:8], data[9:10], range(7, -1, -1)), abs=2e-6
    )
    with pytest.warns(FutWarning, match="tensors of 4, 4, 2 rows"):
        run.cache(["adjoint"])
    assert np.isfinite(run.estimate(["reverse"], known=False)[0].value)
