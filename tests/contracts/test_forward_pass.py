"""A forward pass is a function of parameters and item: noise is keyed by the item, memory is refused by name, and so is a
missing gradient that torch.optim would treat otherwise."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_torch import Body, by_fut, by_torch, cross_entropy, pairs, perceptron
from torch import Tensor, nn
from torch.nn.functional import dropout, mse_loss

from fut.errors import ModelError
from fut.training.trainer import train_order

PAIRS = pairs(11)
ORDERS = (list(range(8)), [5, 2, 7, 0, 6, 1, 4, 3])


# --- noise: of torch, of Python, of numpy, in training and in evaluation mode


def jitter(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(m, x + 0.1 * torch.randn_like(x), y)


def flip(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(m, x.flip(0) if random.random() < 0.5 else x, y.flip(0) if random.random() < 0.5 else y)


def mixup(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    share = float(np.random.beta(2, 2))
    other = torch.from_numpy(np.random.permutation(len(x)))
    mixed = share * x + (1 - share) * x[other]
    return share * cross_entropy(m, mixed, y) + (1 - share) * cross_entropy(m, mixed, y[other])


def denoising(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    t, n = torch.rand(len(x), 1), torch.randn(len(x), 2)
    return mse_loss(m(x * (1 - t) + t), n)


class Dropping(nn.Module):
    """Dropout that does not look at the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.f = perceptron()

    def forward(self, x: Tensor) -> Tensor:
        return self.f(dropout(x, 0.3, training=True))


