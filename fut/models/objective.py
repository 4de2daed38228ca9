"""Model adapters: any module with a loss becomes a scalar function of one flat parameter vector."""

from __future__ import annotations

import copy
import hashlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimators.parameters import ParameterLayout
from fut.errors import DataError, FutError, ModelError
from fut.models.transformer import Transformer, next_token_loss

Item = tuple[Tensor, ...]
Loss = Callable[..., Tensor]


class _WithLoss(nn.Module):
    """The loss as a forward pass, so that `functional_call` reaches every parameter the loss uses."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self._loss, self._proven = module, loss, False
        self._own = not isinstance(module, Transformer) or loss is not next_token_loss

    def forward(self, *item: Tensor) -> Tensor:
        value = self._value(*item)
        self._proven = True
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(
                f"loss: expected a tensor holding one number, the item's mean loss, got {got}; take its mean"
            )
        return value

    def _value(self, *item: Tensor) -> Any:
        """What the loss returns; ModelError, with the place, for an error of the user's own code."""
        try:
            return self._loss(self.module, *item)
        except Exception as error:
            missing = isinstance(error, NotImplementedError) and self._proven  # a derivative that torch lacks
            if not self._own or missing or isinstance(error, (FutError, MemoryError, torch.OutOfMemoryError)):
                raise
            said = (str(error).splitlines() or [""])[0][:200]
            raise ModelError(
                f"model: expected a forward pass and a loss without errors, got {type(error).__name__}: {said} "
                f"({_place(error)}); {self._advice(said)}"
            ) from error

    def _advice(self, said: str) -> str:
        if "dtype" in said:
            held = next(self.module.parameters()).dtype
            return f"parameters are {held} here, as model.dtype says: give items of that kind, or set it"
        own = "pass the loss= that it is trained with, or " if self._loss is next_token_loss else ""
        return f"{own}mend the forward pass"


def _place(error: Exception) -> str:
    """File and line where the error left the user's own code: the innermost frame outside torch and this package."""
    frames = traceback.extract_tb(error.__traceback__)
    rooms = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
    own = [f for f in frames if not f.filename.startswith(rooms)]
    chosen = (own or frames)[-1]
    return f"{chosen.filename}, line {chosen.lineno}"


