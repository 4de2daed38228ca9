"""What is trained is the user's own module: its tensors keep their types, and its loss and its training are plain torch's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_torch import by_fut, by_torch, cross_entropy, made, next_token, pairs, perceptron, tokens
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fut
from fut.errors import ModelError
from fut.models.objective import Objective

PAIRS, TOKENS = pairs(11), tokens(11)
ORDERS = (range(8), [5, 2, 7, 0, 6, 1, 4, 3])


# --- tensors that are not trained keep their type


class Filter(nn.Module):
    """A spectral filter: a complex buffer, or a frozen complex parameter."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.read = nn.Linear(6, 2)
        response = torch.polar(torch.ones(4), torch.linspace(0.3, 2.0, 4))
        if frozen:
            self.response = nn.Parameter(response, requires_grad=False)
        else:
            self.register_buffer("response", response)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.fft.irfft(torch.fft.rfft(x) * self.response, n=6))


class Clock(nn.Module):
    """Large times in double precision, of which single precision keeps no difference."""

    times: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 2)
        self.register_buffer("times", 1e9 + torch.linspace(0, 1, 6, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x * (1 + self.times - 1e9).float())


class Rounded(nn.Module):
    """A table in bfloat16, whose sums round as bfloat16 rounds."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 2)
        self.register_buffer("table", torch.linspace(1, 2, 6).bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x * (self.table * self.table).float())


class Residues(nn.Module):
    """Whole numbers beyond what a float holds, and a mask."""

    keys: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 2)
        self.register_buffer("keys", (1 << 53) + torch.arange(6))
        self.register_buffer("mask", torch.tensor([True, True, False, True, True, True]))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x * self.mask * (self.keys % 5))


class Cast(nn.Module):
    """A frozen half-precision part, whose output is cast by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6).bfloat16().requires_grad_(False)
        self.read = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.frozen(x.bfloat16()).float())


MIXED: dict[str, tuple[Any, ...]] = {
    "complex buffer": (Filter, False),
    "frozen complex parameter": (Filter, True),
    "float64 buffer": (Clock,),
    "bfloat16 buffer": (Rounded,),
    "whole numbers and a mask": (Residues,),
    "frozen bfloat16 layer": (Cast,),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_copy_has_the_modules_own_loss_bit_for_bit(name: str, tmp_path: Path) -> None:
    net = made(*MIXED[name])
    types = {n: t.dtype for n, t in (*net.named_parameters(), *net.named_buffers())}
    objective = Objective(net, cross_entropy)
    for item in (PAIRS[0], PAIRS[8]):
        with torch.no_grad():
            assert torch.equal(objective.loss(objective.start(), item), cross_entropy(net, *item))
    kept = {n: t.dtype for n, t in (*objective.module.named_parameters(), *objective.module.named_buffers())}
    assert kept == types
    run = by_fut(tmp_path / "run", net, cross_entropy, PAIRS[:8], PAIRS[8:])
    for order in ORDERS:
        expected = by_torch(net, cross_entropy, PAIRS[:8], PAIRS[8:], order)
        assert run.retrain(list(order)).loss == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("complex_part", [False, True])
def test_what_has_the_type_of_a_cast_parameter_goes_with_it(complex_part: bool, tmp_path: Path) -> None:
    net: Any = (
        made(Filter, False)
        if complex_part
        else made(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)))
    )
    if not complex_part:
        net = net.bfloat16()
        net[0].requires_grad_(False)
    wider = torch.float64 if complex_part else torch.float32
    data = [(x.to(wider), y) for x, y in PAIRS]
    run = by_fut(tmp_path / "run", net, cross_entropy, data[:8], data[8:], model={"dtype": str(wider).split(".")[1]})
    if complex_part:
        assert run.context.problem.objective.module.response.dtype == torch.complex128
        truth: Any = made(Filter, False).double()
        truth.response = net.response.to(torch.complex128)
    else:
        truth = net.float()
    expected = by_torch(truth, cross_entropy, data[:8], data[8:], range(8))
    assert run.reference_loss == pytest.approx(expected, abs=2e-6)


class Phases(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.polar(torch.ones(6), torch.linspace(0, 1, 6)))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.turn).real


def test_a_trained_complex_parameter_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`turn` of type complex64; .*two, and join them"):
        by_fut(tmp_path / "run", Phases(), cross_entropy, PAIRS[:8], PAIRS[8:])
    assert not (tmp_path / "run").exists()


