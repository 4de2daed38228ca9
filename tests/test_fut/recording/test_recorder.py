"""Trainings that users run, recorded: what is recorded is what happened, and nothing is disturbed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from user_loops import FIRST, PROBE, STEPS, Net, adamw, batches, net, recorded, replay_error, trained

import fut
from fut.errors import ModelError


def two_optimizers(model: nn.Module) -> list[Optimizer]:
    return [
        AdamW(model.body.parameters(), lr=0.02),  # type: ignore[union-attr]
        SGD([*model.norm.parameters(), *model.head.parameters()], lr=0.05, momentum=0.9),  # type: ignore[union-attr]
    ]


@pytest.mark.parametrize(
    ("make", "loop"),
    [
        (adamw, {}),
        (adamw, {"accumulate": 2}),
        (adamw, {"clip": 0.2}),
        (adamw, {"clip": 0.2, "accumulate": 3}),
        (two_optimizers, {}),
        (lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True), {"clip": 0.3}),
        (lambda m: AdamW(m.head.parameters(), lr=0.02), {}),
    ],
    ids=[
        "groups",
        "accumulated",
        "clipped",
        "clipped and accumulated",
        "two optimizers",
        "nesterov",
        "a part is frozen",
    ],
)
@pytest.mark.parametrize("start", [0, FIRST])
def test_a_window_is_replayed_as_it_was(tmp_path: Path, make: Any, loop: dict[str, Any], start: int) -> None:
    run = recorded(tmp_path / "run", make, start, **loop)
    assert replay_error(run) <= 1e-5
    assert run.steps == STEPS
    assert run.items == STEPS * loop.get("accumulate", 1)
    assert run.estimate(["identity"], "retrain")[0].value == run.reference_loss


def test_another_order_is_what_the_users_own_loop_gives(tmp_path: Path) -> None:
    """The truth under another order, by torch alone: the same loop with batches exchanged inside the window."""
    run = recorded(tmp_path / "run")
    order = [3, 1, 5, 0, 2, 4]
    model = net()
    optimizer = adamw(model)
    given = list(batches(FIRST + STEPS))
    given[FIRST:] = [given[FIRST + i] for i in order]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4) * (1 - step / 40))
    for x, y in given:
        model(x, y).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    with torch.no_grad():
        expected = torch.stack([model(**batch) for batch in PROBE]).mean().item()
    [ours] = run.estimate([order], "retrain")
    assert ours.value == pytest.approx(expected, abs=2e-6)
    assert abs(expected - run.reference_loss) > 1e-4


def test_estimates_of_a_recorded_run(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", accumulate=2)
    run.cache(["adjoint"])
    orders = [f"random:{seed}" for seed in range(12)]
    estimated = [e.delta for e in run.estimate(orders, "adjoint")]
    truth = [e.delta for e in run.estimate(orders, "retrain")]
    assert spearmanr(estimated, truth).statistic > 0.9


def test_it_is_opened_again_with_the_module(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run")
    model = net()
    optimizer = adamw(model)
    trained(model, [optimizer], count=FIRST)
    again = fut.open(run.path, module=model, device="cpu")
    assert again.estimate(["reverse"], "retrain")[0].value == run.estimate(["reverse"], "retrain")[0].value


def test_a_run_is_computed_where_its_training_was_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine that has another kind of device, whose random numbers are others."""
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=STEPS)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], count=STEPS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert recorder.finish(PROBE).context.device == torch.device("cpu")


