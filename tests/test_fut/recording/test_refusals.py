"""Trainings that cannot be repeated, and windows and probes that are none: refused by name, and early."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from user_loops import PROBE, STEPS, Net, adamw, batches, net, recorded, trained

import fut
from estimators.errors import RuleError
from fut.errors import DataError, ModelError, UsageError


class Other(Net):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x * random.uniform(0.8, 1.2), y)


def with_batch_norm() -> nn.Module:
    model = net()
    model.norm = nn.BatchNorm1d(8)  # type: ignore[assignment]
    return model


def halved(model: nn.Module) -> None:
    for p in model.parameters():
        p.register_hook(lambda grad: grad * torch.linspace(0.5, 1, grad.numel()).view(grad.shape))


@pytest.mark.parametrize(
    ("make", "prepare", "accumulate", "message"),
    [
        (with_batch_norm, None, 1, r"running statistics in `norm`"),
        (Other, None, 1, r"random numbers that are not torch's"),
        (net, halved, 1, r"gradients that a hook edits"),
        (net, None, -2, r"got 2 times it; divide the loss by the number of micro-batches"),
        (lambda: net().bfloat16(), None, 1, r"float32 or float64, got torch.bfloat16"),
    ],
    ids=["batch norm", "noise", "edited gradients", "sum of losses", "bfloat16"],
)
def test_what_cannot_be_repeated_fails_at_the_first_step(
    tmp_path: Path, make: Any, prepare: Any, accumulate: int, message: str
) -> None:
    model = make()
    if prepare:
        prepare(model)
    optimizer = SGD(model.parameters(), lr=0.1)
    recorder = fut.Recorder(tmp_path / "run", steps=STEPS)
    taken: list[int] = []
    given = batches(20)
    with pytest.raises(ModelError, match=message):
        watched_loop(recorder, model, optimizer, given, abs(accumulate), taken)
    assert len(taken) <= 1


def watched_loop(
    recorder: fut.Recorder, model: Any, optimizer: Optimizer, given: Iterator[Any], accumulate: int, taken: list[int]
) -> None:
    with recorder.watch(model, optimizer):
        for step in range(STEPS):
            for _ in range(accumulate):
                x, y = next(given)
                model(x.to(model.head.weight.dtype), y).backward()
            taken.append(step)
            optimizer.step()
            optimizer.zero_grad()


def test_a_tensor_that_something_else_writes_is_found(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=STEPS)
    with recorder.watch(model, optimizer):
        for step, (x, y) in enumerate(batches(STEPS)):
            model(x, y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 3:
                model.head.bias.data.add_(0.05)
    for _ in range(2):  # and again, with nothing in the way
        with pytest.raises(ModelError, match=r"first after step 6.*something else than the optimizer writes"):
            recorder.finish(PROBE, device="cpu")
        assert not list(tmp_path.iterdir()), "no directory is left that could be opened"


def test_windows_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="steps >= 2"):
        fut.Recorder(tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="at least two steps after the first 100, got 0"):
        recorded(tmp_path / "run", start=100)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(UsageError, match="a new or empty directory"):
        fut.Recorder(tmp_path / "full")
    with pytest.raises(UsageError, match="the optimizers that train"), fut.Recorder(tmp_path / "run").watch(net()):
        pass


def test_steps_of_unequal_numbers_of_items(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=3)
    given = batches(10)
    with recorder.watch(model, optimizer):
        for count in (2, 2, 1):
            for _ in range(count):
                (model(*next(given)) / count).backward()
            optimizer.step()
            optimizer.zero_grad()
    with pytest.raises(DataError, match="equally many micro-batches, got 1, 2"):
        recorder.finish(PROBE, device="cpu")


def test_a_step_that_a_scaler_skips_is_refused(tmp_path: Path) -> None:
    model = net()
    optimizer = AdamW(model.parameters(), fused=True)
    recorder = fut.Recorder(tmp_path / "run", steps=STEPS)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]  # as a gradient scaler tells a fused optimizer
    with pytest.raises(ModelError, match="a gradient scaler skipped"), recorder.watch(model, optimizer):
        optimizer.step()


def test_optimizers_that_are_no_rules_are_named(tmp_path: Path) -> None:
    model = net()
    with (
        pytest.raises(RuleError, match=r"got torch.optim.adagrad.Adagrad"),
        fut.Recorder(tmp_path / "run").watch(model, torch.optim.Adagrad(model.parameters())),
    ):
        pass


@pytest.mark.parametrize(
    "probe", [PROBE[0], [PROBE[0]["x"]], [(PROBE[0]["x"],)], 3], ids=["one", "tensor", "part", "none"]
)
def test_probes_that_are_none(tmp_path: Path, probe: Any) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=2)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], count=2)
    with pytest.raises(DataError, match=r"probe: expected"):
        recorder.finish(probe, device="cpu")


def test_a_second_window_needs_a_second_recorder(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=2)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], count=2)
    with pytest.raises(UsageError, match="make a recorder for each"), recorder.watch(model, optimizer):
        pass


def test_settings_that_the_recording_decides_are_refused(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=2)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], count=2)
    with pytest.raises(UsageError, match="got `model`; remove it"):
        recorder.finish(PROBE, device="cpu", settings={"model": {"factory": "a:b"}})
    settings = {"adjoint": {"functionals": 1}, "model": {"unit": "nats/token"}}
    run = recorder.finish(PROBE, device="cpu", settings=settings)
    assert run.estimate(["identity"], "retrain")[0].unit == "nats/token"
    assert run.context.config.adjoint.functionals == 1


def test_a_file_is_no_directory_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="a new or empty directory"):
        fut.Recorder(tmp_path / "run")
