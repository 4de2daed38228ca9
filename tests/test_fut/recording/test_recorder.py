"""Trainings that users run, recorded: what is recorded is what happened, or is refused by name, and nothing is disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import fut
from estimators.errors import RuleError
from fut.errors import DataError, ModelError, UsageError

STEPS, FIRST = 6, 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(x).tanh()))
        return out if y is None else nn.functional.cross_entropy(out, y)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batches(count: int, seed: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(5, 4, generator=draw)
        yield x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


PROBE = [{"x": x, "y": y} for x, y in batches(3, seed=9)]


def adamw(model: nn.Module) -> Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=0.02)


def trained(
    model: Net,
    optimizers: list[Optimizer],
    count: int = FIRST + STEPS + 1,
    accumulate: int = 1,
    clip: float | None = None,
    explicit: fut.Recorder | None = None,
) -> None:
    """A user's own loop, with a warm-up and a decay of the rate."""

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 4) * (1 - step / 40)

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    given = batches(count * accumulate)
    for _ in range(count):
        for _ in range(accumulate):
            x, y = next(given)
            if explicit is None:
                loss = model(x, y)
            else:
                explicit.item(x, y)
                loss = nn.functional.cross_entropy(model(x), y)
            (loss / accumulate).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def recorded(path: Path, make: Callable[[nn.Module], Any] = adamw, start: int = FIRST, **loop: Any) -> fut.Run:
    model = net()
    made = make(model)
    optimizers = made if isinstance(made, list) else [made]
    recorder = fut.Recorder(path, start=start, steps=STEPS)
    with recorder.watch(model, *optimizers):
        trained(model, optimizers, **loop)
    return recorder.finish(PROBE, device="cpu")


def replay_error(run: fut.Run) -> float:
    """The largest, as a fraction of how far the parameters moved."""
    said = json.loads((run.path / "recording.json").read_text())
    return float(max(said["replay_errors"].values()))


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


def test_the_training_is_left_alone(tmp_path: Path) -> None:
    alone, watched = net(), net()
    own, seen = adamw(alone), adamw(watched)
    torch.manual_seed(5)
    trained(alone, [own], clip=0.2)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    recorder = fut.Recorder(tmp_path / "run", start=FIRST, steps=STEPS)
    with recorder.watch(watched, seen):
        trained(watched, [seen], clip=0.2)
    assert torch.equal(torch.get_rng_state(), state)
    for p, q in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not watched._forward_pre_hooks
    assert not seen._optimizer_step_post_hooks


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


class Noisy(Net):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x), y)


def with_dropout() -> nn.Module:
    model = net()
    model.norm = nn.Sequential(model.norm, nn.Dropout(0.1))  # type: ignore[assignment]
    return model


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
        (with_dropout, None, 1, r"dropout 0.1 in `norm.1`"),
        (with_batch_norm, None, 1, r"running statistics in `norm`"),
        (Noisy, None, 1, r"random numbers in the forward pass"),
        (net, halved, 1, r"gradients that a hook edits"),
        (net, None, -2, r"got 2 times it; divide the loss by the number of micro-batches"),
        (lambda: net().bfloat16(), None, 1, r"float32 or float64, got torch.bfloat16"),
    ],
    ids=["dropout", "batch norm", "noise", "edited gradients", "sum of losses", "bfloat16"],
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


def test_autocast_is_refused(tmp_path: Path) -> None:
    model = net()
    recorder = fut.Recorder(tmp_path / "run", steps=STEPS)
    with (
        pytest.raises(ModelError, match="got autocast"),
        recorder.watch(model, adamw(model)),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(*next(batches(1)))


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
    with pytest.raises(ModelError, match=r"first after step 6.*something else than the optimizer writes"):
        recorder.finish(PROBE, device="cpu")


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


def test_questions_need_no_estimator_named_where_tensors_have_groups(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run")
    run.cache()
    [answer] = run.estimate(["reverse"])
    assert answer.value == run.estimate(["reverse"], "adjoint")[0].value
    assert run.whatif(edits=["swap:1,4"])
    assert run.search(evaluations=20, verify=2, heuristics=["reverse"]).order
    assert run.report().path.exists()