def test_labels_that_are_not_forwarded_are_said(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", start=FIRST, steps=STEPS, loss=cross_entropy)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer], explicit=recorder)
    run = recorder.finish([(b["x"], b["y"]) for b in PROBE], device="cpu")
    assert replay_error(run) <= 1e-5


def cross_entropy(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


ALONE = """
import random, sys
import numpy, torch
sys.path.insert(0, "tests")
from user_loops import FIRST, STEPS, adamw, net, trained
import fut

def states():
    return random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist()

alone, watched = net(), net()
own, seen = adamw(alone), adamw(watched)
trained(alone, [own], clip=0.2)
before = states()
recorder = fut.Recorder(sys.argv[1], start=FIRST, steps=STEPS)
with recorder.watch(watched, seen):
    trained(watched, [seen], clip=0.2)
assert states() == before
assert all(torch.equal(p, q) for p, q in zip(alone.parameters(), watched.parameters(), strict=True))
assert not watched._forward_pre_hooks and not seen._optimizer_step_post_hooks
"""


def test_the_training_is_left_alone(tmp_path: Path) -> None:
    """In a process of its own: here the checks of shapes draw random numbers themselves."""
    done = subprocess.run([sys.executable, "-c", ALONE, tmp_path / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hooks_of_the_users_own_stay_and_see_what_they_saw(tmp_path: Path) -> None:
    """One that changes the inputs: the items are what the user forwards, and the copy that is trained anew has it too."""

    def halved_inputs(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] / 2, *args[1:])

    model = net()
    model.register_forward_pre_hook(halved_inputs)
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", start=FIRST, steps=STEPS)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer])
    run = recorder.finish([(b["x"], b["y"]) for b in PROBE], device="cpu")
    assert len(model._forward_pre_hooks) == 1
    assert replay_error(run) <= 1e-5
    assert torch.equal(run.context.problem.data.items[0][0], list(batches(FIRST + 1))[FIRST][0])


def test_the_copy_is_of_the_model_alone(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", start=FIRST, steps=STEPS)
    with recorder.watch(model, optimizer):
        trained(model, [optimizer])
        window = recorder._watch.window if recorder._watch else None
        assert window is not None
        assert not window.module._forward_pre_hooks


def test_an_item_may_be_said_after_it_was_forwarded(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=3, loss=cross_entropy)
    with recorder.watch(model, optimizer):
        for x, y in batches(3):
            out = model(x)
            recorder.item(x, y)
            nn.functional.cross_entropy(out, y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert replay_error(recorder.finish([(b["x"], b["y"]) for b in PROBE], device="cpu")) <= 1e-5


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["parallel", "compiled"]
)
def test_wrapped_models_are_seen_inside(tmp_path: Path, wrap: Any) -> None:
    model = net()
    wrapped, optimizer = wrap(model), adamw(model)
    recorder = fut.Recorder(tmp_path / "run", start=1, steps=3)
    with recorder.watch(wrapped, optimizer):
        trained(wrapped, [optimizer], count=4)
    assert replay_error(recorder.finish(PROBE, device="cpu")) <= 1e-5


def test_evaluation_in_between_is_no_item(tmp_path: Path) -> None:
    model = net()
    optimizer = adamw(model)
    recorder = fut.Recorder(tmp_path / "run", steps=2)
    with recorder.watch(model, optimizer):
        for x, y in batches(2):
            with torch.no_grad():
                model(x, y)
            model.eval()
            model(x, y)
            model.train()
            model(x, y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert recorder.finish(PROBE, device="cpu").items == 2


class Divided(Net):
    """Divides its loss as models of Hugging Face do where they are told how many targets a step has."""

    def forward(self, x: Tensor, y: Tensor | None = None, num_items_in_batch: float | None = None) -> Tensor:
        out = super().forward(x)
        if y is None:
            return out
        summed = nn.functional.cross_entropy(out, y, reduction="sum")
        return summed / (num_items_in_batch or len(y))


@pytest.mark.parametrize("divisors", [(10,), (10, 12)], ids=["alike", "unlike"])
def test_losses_divided_by_the_targets_of_a_step(tmp_path: Path, divisors: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Divided()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = fut.Recorder(tmp_path / "run", steps=4)
    given = batches(8)

    def loop() -> None:
        with recorder.watch(model, optimizer):
            for step in range(4):
                for _ in range(2):
                    x, y = next(given)
                    model(x, y, num_items_in_batch=divisors[step % len(divisors)]).backward()
                optimizer.step()
                optimizer.zero_grad()

    if len(divisors) > 1:
        with pytest.raises(ModelError, match="steps of equally many targets, got 12 after 10"):
            loop()
        return
    loop()
    run = recorder.finish(PROBE, device="cpu")
    assert replay_error(run) <= 1e-5
    with torch.no_grad():
        expected = torch.stack([model(**batch) for batch in PROBE]).mean().item()
    assert run.reference_loss == pytest.approx(expected, abs=1e-6)


class Masked(Net):
    """Means over the labels that count, as of token models."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        out = super().forward(x)
        return out if labels is None else nn.functional.cross_entropy(out, labels)


def test_items_count_by_their_targets_where_the_loop_counts_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Masked()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = fut.Recorder(tmp_path / "run", steps=4)
    given = [(x, y.where(torch.arange(5) < 1 + i % 5, -100)) for i, (x, y) in enumerate(batches(8))]
    with recorder.watch(model, optimizer):
        for first in range(0, 8, 2):
            counts = [int((y != -100).sum()) for _, y in given[first : first + 2]]
            for (x, y), count in zip(given[first : first + 2], counts, strict=True):
                (model(x, y) * count / sum(counts)).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = recorder.finish([{"x": b["x"], "labels": b["y"]} for b in PROBE], device="cpu")
    assert replay_error(run) <= 1e-5
    assert run.context.config.data.weights == [1.0 + i % 5 for i in range(8)]


def test_a_training_that_ends_inside_the_window(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", count=FIRST + STEPS - 1)
    assert run.steps == STEPS - 1
    assert replay_error(run) <= 1e-5


def test_questions_need_no_estimator_named_where_tensors_have_groups(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run")
    run.cache()
    [answer] = run.estimate(["reverse"])
    assert answer.value == run.estimate(["reverse"], "adjoint")[0].value
    assert run.whatif(edits=["swap:1,4"])
    assert run.search(evaluations=20, verify=2, heuristics=["reverse"]).order
    assert run.report().path.exists()
