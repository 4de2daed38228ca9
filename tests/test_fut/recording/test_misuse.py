"""What people do in a training, a row of the table in docs/recording.md each: repeated as it was, or refused with the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import PROBE as TOKENS
from hf_models import llama, rows, stacked
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel
from user_loops import PROBE, Net, batches, net, replay_error

import fut
from estimators.errors import RuleError
from fut.errors import DataError, ModelError

Step = Callable[[Any, Any, int, Tensor, Tensor], None]
STEPS = 5


def plain(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    model(x, y).backward()
    optimizer.step()
    optimizer.zero_grad()


def closure(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(x, y)
        loss.backward()
        return loss

    optimizer.step(evaluate)


def zeroed_before(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad(set_to_none=False)
    model(x, y).backward()
    optimizer.step()


def never_zeroed(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    model(x, y).backward()
    optimizer.step()


def rate_by_hand(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.03 / (1 + step)
    plain(model, optimizer, step, x, y)


def decay_by_hand(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.3 * step
    plain(model, optimizer, step, x, y)


def clipped_by_value(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    model(x, y).backward()
    nn.utils.clip_grad_value_(model.parameters(), 0.02)
    optimizer.step()
    optimizer.zero_grad()


def incomplete(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    rows = 2 if step == 3 else 5
    plain(model, optimizer, step, x[:rows], y[:rows])


def reused(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    """One buffer for all batches, which the loop overwrites."""
    loss = model(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    x.zero_()


class Scaled:
    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def __call__(self, model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
        self.scaler.scale(model(x, y)).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()


class Averaged:
    averaged: Any = None

    def __call__(self, model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
        plain(model, optimizer, step, x, y)
        self.averaged = self.averaged or AveragedModel(model)
        self.averaged.update_parameters(model)
        self.averaged(x, y)


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head.weight = self.body.weight


def tied() -> Any:
    torch.manual_seed(0)
    return Tied()


def unfrozen(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    model.body.requires_grad_(step >= 2)
    plain(model, optimizer, step, x, y)


def evaluating(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    model.eval()
    plain(model, optimizer, step, x, y)


def joint(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
    """A loss of two forward passes that is no sum of theirs."""
    (model(x, y) * model(x.flip(0), y)).backward()
    optimizer.step()
    optimizer.zero_grad()


def adamw(model: nn.Module, **settings: Any) -> Optimizer:
    return AdamW(model.parameters(), lr=0.02, **settings)


def fused(model: nn.Module) -> Optimizer:
    return adamw(model, fused=True)


def looped(path: Path, step: Step, make: Any = net, optimizer: Any = adamw) -> fut.Run:
    model = make()
    own = optimizer(model)
    recorder = fut.Recorder(path, start=1, steps=STEPS)
    with recorder.watch(model, own):
        for number, (x, y) in enumerate(batches(1 + STEPS)):
            step(model, own, number, x, y)
    return recorder.finish(PROBE, device="cpu")


@pytest.mark.parametrize(
    ("step", "make", "optimizer"),
    [
        (closure, net, adamw),
        (zeroed_before, net, adamw),
        (rate_by_hand, net, adamw),
        (incomplete, net, adamw),
        (reused, net, adamw),
        (Scaled(), net, adamw),
        (Scaled(), net, fused),
        (plain, net, fused),
        (plain, net, lambda m: adamw(m, foreach=True)),
        (Averaged(), net, adamw),
        (plain, tied, adamw),
    ],
    ids=[
        "closure",
        "zero_grad before",
        "a rate by hand",
        "an incomplete batch",
        "an overwritten batch",
        "a gradient scaler",
        "a gradient scaler and a fused optimizer",
        "a fused optimizer",
        "foreach",
        "an average of weights",
        "tied weights",
    ],
)
def test_it_is_repeated(tmp_path: Path, step: Any, make: Any, optimizer: Any) -> None:
    assert replay_error(looped(tmp_path / "run", step, make, optimizer)) <= 1e-5


@pytest.mark.parametrize(
    ("step", "optimizer", "message"),
    [
        (never_zeroed, adamw, r"the gradient of the 1 items.*gradients of earlier steps that were not zeroed"),
        (decay_by_hand, adamw, r"a rate or another constant that was changed between steps"),
        (clipped_by_value, adamw, r"clipping other than by the global norm"),
        (unfrozen, adamw, r"expected the same trained tensors in the whole window, got `body.bias`"),
        (evaluating, adamw, r"got none; forward them through the watched model in training mode"),
        (joint, adamw, r"a loss that is not the recorded one"),
        (closure, lambda m: torch.optim.LBFGS(m.parameters()), r"got torch.optim.lbfgs.LBFGS"),
        (plain, lambda m: AdamW(m.parameters(), lr=0.02, maximize=True), r"expected maximize=False"),
    ],
    ids=[
        "no zero_grad",
        "a decay by hand",
        "clipping by value",
        "unfreezing",
        "evaluation mode",
        "a joint loss",
        "LBFGS",
        "maximize",
    ],
)
def test_it_is_refused(tmp_path: Path, step: Any, optimizer: Any, message: str) -> None:
    with pytest.raises((ModelError, DataError, RuleError), match=message):
        looped(tmp_path / "run", step, net, optimizer)
    assert not list(tmp_path.iterdir())


def test_a_step_that_a_scaler_leaves_out_is_refused(tmp_path: Path) -> None:
    """Its items are forwarded, and no step follows: the next has too many."""
    scaled = Scaled()

    def overflowing(model: Any, optimizer: Any, step: int, x: Tensor, y: Tensor) -> None:
        scaled(model, optimizer, step, x * torch.inf if step == 2 else x, y)

    with pytest.raises((ModelError, DataError)):
        looped(tmp_path / "run", overflowing, net, lambda m: SGD(m.parameters(), lr=0.1))


def test_an_optimizer_inside_the_backward_pass(tmp_path: Path) -> None:
    """One for each tensor, which steps as soon as the tensor has its gradient."""
    model = net()
    optimizers = {p: SGD([p], lr=0.1, momentum=0.9) for p in model.parameters()}

    def stepped(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(stepped)
    recorder = fut.Recorder(tmp_path / "run", start=1, steps=STEPS)
    with recorder.watch(model, *optimizers.values()):
        for x, y in batches(1 + STEPS):
            model(x, y).backward()
    assert replay_error(recorder.finish(PROBE, device="cpu")) <= 1e-5


def attention(kind: str, checkpointing: bool, dropout: float) -> Any:
    model: Any = llama()
    model.set_attn_implementation(kind)
    model.config.attention_dropout = dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = dropout
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "checkpointing", "dropout"),
    [("sdpa", False, 0.0), ("sdpa", True, 0.2), ("eager", True, 0.0), ("eager", False, 0.2)],
)
def test_attention_of_hugging_face(tmp_path: Path, kind: str, checkpointing: bool, dropout: float) -> None:
    model = attention(kind, checkpointing, dropout)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = fut.Recorder(tmp_path / "run", start=1, steps=3)
    with recorder.watch(model, optimizer):
        for step in range(4):
            model(**stacked(rows(2, seed=step))).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run = recorder.finish(TOKENS, device="cpu")
    assert replay_error(run) <= 1e-5
    assert run.context.config.model.noise == ("recorded" if dropout else "content")


def packed(step: int) -> dict[str, Tensor]:
    """Two rows in one, their positions beginning anew, with the lengths of the step."""
    first, second = 4 + step, 9 - step // 2
    given = rows(2, seed=step)
    parts = [given[0]["input_ids"][:first], given[1]["input_ids"][:second]]
    tokens = torch.cat(parts)[None]
    labels = tokens.clone()
    labels[0, len(parts[0])] = -100
    return {
        "input_ids": tokens,
        "labels": labels,
        "position_ids": torch.cat([torch.arange(len(part)) for part in parts])[None],
    }


@pytest.mark.filterwarnings("ignore::fut.errors.FutWarning")
def test_packed_rows_of_different_lengths(tmp_path: Path) -> None:
    model = llama().train()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = fut.Recorder(tmp_path / "run", start=1, steps=3)
    with recorder.watch(model, optimizer):
        for step in range(4):
            model(**packed(step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run = recorder.finish([packed(9), packed(9)], device="cpu")
    assert replay_error(run) <= 1e-5
    run.cache(["adjoint"])
    assert run.estimate(["reverse"], "adjoint")[0].value != run.reference_loss
