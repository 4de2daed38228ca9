"""Trainings that draw random numbers: each item keeps the state of the generator that its forward pass began with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import PROBE as TOKENS
from hf_models import WORDS, rows, stacked
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from user_loops import FIRST, PROBE, STEPS, Net, adamw, batches, net, recorded, replay_error, trained

import fut
from fut.errors import ModelError


class Noisy(Net):
    """Noise that no layer announces."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x, y)


def with_dropout() -> Any:
    model: Any = net()
    model.norm = nn.Sequential(model.norm, nn.Dropout(0.3))
    return model


def noisy() -> Any:
    torch.manual_seed(0)
    return Noisy()


def of_window(path: Path, make: Callable[[], Any], **loop: Any) -> fut.Run:
    model = make()
    optimizer = adamw(model)
    recorder = fut.Recorder(path, start=FIRST, steps=STEPS, loss=cross_entropy if "said" in loop else None)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], explicit=recorder if loop.pop("said", False) else None, **loop)
    probe = PROBE if recorder._loss is None else [(b["x"], b["y"]) for b in PROBE]
    return recorder.finish(probe, device="cpu")


def cross_entropy(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


@pytest.mark.parametrize("make", [with_dropout, noisy], ids=["dropout", "a function"])
@pytest.mark.parametrize("loop", [{}, {"accumulate": 3}, {"said": True}], ids=["plain", "accumulated", "said"])
def test_a_window_with_noise_is_replayed_as_it_was(tmp_path: Path, make: Any, loop: dict[str, Any]) -> None:
    run = of_window(tmp_path / "run", make, **loop)
    assert replay_error(run) <= 1e-5
    assert run.context.manifest.identity["config"]["model"]["noise"] == "recorded"
    assert run.estimate(["identity"], "retrain")[0].value == run.reference_loss


def test_noise_travels_with_its_item(tmp_path: Path) -> None:
    """The truth under another order is a loop of torch that sets the generator to each batch's own state."""
    run = of_window(tmp_path / "run", with_dropout)
    order = [3, 1, 5, 0, 2, 4]
    model = with_dropout()
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4) * (1 - step / 40))
    given = list(batches(FIRST + STEPS))
    items = run.context.problem.data.items
    steps = [(x, y, None) for x, y in given[:FIRST]] + [(*given[FIRST + i], items[i][-1]) for i in order]
    for x, y, state in steps:
        if state is not None:
            torch.set_rng_state(state)
        model(x, y).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    with torch.no_grad():
        expected = torch.stack([model.eval()(**batch) for batch in PROBE]).mean().item()
    assert run.estimate([order], "retrain")[0].value == pytest.approx(expected, abs=2e-6)
    assert abs(expected - run.reference_loss) > 1e-4


def test_estimates_of_a_run_with_noise(tmp_path: Path) -> None:
    run = of_window(tmp_path / "run", with_dropout, accumulate=2)
    run.cache(["adjoint"])
    orders = [f"random:{seed}" for seed in range(12)]
    estimated = [e.delta for e in run.estimate(orders, "adjoint")]
    truth = [e.delta for e in run.estimate(orders, "retrain")]
    assert spearmanr(estimated, truth).statistic > 0.9
    assert run.whatif(edits=["swap:1,4"])
    again = fut.open(run.path, module=with_dropout(), device="cpu")
    assert again.estimate(orders[:1], "adjoint")[0].delta == estimated[0]


def test_dropout_of_attention_in_a_model_of_hugging_face(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = rows(2 * 6)
    recorder = fut.Recorder(tmp_path / "run", start=2, steps=4)
    with recorder.watch(model, optimizer):
        for step in range(6):
            model(**stacked(data[2 * step : 2 * step + 2])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert replay_error(recorder.finish(TOKENS, device="cpu")) <= 1e-4  # key biases have no gradient but for rounding


def test_two_noisy_forward_passes_for_one_item_are_refused(tmp_path: Path) -> None:
    model = with_dropout()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=2, loss=cross_entropy)

    def loop() -> None:
        with recorder.watch(model, optimizer):
            x, y = next(batches(1))
            recorder.item(x, y)
            (model(x).mean() + nn.functional.cross_entropy(model(x), y)).backward()
            optimizer.step()

    with pytest.raises(ModelError, match=r"one forward pass for every item.*got 2 for 1 items"):
        loop()


def test_without_noise_items_hold_what_was_forwarded_alone(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run")
    assert "noise" not in run.context.manifest.identity["config"]["model"]
    assert {len(item) for item in run.context.problem.data.items} == {2}
