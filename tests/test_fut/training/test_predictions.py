"""Measures in function space against their definitions, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fut.models.objective import Objective
from fut.models.transformer import Transformer, next_token_loss
from fut.training.predictions import compared, predictions


class Classifier(nn.Module):
    """Gives a loss and logits, as classifiers of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def classifier() -> Objective:
    from fut.models.forward import ForwardLoss

    torch.manual_seed(0)
    return Objective(Classifier(), ForwardLoss(("labels", "x")), dtype=torch.float64)


def items() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randint(4, (5,), generator=draw), torch.randn(5, 3, generator=draw, dtype=torch.float64))
        for _ in range(3)
    ]


def test_every_measure_is_its_definition() -> None:
    objective = classifier()
    a = objective.start()
    b = a + torch.randn(a.shape, generator=torch.Generator().manual_seed(2), dtype=a.dtype)
    first, second, apart = compared(objective, a, b, items())
    labels = torch.cat([labels for labels, _ in items()])
    x = torch.cat([x for _, x in items()])
    logits = [x @ theta[:12].view(4, 3).T + theta[12:] for theta in (a, b)]
    p, q = (of.softmax(-1) for of in logits)
    for own, of in ((first, p), (second, q)):
        assert own["accuracy"] == pytest.approx((of.argmax(-1) == labels).double().mean().item())
        error, (best, answer) = 0.0, of.max(-1)
        for k in range(15):
            inside = (best >= k / 15) & ((best < (k + 1) / 15) | (torch.tensor(k) == 14))
            if inside.any():
                hit = (answer == labels)[inside].double().mean()
                error += (inside.double().mean() * (best[inside].mean() - hit).abs()).item()
        assert own["calibration_error"] == pytest.approx(error)
    kl = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
    centred = [of - of.mean(-1, keepdim=True) for of in logits]
    assert apart["symmetric_kl"] == pytest.approx(kl.mean().item() / 2)
    assert apart["disagreement"] == pytest.approx((p.argmax(-1) != q.argmax(-1)).double().mean().item())
    assert apart["logit_rms"] == pytest.approx((centred[0] - centred[1]).square().mean().sqrt().item())


def test_equal_models_are_at_distance_zero() -> None:
    objective = classifier()
    first, second, apart = compared(objective, objective.start(), objective.start(), items())
    assert first == second
    assert set(apart.values()) == {0.0}


def test_the_logits_of_a_language_model_give_its_loss() -> None:
    torch.manual_seed(0)
    objective = Objective(Transformer(11, 6, width=8, layers=1, heads=2), next_token_loss)
    tokens = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
    found = predictions(objective, objective.start(), (tokens,))
    assert found is not None
    logits, targets = found
    loss = nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(float(objective.loss(objective.start(), (tokens,))), rel=1e-5)
    assert math.isclose(loss, math.log(11), rel_tol=0.3)


def test_targets_that_count_nothing_are_left_out() -> None:
    objective = classifier()
    labels, x = items()[0]
    labels[1:] = -100
    found = predictions(objective, objective.start(), (labels, x))
    assert found is not None
    assert [len(part) for part in found] == [1, 1]


def test_a_loss_of_ones_own_tells_no_predictions() -> None:
    torch.manual_seed(0)
    objective = Objective(nn.Linear(3, 1), lambda module, x: module(x).square().mean())
    assert compared(objective, objective.start(), objective.start(), [(torch.ones(2, 3),)]) == ({}, {}, {})