def test_a_copy_that_has_another_loss_is_refused(tmp_path: Path) -> None:
    class Table(nn.Module):
        """What torch calls neither parameter nor buffer, read by its type."""

        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(6, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.read(x.to(self.read.weight.dtype)) * (2.0 if self.read.weight.dtype == torch.float32 else 1.0)

    with pytest.raises(
        ModelError, match=r"item 0: expected the loss of the module as it was given, .* set model\.dtype"
    ):
        by_fut(tmp_path / "run", made(Table), cross_entropy, PAIRS[:8], PAIRS[8:])


# --- modules that torch.func does not take are trained by plain autograd


class Reversal(torch.autograd.Function):
    """Without setup_context, as older code has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -0.3 * g


class Sign(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (ctx.saved_tensors[0].abs() < 1)


class Special(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b, self.c = how, nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        def hidden(x: Tensor) -> Tensor:
            return torch.tanh(self.a(x))

        if self.how.startswith("checkpoint"):
            x = x if self.how.endswith("kept") else x.clone().requires_grad_()
            h = checkpoint(hidden, x, use_reentrant=not self.how.endswith("kept"))
        else:
            h = Sign.apply(self.a(x)) if self.how == "sign" else hidden(x)
        return self.b(h) + self.c(Reversal.apply(h) if self.how == "reversal" else h)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.o = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        sequences = x[:, None].expand(-1, 3, -1)
        packed = nn.utils.rnn.pack_padded_sequence(sequences, [3, 2, 2, 1], batch_first=True)
        return self.o(self.r(packed)[1][0][0])


class Tokens(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.e, self.o = nn.Embedding(9, 4, **options), nn.Linear(4, 9)

    def forward(self, t: Tensor) -> Tensor:
        return self.o(self.e(t))


def penalised(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        z = m(x)
        (slope,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    return nn.functional.cross_entropy(z, y) + 0.1 * slope.square().mean()


PLAIN: dict[str, tuple[Callable[[], nn.Module], Any, list[Any], str]] = {
    "gradient reversal": (lambda: Special("reversal"), cross_entropy, PAIRS, "adamw"),
    "straight-through sign": (lambda: Special("sign"), cross_entropy, PAIRS, "adamw"),
    "checkpoint, kept": (lambda: Special("checkpoint kept"), cross_entropy, PAIRS, "adamw"),
    "checkpoint, reentrant": (lambda: Special("checkpoint"), cross_entropy, PAIRS, "adamw"),
    "autograd.grad in the loss": (perceptron, penalised, PAIRS, "adamw"),
    "sparse embedding": (lambda: Tokens(sparse=True), next_token, TOKENS, "sgd"),
    "packed LSTM": (Packed, cross_entropy, PAIRS, "adamw"),
}


@pytest.mark.filterwarnings("ignore::fut.errors.FutWarning")
@pytest.mark.parametrize("name", PLAIN)
def test_what_torch_func_refuses_is_trained_as_torch_does(name: str, tmp_path: Path) -> None:
    make, loss, data, rule = PLAIN[name]
    net = made(make)
    run = by_fut(tmp_path / "run", net, loss, data[:8], data[8:], rule)
    for order in ORDERS:
        expected = by_torch(net, loss, data[:8], data[8:], order, rule)
        assert run.retrain(list(order)).loss == pytest.approx(expected, abs=2e-6)
    if name not in (
        "gradient reversal",
        "checkpoint, kept",
        "packed LSTM",
    ):  # the others take as long, and the same paths
        return
    again = fut.open(tmp_path / "run", module=net, loss=loss, device="cpu")
    again.cache(["adjoint"])
    assert again.estimate(["reverse"], known=False)[0].value == pytest.approx(again.retrain("reverse").loss, abs=0.05)


def test_a_readout_of_a_checkpointed_module_has_the_slope_at_the_parameters_in_question(tmp_path: Path) -> None:
    """A backward pass that runs the forward pass again must find the same parameters there."""
    net = made(lambda: Special("checkpoint kept"))
    run = by_fut(tmp_path / "run", net, cross_entropy, PAIRS[:8], PAIRS[8:])
    problem, theta = run.context.problem, run.context.state(8).theta
    run = fut.open(
        tmp_path / "run",
        module=net,
        loss=cross_entropy,
        device="cpu",
        readouts={"mean": lambda m: m(PAIRS[0][0]).square().mean()},
    )
    readout, u = run.context.readouts.get("mean"), torch.ones_like(theta) / theta.numel() ** 0.5
    slope = (readout.value(theta + 1e-2 * u) - readout.value(theta - 1e-2 * u)) / 2e-2
    assert (readout.gradient(theta) @ u).item() == pytest.approx(slope, rel=1e-2)
    assert problem.objective.size == theta.numel()


# --- what cannot be copied


class Holding(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.f, self.what = nn.Linear(6, 2), what

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def hooked() -> nn.Module:
    net: Any = perceptron()
    net[0].weight.register_hook(lambda g: 0.5 * g)
    return net


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Holding(threading.Lock()), r"attribute `what` of the module .*__deepcopy__"),
        (lambda: nn.Sequential(Holding(x for x in "ab")), r"attribute `what` of `0`"),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 2))), r"parametrizations\.weight_norm"),
        (lambda: nn.Sequential(nn.LazyLinear(2)), r"a lazy one, `0\.weight`; run one forward pass"),
        (hooked, r"parameters without hooks, got one on `0\.weight`"),
    ],
    ids=["lock", "generator", "weight_norm", "lazy", "hook"],
)
def test_what_cannot_be_copied_is_named(make: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        by_fut(tmp_path / "run", make(), cross_entropy, PAIRS[:8], PAIRS[8:])
    assert not (tmp_path / "run").exists()


def test_a_module_with_a_large_tensor_is_trained(tmp_path: Path) -> None:
    """An embedding of a language model has over a million numbers: such tensors are known by their sums."""

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(40_000, 32), nn.Linear(32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(torch.tanh(self.table(x)))
            return out

    draw = torch.Generator().manual_seed(0)
    items = [(torch.randint(40_000, (4,), generator=draw), torch.randn(4, 1, generator=draw)) for _ in range(4)]
    data = fut.Dataset(items[:3], items[3:])
    run = fut.train(
        tmp_path / "run", module=Large(), loss=lambda m, x, y: (m(x) - y).square().mean(), data=data, device="cpu"
    )
    assert run.context.parameters == 40_000 * 32 + 33
    assert run.retrain("identity").loss == run.reference_loss