NOISY: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor]]] = {
    "torch": (perceptron, jitter),
    "random": (perceptron, flip),
    "numpy": (perceptron, mixup),
    "denoising": (perceptron, denoising),
    "eval mode": (lambda: perceptron().eval(), jitter),
    "functional dropout": (Dropping, cross_entropy),
    "dropout layer": (lambda: nn.Sequential(perceptron(), nn.Dropout(0.2)), cross_entropy),
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_belongs_to_the_item(name: str, tmp_path: Path) -> None:
    make, loss = NOISY[name]
    net = make()
    states = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
    run = by_fut(tmp_path / "run", net, loss, PAIRS[:8], PAIRS[8:])
    problem = run.context.problem
    found = [train_order(problem, run.context.state(0), run.order(order)).loss for order in (*ORDERS, ORDERS[0])]
    assert (random.getstate(), repr(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert found[0] == found[2] == run.reference_loss
    for order, value in zip(ORDERS, found, strict=False):
        expected = by_torch(net, loss, PAIRS[:8], PAIRS[8:], order, noisy=True)
        assert value == pytest.approx(expected, abs=2e-6)


# --- noise that no seed decides


def own_generator() -> Callable[..., Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return lambda m, x, y: cross_entropy(m, x + 0.1 * torch.randn(x.shape, generator=drawn), y)


def own_numpy() -> Callable[..., Tensor]:
    drawn = np.random.default_rng(0)
    return lambda m, x, y: cross_entropy(m, x * float(drawn.uniform(0.5, 1)), y)


def entropy(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(m, x * random.SystemRandom().random(), y)


def clock(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(m, x * (time.perf_counter_ns() % 1000) / 1000, y)


def annealed() -> Callable[..., Tensor]:
    step = itertools.count()
    return lambda m, x, y: cross_entropy(m, x, y) * min(1.0, next(step) / 100)


@pytest.mark.parametrize("make", [own_generator, own_numpy, lambda: entropy, lambda: clock, annealed])
def test_noise_and_schedules_that_no_seed_decides_are_refused(make: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"two losses or gradients of one item .*draw random numbers that no seed decides"
    ):
        by_fut(tmp_path / "run", perceptron(), make(), PAIRS[:8], PAIRS[8:])
    assert not (tmp_path / "run").exists()


# --- memory


class Thawing(Body):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        h = self.hidden(x)
        return self.head(h.detach() if self.training and self.calls <= 60 else h)


class Logging(Body):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return super().forward(x)


class FirstData(Body):
    """Scaled by the first data, as ActNorm is."""

    scale: Tensor
    ready: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(6))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.scale.copy_(1 / (x.std(0) + 0.1))
            self.ready.fill_(True)
        return super().forward(x * self.scale)


class Average(Body):
    """A running mean of its own."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.head(h - self.mean)


class Queue(Body):
    """Features of the last items, as MoCo keeps them, in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        past = torch.stack(self.queue[-3:]).mean(0) if self.queue else torch.zeros(8)
        self.queue.append(h.detach().mean(0))
        return self.head(h - 0.1 * past)


class Largest(Body):
    """The largest number seen, as an observer of a quantized model keeps it: it stays once it is there."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.tensor(1e-3))

    def forward(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.detach().abs().max())
        return super().forward(x / self.largest)


class Drawn(Body):
    """A generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.random.random())


class Warmed(nn.Module):
    """A loss with a step count in a buffer."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.step += 1
        return cross_entropy(m, x, y) * min(1.0, self.step.item() / 3)


def spectral() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 2))


def renormalised() -> nn.Module:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.o = nn.Embedding(9, 4, max_norm=0.5), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.e(x.abs().long().clamp(max=8)).mean(1))

    return Bag()


REMEMBERING: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "call counter": (Thawing, cross_entropy, r"it changes `calls`"),
    "log": (Logging, cross_entropy, r"it changes `seen`"),
    "first data": (FirstData, cross_entropy, r"it changes `ready`, `scale`"),
    "running mean": (Average, cross_entropy, r"it changes `mean`"),
    "queue": (Queue, cross_entropy, r"it changes `queue`"),
    "observer": (Largest, cross_entropy, r"it changes `largest`"),
    "generator": (Drawn, cross_entropy, r"it changes `random`"),
    "spectral norm": (spectral, cross_entropy, r"it changes `0\.parametrizations\.weight\.0\._u`"),
    "step of the loss": (perceptron, Warmed(), r"it changes `loss\.step`"),
    "max_norm": (renormalised, cross_entropy, r"writes into its parameter `e\.weight`"),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_forward_pass_that_remembers_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, loss, said = REMEMBERING[name]
    with pytest.raises(ModelError, match=said):
        by_fut(tmp_path / "run", make(), loss, PAIRS[:8], PAIRS[8:])
    assert not (tmp_path / "run").exists()


def test_memory_in_a_closure_that_acts_late_is_found_after_the_reference_run(tmp_path: Path) -> None:
    calls = itertools.count()

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(m, x, y) * (1.0 if next(calls) < 110 else 0.5)

    many = pairs(60)
    with pytest.raises(ModelError, match=r"item 0 after training than before.*a counter, a schedule or a cache"):
        by_fut(tmp_path / "run", perceptron(), loss, many[:57], many[57:])
    assert not (tmp_path / "run" / "summary.json").exists()


# --- what is overwritten by every call is no memory


class Showing(Body):
    """Keeps what it computed last, for others to look at."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.hidden(x)
        return self.head(self.last)


class Auxiliary(Body):
    """Hands a second loss over in an attribute, as mixtures of experts do."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        self.second = h.square().mean()
        return self.head(h)


def with_second(m: Auxiliary, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(m, x, y) + 0.1 * m.second


class Tabled(Body):
    """Makes a table when it is first asked, of a size that the item says."""

    table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or len(self.table) < len(x):
            self.table = torch.linspace(1, 2, 6).expand(len(x), 6)
        return super().forward(x * self.table[: len(x)])


@pytest.mark.parametrize(
    ("make", "loss"), [(Showing, cross_entropy), (Auxiliary, with_second), (Tabled, cross_entropy)]
)
def test_what_every_call_overwrites_is_trained_as_torch_does(make: Any, loss: Any, tmp_path: Path) -> None:
    net = make()
    run = by_fut(tmp_path / "run", net, loss, PAIRS[:8], PAIRS[8:])
    for order in ORDERS:
        expected = by_torch(net, loss, PAIRS[:8], PAIRS[8:], order)
        assert run.retrain(order).loss == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("make", [spectral, lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))])
def test_statistics_that_hold_still_in_evaluation_mode_are_trained_as_torch_does(make: Any, tmp_path: Path) -> None:
    net = make().eval()
    run = by_fut(tmp_path / "run", net, cross_entropy, PAIRS[:8], PAIRS[8:])
    assert run.retrain(ORDERS[1]).loss == pytest.approx(
        by_torch(net, cross_entropy, PAIRS[:8], PAIRS[8:], ORDERS[1]), abs=2e-6
    )