class _Applied(nn.Module):
    """Any function of the module and some inputs as a forward pass."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self._function = module, function

    def forward(self, *inputs: Tensor) -> Any:
        return self._function(self.module, *inputs)


class Objective:
    """Loss of one item as a function of the flat parameters theta [D].

    module: any `nn.Module`; its parameters are copied and never changed. loss: `loss(module, *item)` giving a scalar,
    the mean over the item's tokens in nats/token. Randomness inside the module (dropout) is keyed by the item's own
    content, so that the noise travels with the item when the order changes.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss = next_token_loss,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        module = copy.deepcopy(module).to(device=self.device, dtype=dtype)
        self._call = _WithLoss(module, loss)
        named = {n: p for n, p in self._call.named_parameters() if p.requires_grad}
        if not named:
            raise ModelError("expected a module with parameters, got none to train; pass the module to be trained")
        self.names = list(named)
        self.shapes = [tuple(p.shape) for p in named.values()]
        self.sizes = [p.numel() for p in named.values()]
        self._start = torch.cat([p.detach().reshape(-1) for p in named.values()]).clone()
        # Any layer or function may draw random numbers in training mode; the built-in model has none that does.
        self.stochastic = not isinstance(module, Transformer) and any(m.training for m in module.modules())
        self.vectorises: bool | None = None  # whether `torch.func.vmap` can transform the loss; None until it is tried
        self._refuse_running_statistics(module)

    @staticmethod
    def _refuse_running_statistics(module: nn.Module) -> None:
        for name, m in module.named_modules():
            if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats and m.training:
                raise ModelError(
                    f"expected a module whose forward pass changes nothing, got running statistics in `{name}` "
                    f"({type(m).__name__}), which are memory outside the lifted state; put it into eval() or use another norm"
                )

    @property
    def size(self) -> int:
        """D, the number of parameters."""
        return sum(self.sizes)

    @cached_property
    def layout(self) -> ParameterLayout:
        """The module's trained tensors, by its own names, in the order of theta."""
        return ParameterLayout(tuple(n.removeprefix("module.") for n in self.names), tuple(self.shapes))

    def start(self) -> Tensor:
        """The module's own parameters as one vector [D]."""
        return self._start.clone()

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of theta [D] by the module's parameter names."""
        parts = theta.split(self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def state_dict(self, theta: Tensor) -> dict[str, Tensor]:
        """Everything `module.load_state_dict` wants: theta under the module's own names, tied aliases, and buffers."""
        module = self._call.module
        values = {n.removeprefix("module."): p for n, p in self.parameters(theta).items()}
        names = {id(p): n for n, p in module.named_parameters()}
        aliases = {n: names[id(p)] for n, p in module.named_parameters(remove_duplicate=False)}
        stored = module.state_dict()
        trained = {n: values[a] for n, a in aliases.items() if a in values}
        return {n: trained.get(n, t).detach().clone() for n, t in stored.items()}

    def seed(self, item: Item) -> int | None:
        """What keys the randomness inside the module to the item's content; None for a module without any."""
        return int.from_bytes(item_digest(item)[:7], "little") if self.stochastic else None

    def loss(self, theta: Tensor, item: Item, seed: int | None = None) -> Tensor:
        """Mean loss of the item at theta [nats/token], a scalar. seed: `self.seed(item)`, needed inside a transform."""
        chosen = self.seed(item) if seed is None else seed
        if not self.stochastic or chosen is None:
            return self._loss_of(theta, item)
        with seeded(chosen, [self.device] if self.device.type == "cuda" else []):
            return self._loss_of(theta, item)

    def _loss_of(self, theta: Tensor, item: Item) -> Tensor:
        loss: Tensor = functional_call(self._call, self.parameters(theta), item)
        return loss

    @property
    def loss_function(self) -> Loss:
        """The loss of (module, *item)."""
        return self._call._loss

    def apply(self, theta: Tensor, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """function(module, *inputs), the module's parameters being theta [D]; differentiable in theta."""
        own = {n: p for n, p in self.parameters(theta).items() if n.startswith("module.")}
        return functional_call(_Applied(self._call.module, function), own, inputs)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """The module in evaluation mode (no dropout), as a model is judged; each part's own mode afterwards."""
        modes, stochastic = [(m, m.training) for m in self._call.modules()], self.stochastic
        self._call.eval()
        self.stochastic = False
        try:
            yield
        finally:
            self.stochastic = stochastic
            for module, training in modes:
                module.training = training

    def identity(self) -> dict[str, Any]:
        """What pins the model: class, parameter names and shapes, dtype, and the digest of its starting values."""
        module = self._call.module
        return {
            "class": f"{type(module).__module__}.{type(module).__qualname__}",
            "parameters": {n.removeprefix("module."): list(s) for n, s in zip(self.names, self.shapes, strict=True)},
            "dtype": str(self.dtype).removeprefix("torch."),
            "start": hashlib.sha256(self._start.cpu().numpy().tobytes()).hexdigest(),
        }


def item_digest(item: Item) -> bytes:
    """SHA-256 over dtype, shape and bytes of every tensor of an item."""
    h = hashlib.sha256()
    for tensor in item:
        array = _array(tensor)
        h.update(f"{array.dtype.str}{array.shape}".encode())
        h.update(array.tobytes())
    return h.digest()


def _array(tensor: Tensor) -> np.ndarray:
    try:
        return tensor.detach().cpu().numpy()
    except TypeError as error:
        raise DataError(
            f"items: expected tensors of a type that numpy has, got {tensor.dtype}; convert inputs to float32 or whole numbers"
        ) from error


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device | int]) -> Iterator[None]:
    """Torch's random numbers drawn from a seed, on the CPU and some CUDA devices; their generators go on afterwards as before.

    `torch.manual_seed` would seed every device, also one that is not in use yet.
    """
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
