"""Items that weigh otherwise than alike in the mean of their step: every order trains as plain torch does with token means."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import fut
from fut.errors import UsageError
from fut.training.weights import item_weights

COUNTS = [2, 7, 3, 6, 7, 2, 2, 7]
RATE = 3e-2


class Net(nn.Module):
    """Predicts the next of nine tokens from the last."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 6), nn.Linear(6, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embedding(tokens))
        return logits


def token_loss(module: nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over the labels that count."""
    return nn.functional.cross_entropy(module(tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> tuple[fut.Run, nn.Module]:
    """A run of steps of two items with 2 to 7 counted tokens each, which weigh by their tokens; and its module."""
    torch.manual_seed(0)
    tokens = torch.randint(1, 9, (11, 1, 8))
    labels = tokens.clone()
    for number, count in enumerate(COUNTS):
        labels[number, :, count + 1 :] = -100
    pairs = tuple(zip(tokens, labels, strict=True))
    config = fut.load_config(
        data={"items": 8, "per_step": 2, "weights": COUNTS},
        model={"dtype": "float64"},
        warmup={"steps": 0},
        schedule={"kind": "constant", "rate": RATE},
        adjoint={"functionals": 0, "curvature": "items"},
    )
    module = Net().double()
    path = tmp_path_factory.mktemp("padded") / "run"
    run = fut.train(path, config, module=module, loss=token_loss, data=fut.Dataset(pairs[:8], pairs[8:]), device="cpu")
    run.cache(["adjoint"])
    return run, module


def plainly_trained(run: fut.Run, module: nn.Module, steps: list[list[int]]) -> float:
    """The probe loss after torch.optim.AdamW on the sum of token losses over the step's tokens."""
    module, data = copy.deepcopy(module), run.context.problem.data
    optimizer = torch.optim.AdamW(module.parameters(), RATE, (0.9, 0.95), 1e-8, 0.0)
    for step in steps:
        optimizer.zero_grad()
        total = sum(COUNTS[item] for item in step)
        for item in step:
            (token_loss(module, *data.items[item]) * (COUNTS[item] / total)).backward()
        optimizer.step()
    with torch.no_grad():
        return sum(token_loss(module, *pair).item() for pair in data.probe) / len(data.probe)


def test_every_order_trains_on_means_over_tokens(padded: tuple[fut.Run, nn.Module]) -> None:
    run, module = padded
    assert run.reference_loss == pytest.approx(plainly_trained(run, module, run.reference.tolist()), rel=1e-9)
    for order in ("random:1", "reverse", [[7, 5], [1, 3], [0, 6], [2, 4]]):
        steps = run.order(order).tolist()
        assert run.retrain(order).loss == pytest.approx(plainly_trained(run, module, steps), rel=1e-9)
    alone = list(run.reference.without([1]).canonical().steps)
    assert run.retrain("without:1").loss == pytest.approx(
        plainly_trained(run, module, [list(step) for step in alone]), rel=1e-9
    )


def test_estimates_know_the_weights(padded: tuple[fut.Run, nn.Module]) -> None:
    run, _ = padded
    exact = run.estimate(["identity", "reverse"], "replay-exact")
    assert exact[0].value == pytest.approx(run.reference_loss, rel=1e-12)
    found = run.verify(12, 0, ["adjoint", "replay-exact"])
    assert found.estimators["adjoint"]["spearman"] > 0.9
    assert found.estimators["adjoint"]["skill"] > 0.6
    assert run.estimate(["identity"], "adjoint")[0].value == run.reference_loss
    assert run.search(evaluations=8, verify=2).truths.retrained_loss is not None
    with pytest.raises(UsageError, match=r"reweighting: expected items that weigh alike"):
        run.cache(["reweighting"])


def test_weights_are_part_of_the_run(padded: tuple[fut.Run, nn.Module], tmp_path: Path) -> None:
    run, module = padded
    again = fut.open(run.path, module=module, loss=token_loss, device="cpu")
    assert list(item_weights(again.context.config)) == COUNTS
    assert "weights" not in fut.load_config(data={"items": 4}).data.model_dump(exclude_defaults=True)
    for weights in ([1, 2, 3, 0], [1, 2, 3, -1]):
        with pytest.raises(UsageError, match=r"data\.weights"):
            fut.load_config(data={"items": 4, "per_step": 2, "weights": weights})
    config = fut.load_config(data={"items": 8, "per_step": 2, "weights": [1, 2]}, warmup={"steps": 0})
    data = run.context.problem.data
    with pytest.raises(UsageError, match=r"data\.weights: expected a number for each of 8 items, got 2"):
        fut.train(tmp_path / "run", config, module=module, loss=token_loss, data=data, device="cpu")
