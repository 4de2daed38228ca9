"""Model adapters: any module with a loss becomes a scalar function of one flat parameter vector."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimators.parameters import ParameterLayout
from fut.errors import DataError, FutError, ModelError
from fut.models.lifting import copied, lifted
from fut.models.randomness import seeded
from fut.models.structure import fixed_tensors
from fut.models.transformer import Transformer, next_token_loss

Item = tuple[Tensor, ...]
Loss = Callable[..., Tensor]


class Keyed(tuple[Tensor, ...]):
    """An item that draws the random numbers of a key, in place of its own."""

    key: int | Tensor

    def __new__(cls, item: Item, key: int | Tensor) -> Keyed:
        made = super().__new__(cls, item)
        made.key = key
        return made


class _WithLoss(nn.Module):
    """The loss as a forward pass, so that every parameter that the loss uses is one of its own."""

    def __init__(self, module: nn.Module, loss: Loss, recorded: bool) -> None:
        super().__init__()
        self.module, self.loss, self._proven, self.judged = module, loss, False, False
        self.recorded = recorded
        self.autocast: torch.dtype | None = None
        self.keeps_casts = True  # of weights that are used twice; not those that a transform makes
        self.built_in = isinstance(module, Transformer) and loss is next_token_loss

    def forward(self, *item: Tensor) -> Tensor:
        with self.precision(item[0].device.type):
            value = self._value(*self.arguments(item))
        self._proven = True
        if self.autocast is not None and isinstance(value, Tensor) and value.dtype == self.autocast:
            value = value.float()
        if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim > 1 or not value.is_floating_point():
            got = f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(
                f"loss: expected a tensor holding one number, the item's mean loss, got {got}; take its mean"
            )
        return value if value.ndim == 0 else value.reshape(())

    def arguments(self, item: Item) -> Item:
        """What of an item the loss takes."""
        return item[:-1] if self.recorded else item

    def precision(self, device: str) -> AbstractContextManager[None]:
        """The autocast of forward passes on a kind of device."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device, self.autocast, cache_enabled=self.keeps_casts)

    def _value(self, *item: Tensor) -> Any:
        """What the loss returns; ModelError, with the place, for an error of the user's own code."""
        try:
            return self.loss(self.module, *item)
        except Exception as error:
            missing = isinstance(error, NotImplementedError) and self._proven  # a derivative that torch lacks
            if self.built_in or missing or isinstance(error, (FutError, MemoryError, torch.OutOfMemoryError)):
                raise
            said = (str(error).splitlines() or [""])[0][:200]
            raise ModelError(
                f"model: expected a forward pass and a loss without errors{self._mode()}, got {type(error).__name__}: {said} "
                f"({_place(error)}); {self._advice(said)}"
            ) from error

    def _mode(self) -> str:
        """In which mode the module is, where that is not its own."""
        return " in evaluation mode, in which the probe is judged" if self.judged else ""

    def _advice(self, said: str) -> str:
        if "dtype" in said:
            held = next(self.module.parameters()).dtype
            return f"parameters are {held} here, as model.dtype says: give items of that kind, or set it"
        if self.loss is next_token_loss:
            return "pass the loss= that it is trained with (--loss on the command line), or mend the forward pass"
        if self.judged:
            return "give a loss that serves both modes: one that needs the module's training mode can call module.train() itself"
        return "mend the forward pass"


def _place(error: Exception) -> str:
    """File and line where the error left the user's own code: the innermost frame outside torch and this package."""
    frames = traceback.extract_tb(error.__traceback__)
    rooms = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
    own = [f for f in frames if not f.filename.startswith(rooms)]
    chosen = (own or frames)[-1]
    return f"{chosen.filename}, line {chosen.lineno}"


