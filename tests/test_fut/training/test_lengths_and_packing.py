"""Items of different lengths, padded and packed ones, and items that are one sample of a step: as plain torch trains them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import fut
from fut.errors import FutWarning
from fut.models.forward import ForwardLoss
from fut.models.objective import Objective
from fut.training.samples import find_samples

transformers = pytest.importorskip("transformers")

VOCABULARY, ITEMS, RATE, LONG = 13, 8, 3e-3, 12
ORDERS = [f"random:{seed}" for seed in range(10)]
Item = dict[str, Tensor]


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2 * LONG,
        attn_implementation="eager",
        use_cache=False,
    )
    model: nn.Module = transformers.LlamaForCausalLM(config).double()
    return model


def document(number: int, length: int) -> Tensor:
    """Tokens [length] that the next can be told from, each document with a step of its own."""
    return (torch.arange(length) * (1 + number % 5) + number) % VOCABULARY


def lengths(number: int) -> Item:
    """One document, not padded."""
    tokens = document(number, 5 + number % 4 * 2)[None]
    return {"input_ids": tokens, "labels": tokens}


def padded(number: int) -> Item:
    """Two documents in two rows, padded: labels of -100, and a mask."""
    short = 3 + number % 4 * 2
    tokens = torch.stack([document(number, LONG), document(number + 1, LONG)])
    mask = torch.ones_like(tokens)
    mask[1, short:] = 0
    return {"input_ids": tokens * mask, "labels": tokens.masked_fill(mask == 0, -100), "attention_mask": mask}


def packed(number: int) -> Item:
    """Two documents in one row, told apart by their positions alone; the first label of the second is not predicted."""
    cut = 4 + number % 4
    tokens = torch.cat([document(number, cut), document(number + 3, LONG - cut)])[None]
    labels = tokens.clone()
    labels[0, cut] = -100
    return {
        "input_ids": tokens,
        "labels": labels,
        "position_ids": torch.cat([torch.arange(cut), torch.arange(LONG - cut)])[None],
    }


def one_sample(number: int) -> Item:
    """One row of one length."""
    tokens = document(number, LONG)[None]
    return {"input_ids": tokens, "labels": tokens}


KINDS: dict[str, Callable[[int], Item]] = {f.__name__: f for f in (lengths, padded, packed, one_sample)}


@pytest.fixture(scope="module", params=[*KINDS])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A run of two items a step, with its adjoint pass."""
    make = KINDS[request.param]
    names = list(make(0))
    items = [tuple(make(number)[name] for name in names) for number in range(ITEMS)]
    probe = [tuple(make(number)[name] for name in names) for number in (8, 12)]  # of one shape, as a probe has to be
    config = fut.load_config(
        data={"items": ITEMS, "per_step": 2},
        model={"dtype": "float64", "forward": names},
        warmup={"steps": 0},
        schedule={"kind": "constant", "rate": RATE},
        rule={"name": "adamw", "options": {"betas": [0.9, 0.95], "eps": 1e-6}},
        adjoint={"functionals": 2},
    )
    path: Path = tmp_path_factory.mktemp(request.param) / "run"
    run = fut.train(path, config, module=llama(), data=fut.Dataset(items, probe), device="cpu")
    whole = request.param in ("lengths", "padded")
    with pytest.warns(FutWarning, match="items are taken whole") if whole else nullcontext():
        run.cache(["adjoint"])
    return run


def plainly(run: fut.Run, steps: list[list[int]]) -> float:
    """The probe loss after torch.optim.AdamW on the mean of the items' losses, by plain backward passes."""
    module, data = llama(), run.context.problem.data
    loss = ForwardLoss(tuple(run.context.config.model.forward))
    optimizer = torch.optim.AdamW(module.parameters(), RATE, (0.9, 0.95), 1e-6, 0.0)
    module.train()
    for step in steps:
        optimizer.zero_grad()
        for item in step:
            (loss(module, *data.items[item]) / len(step)).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        return sum(loss(module, *item).item() for item in data.probe) / len(data.probe)


def test_orders_train_as_plain_torch_does(trained: fut.Run) -> None:
    assert trained.reference_loss == pytest.approx(plainly(trained, trained.reference.tolist()), rel=1e-9)
    for name in ("random:3", "reverse"):
        order = trained.order(name)
        assert trained.retrain(order).loss == pytest.approx(plainly(trained, order.tolist()), rel=1e-9)


def test_estimates_rank_orders_as_retraining_does(trained: fut.Run) -> None:
    true = [trained.retrain(order).loss for order in ORDERS]
    found = [e.value for e in trained.estimate(ORDERS, "adjoint", known=False, calibrated=False)]
    assert np.std(true) > 1e-4
    assert spearmanr(true, found)[0] >= 0.9
    (same,) = trained.estimate(["identity"], "adjoint", known=False)
    assert same.value == trained.reference_loss


def test_documents_of_a_pack_do_not_see_one_another() -> None:
    """Which the module sees from the positions: the loss is the mean over the documents' own tokens."""
    module, item = llama(), packed(1)
    cut = int((item["position_ids"][0] == 0).nonzero()[1])
    parts = [item["input_ids"][:, :cut], item["input_ids"][:, cut:]]
    with torch.no_grad():
        together = ForwardLoss(tuple(item))(module, *item.values())
        alone = [module(input_ids=part, labels=part).loss * (part.shape[1] - 1) for part in parts]
    assert together.item() == pytest.approx(sum(alone).item() / (LONG - 2), rel=1e-6)


def test_rows_that_count_differently_are_no_samples_wherever_they_stand() -> None:
    """The loss of several rows together is the mean over their tokens: with uneven rows not the mean over the rows."""

    def item(count: int) -> tuple[Any, ...]:
        tokens = document(count, LONG)[None]
        return tokens, tokens.masked_fill(torch.arange(LONG) > count, -100)

    made = Objective(llama(), ForwardLoss(("input_ids", "labels")), torch.device("cpu"), torch.float64)
    assert find_samples(made, [item(8)] * 9)
    for place in (0, 3, 8):
        uneven = [item(8)] * 9
        uneven[place] = item(4)
        assert not find_samples(made, uneven), f"item {place} of 9"