class Objective:
    """Loss of one item as a function of the flat parameters theta [D].

    module: any `nn.Module`; it is copied and never changed. loss: `loss(module, *item)` giving a scalar, the mean over the
    item's tokens in nats/token; if it is a module itself, its parameters are trained too. All random numbers (of torch, of
    `random`, of numpy) are keyed by the item's own content, in training and in evaluation mode, so that the noise travels
    with the item when the order changes.
    autocast: the number format of forward and backward passes under `torch.autocast`, None without it.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss = next_token_loss,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        recorded: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.device, self.dtype, self.autocast = torch.device(device), dtype, autocast
        self._call = lifted(_WithLoss(*copied(module, loss), recorded), self.device, dtype)
        self._call.autocast = autocast
        named = {n: p for n, p in self._call.named_parameters() if p.requires_grad}
        if not named:
            raise ModelError("expected a module with parameters, got none to train; pass the module to be trained")
        self.names, self.tensors = list(named), list(named.values())
        self.shapes = [tuple(p.shape) for p in self.tensors]
        self.sizes = [p.numel() for p in self.tensors]
        self._start = torch.cat([p.detach().reshape(-1) for p in self.tensors]).clone()
        # Any layer or function may draw random numbers in training mode; the built-in model has none that does.
        self.stochastic = not self.built_in and any(m.training for m in self._call.module.modules())
        self.vectorises: bool | None = None  # whether `torch.func.vmap` can transform the loss; None until it is tried
        self.exact_form: str | None = (
            None  # how exact products are taken (`fut.models.products`); None until it is tried
        )
        self.whole_backward = False  # whether gradients take `backward()`, as checkpointing of the reentrant kind does
        refuse_running_statistics(self._call.module)

    @property
    def size(self) -> int:
        """D, the number of parameters."""
        return sum(self.sizes)

    @cached_property
    def layout(self) -> ParameterLayout:
        """The module's trained tensors, by its own names, in the order of theta."""
        return ParameterLayout(tuple(map(self.own_name, self.names)), tuple(self.shapes))

    def fresh(self) -> Objective:
        """Another copy with the same starting parameters, of this one's module as it is now."""
        call = self._call
        made = Objective(call.module, call.loss, self.device, self.dtype, call.recorded, self.autocast)
        made._start = self._start.clone()
        return made

    @property
    def call(self) -> _WithLoss:
        """Module and loss together, as the parts `module` and `loss`."""
        return self._call

    @property
    def module(self) -> nn.Module:
        """The copy of the user's module; its parameters are what was held last."""
        return self._call.module

    @property
    def built_in(self) -> bool:
        """Whether module and loss are the built-in ones, which are known to be functions of parameters and item alone."""
        return bool(self._call.built_in)

    def own_name(self, name: str) -> str:
        """A tensor's name as its owner has it: of the module by the module's name, of a loss with tensors under `loss.`"""
        return (
            name.removeprefix("module.")
            if name.startswith("module.")
            else self._loss_prefix + name.removeprefix("loss.")
        )

    @cached_property
    def _loss_prefix(self) -> str:
        taken = any(n.startswith("module.loss.") for n in self._call.state_dict())
        return "loss_function." if taken else "loss."

    def start(self) -> Tensor:
        """The module's own parameters as one vector [D]."""
        return self._start.clone()

    def parts(self, theta: Tensor) -> list[Tensor]:
        """Views of theta [D], one per trained tensor, in its shape."""
        return [part.view(shape) for part, shape in zip(theta.split(self.sizes), self.shapes, strict=True)]

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """The same by the parameters' names."""
        return dict(zip(self.names, self.parts(theta), strict=True))

    def state_dict(self, theta: Tensor) -> dict[str, Tensor]:
        """Everything `module.load_state_dict` wants: theta under the module's own names, tied aliases, and buffers.

        A loss that has parameters or buffers adds its own, under names that begin with `loss.`: they are state too.
        """
        values = self.parameters(theta)
        names = {id(p): n for n, p in self._call.named_parameters()}
        aliases = {n: names[id(p)] for n, p in self._call.named_parameters(remove_duplicate=False)}
        trained = {n: values[a] for n, a in aliases.items() if a in values}
        stored = {n: t for n, t in self._call.state_dict().items() if isinstance(t, Tensor)}
        return {self.own_name(n): trained.get(n, t).detach().clone() for n, t in stored.items()}

    @contextmanager
    def noise(self, item: Item) -> Iterator[None]:
        """Random numbers keyed by the item's content, whatever draws them; nothing for the built-in model, which draws none."""
        if self.built_in:
            yield
            return
        with seeded(self.seed(item), [self.device] if self.device.type == "cuda" else []):
            yield

    def arguments(self, item: Item) -> Item:
        """What of an item the loss takes."""
        found: Item = self._call.arguments(item)
        return found

    def unrecorded(self, items: Sequence[Item]) -> Sequence[Item]:
        """The same items with noise that is keyed by content: a recorded state belongs to all rows of an item at once."""
        if not self._call.recorded:
            return items
        return tuple((*item[:-1], item[-1].new_zeros(len(item[0]), 0)) for item in items)

    def seed(self, item: Item) -> int | Tensor:
        """What keys the item's randomness: the key that it has, else the generator's state that was recorded with it, else its
        content's number."""
        if isinstance(item, Keyed):
            return item.key
        if self._call.recorded and item[-1].numel():
            return item[-1].cpu()
        return int.from_bytes(item_digest(item)[:7], "little")

    def loss(self, theta: Tensor, item: Item, seed: int | Tensor | None = None) -> Tensor:
        """Mean loss of the item at theta [nats/token], a scalar; a function of theta that torch.func can transform.

        seed: `self.seed(item)`, needed inside a transform.
        """
        if self.built_in:
            return self.noiseless(theta, item)
        with seeded(self.seed(item) if seed is None else seed, [self.device] if self.device.type == "cuda" else []):
            return self.noiseless(theta, item)

    def noiseless(self, theta: Tensor, item: Item) -> Tensor:
        """The same for a module and a loss that draw no random numbers: items may be stacked."""
        self._call.keeps_casts = False
        try:
            loss: Tensor = functional_call(self._call, self.parameters(theta), item)
        finally:
            self._call.keeps_casts = True
        return loss

    @contextmanager
    def holding(self, theta: Tensor, item: Item) -> Iterator[nn.Module]:
        """The module itself, its parameters being theta [D], and the item's noise: what plain torch code works with.

        Gradients are of `tensors`; backward passes belong inside, as some forward passes are run again there (checkpointing).
        """
        with torch.no_grad():
            for own, part in zip(self.tensors, self.parts(theta), strict=True):
                own.copy_(part)
        with self.noise(item):
            yield self._call.module

    def plain(self, item: Item) -> Tensor:
        """Mean loss of the item [nats/token], a scalar, as the module stands inside `holding`."""
        loss: Tensor = self._call(*item)
        return loss

    def flat(self, parts: Sequence[Tensor | None]) -> Tensor:
        """One vector [D] of a part per tensor, zeros for None."""
        given = zip(self.tensors, parts, strict=True)
        dense = [torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g for p, g in given]
        return torch.cat([g.detach().reshape(-1) for g in dense])

    @property
    def loss_function(self) -> Loss:
        """The loss of (module, *item)."""
        return self._call.loss

    @contextmanager
    def judging(self) -> Iterator[None]:
        """The module in evaluation mode (no dropout), as a model is judged; each part's own mode afterwards."""
        modes, stochastic = [(m, m.training) for m in self._call.modules()], self.stochastic
        self._call.eval()
        self.stochastic, self._call.judged, judged = False, any(training for _, training in modes), self._call.judged
        try:
            yield
        finally:
            self.stochastic, self._call.judged = stochastic, judged
            for module, training in modes:
                module.training = training

    @cached_property
    def _fixed(self) -> dict[str, list[Any]]:
        return fixed_tensors(self._call, self.own_name)

    @property
    def module_class(self) -> str:
        """The module's class by its import path, which says nothing of its numbers."""
        module = self._call.module
        return f"{type(module).__module__}.{type(module).__qualname__}"

    def begin_at(self, theta: Tensor) -> None:
        """Take other starting values: theta [D], on any device."""
        if tuple(theta.shape) != tuple(self._start.shape):
            raise ModelError(
                f"model: expected {self.size} starting values, got {list(theta.shape)}; give those of this module"
            )
        self._start = theta.to(self._start.device, self._start.dtype).clone()

    def identity(self) -> dict[str, Any]:
        """What pins the model: trained parameters by name and shape in the order of theta, dtype, the digest of their starting
        values, and the digests of what is not trained. Not the class: where it is imported from changes no number."""
        return {
            "parameters": [[self.own_name(n), list(s)] for n, s in zip(self.names, self.shapes, strict=True)],
            "dtype": str(self.dtype).removeprefix("torch."),
            "fixed": self._fixed,
            "start": hashlib.sha256(self._start.cpu().numpy().tobytes()).hexdigest(),
        }


@contextmanager
def full_precision(objective: Objective) -> Iterator[None]:
    """Forward and backward passes without autocast: for differences of gradients, which its rounding would drown."""
    call = objective.call
    kept, call.autocast = call.autocast, None
    try:
        yield
    finally:
        call.autocast = kept


def refuse_running_statistics(module: nn.Module) -> None:
    """ModelError for norms that keep statistics in training mode."""
    for name, m in module.named_modules():
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats and m.training:
            raise ModelError(
                f"expected a module whose forward pass changes nothing, got running statistics in `{name}` "
                f"({type(m).__name__}), which are memory outside the lifted state; put it into eval() or use another norm"
            )


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
