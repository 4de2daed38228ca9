"""The hooks that see a training: what is forwarded, and each step of its optimizers. They read and change nothing."""

from __future__ import annotations

import copy
import inspect
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from estimators.torch_optimizers import Translated, from_optimizer, group_rates, learning_rates
from fut.errors import ModelError
from fut.models.objective import refuse_running_statistics
from fut.recording.items import Form, Item, forwarded
from fut.recording.ranks import Ranks
from fut.recording.sharded import is_sharded, own_part, require_gatherable, whole, whole_module, whole_optimizers
from fut.recording.window import Step, Window
from fut.resources.device import COMPILER


def innermost(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as accelerate's, whose own hooks are never called."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise ModelError(
            f"recorder: expected an optimizer of torch, got {type(optimizer).__name__}; pass the optimizer itself"
        )
    return optimizer


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside data-parallel and compiled wrappers."""
    while isinstance(inner := getattr(model, "_orig_mod", None) or _parallel(model), nn.Module):
        model = inner
    return model


def _parallel(model: nn.Module) -> nn.Module | None:
    kinds = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    inner: nn.Module | None = model.module if isinstance(model, kinds) else None
    return inner


ORIGINAL = "_original_forward"
"""Under what name accelerate keeps the forward function that it wraps in autocast."""


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy whose forward function is the module's own: the objective has the autocast, and can do without."""
    copied = copy.deepcopy(model)
    if vars(copied).pop(ORIGINAL, None) is not None:
        vars(copied).pop("forward", None)
    return copied


def _first_part(model: nn.Module) -> nn.Module:
    """The first part that has parameters and no parts of its own; the model itself where there is none."""
    leaves = (part for part in model.modules() if next(part.children(), None) is None)
    return next((part for part in leaves if next(part.parameters(), None) is not None), model)


class Watch:
    """Sees one window of a training.

    Args:
        model: what is trained.
        optimizers: what trains it; a step is taken when each of them has stepped.
        first: steps to let pass before the window.
        steps: of the window.
        clip: bound on the gradient's global norm, where it is known.
        on_first: called with the window after its first step.
        plain: a module of the structure of a model of `fully_shard`, which it is recorded into.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Any],
        first: int,
        steps: int,
        clip: float | None,
        on_first: Callable[[Window], None],
        plain: nn.Module | None = None,
    ) -> None:
        self.model, self.optimizers = unwrapped(model), [innermost(optimizer) for optimizer in optimizers]
        self.plain, self.sharded = plain, is_sharded(self.model)
        self.ranks = Ranks.of(model, self.sharded)
        self.first, self.steps, self.clip, self.on_first = first, steps, clip, on_first
        self.device, self._part = next(self.model.parameters()).device, _first_part(self.model)
        self._signature = inspect.signature(getattr(self.model, ORIGINAL, self.model.forward))
        self.window: Window | None = None
        self.taken, self.explicit = 0, False
        self._before = False  # whether items are said before all that they are computed from
        self._due: set[int] = set()
        self._items: list[Item] = []
        self._divisors: set[float | str | None] = set()
        self._generator: list[Tensor] = []  # states before the forward passes
        self._given: dict[int, Tensor] = {}  # gradients of the first step
        self._norms: list[Tensor] = []
        self._rates: list[list[float]] = [[] for _ in optimizers]
        self._form: Form | None = None
        self._translated: Translated | None = None
        self._names: set[str] = set()  # of the trained tensors
        self._seeing: list[Any] = []  # the handles of the forward hooks
        self._handles: list[Any] = []

    @property
    def done(self) -> bool:
        """Whether the whole window was seen."""
        return self.window is not None and len(self.window.steps) == self.steps

    def attach(self) -> None:
        """Begin to see; ModelError for a model whose training cannot be repeated."""
        refuse_running_statistics(self.model)
        if self.sharded:
            require_gatherable(self.model, self.plain)
        for number, optimizer in enumerate(self.optimizers):
            self._handles.append(optimizer.register_step_post_hook(self._stepping(number)))
        if not self.first:
            self._open()

    def _see_forward(self) -> None:
        """Hear of every forward pass, before hooks of the user's own may change its arguments."""
        # in compiled models hooks are not compiled: torch before 2.13 cannot trace all of what they do
        own: Any = torch.compiler.disable if COMPILER in sys.modules else lambda hook: hook
        self._seeing = [
            self.model.register_forward_pre_hook(own(self._forward), with_kwargs=True, prepend=True),
            self.model.register_forward_hook(own(self._forwarded)),
            self._part.register_forward_pre_hook(own(self._inside)),
        ]

    def detach(self, failed: bool = False) -> None:
        """See no more. A training that ended inside the window stands where its last step left it.

        failed: whether by an error, which other processes may not have: nothing is gathered then.
        """
        for handle in (*self._handles, *self._seeing):
            handle.remove()
        self._handles.clear()
        if failed and self.sharded:
            return
        if self.window is not None and (count := len(self.window.steps)) and count not in self.window.snapshots:
            self.window.snapshots[count] = flat_parameters(self.model, self._names)

    def take(self, form: Form, item: Item) -> None:
        """An item of the coming step; ModelError where items differ in form."""
        if self.window is None or self.done:
            return
        self._divisors.add(form.divisor)
        form = replace(form, divisor=None)
        if self._form is not None and form != self._form:
            raise ModelError(_other_form(self._form, form))
        if self._form is None:
            self._form = self.window.form = form
        self._items.append(item)

    def say(self, form: Form, item: Item, before: bool = False) -> None:
        """An item that the user names; what is forwarded is none from then on.

        before: whether all that it is computed from is computed after this, and before the next item is said.
        """
        if not self.explicit:
            self.explicit, self._items, self._divisors, self._form = True, [], set(), None
        self.take(form, item)
        self._before = before
        if before:
            self._generator.append(generator_state(self.device))

    def _trains(self, module: nn.Module) -> bool:
        """Whether a forward pass is one of the window's training: not one of a copy, which has the hooks too."""
        return (
            module is self.model
            and self.window is not None
            and not self.done
            and module.training
            and torch.is_grad_enabled()
        )

    def _forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._trains(module):
            return
        if not self._before:
            self._generator.append(generator_state(self.device))
        if not self.explicit:
            self.take(*forwarded(self._signature, args, kwargs))

    def _forwarded(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._trains(module):
            self._note_noise()

    def _inside(self, part: nn.Module, args: Any) -> None:
        """Keep the precision of a forward pass that has begun; ModelError for one that is not repeated.

        Heard inside of the model, as autocast that wraps the forward function itself, as accelerate's does, shows here alone.
        """
        if self.window is None or self.done or part is not self._part:  # of a copy, which has the hooks too
            return
        if not part.training or not torch.is_grad_enabled():
            return
        kind = self.device.type
        enabled = torch.is_autocast_enabled(kind)
        found = str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if enabled else ""
        if found not in ("", "bfloat16"):
            raise ModelError(
                f"recorder: expected forward passes in the parameters' own precision or under autocast to bfloat16, got {found}, "
                "whose gradients are scaled; record a window with bfloat16, or without autocast"
            )
        if self.window.autocast not in (None, found):
            raise ModelError(
                "recorder: expected one precision in the whole window, got forward passes with and without autocast; choose one"
            )
        self.window.autocast = found

    def _note_noise(self) -> None:
        """Whether random numbers were drawn since the latest forward pass began."""
        if self.window is not None and not self.window.noisy and self._generator:
            self.window.noisy = not torch.equal(self._generator[-1], generator_state(self.device))

    def _stepping(self, number: int) -> Callable[..., None]:
        def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if bool(getattr(optimizer, "found_inf", None)):
                raise ModelError("recorder: expected steps that are all taken, got one that a gradient scaler skipped")
            if self.window is not None and not self.done:
                if not self.window.steps:  # before the loop clears them
                    self._given |= {id(p): p.grad.detach().clone() for p in held(optimizer) if p.grad is not None}
                self._rates[number] = learning_rates(optimizer)  # before a scheduler sets the next
                if self.clip is None:  # else there is nothing to find
                    own = [own_part(p.grad) for p in held(optimizer) if p.grad is not None]
                    self._norms.append(nn.utils.get_total_norm(own))
            self._due.discard(number)
            if not self._due:
                self._due = set(range(len(self.optimizers)))
                self._stepped()

        self._due.add(number)
        return stepped

    def _open(self) -> None:
        """The state before the window."""
        module, optimizers = self.model, self.optimizers
        if self.sharded and self.plain is not None:
            module = whole_module(self.model, self.plain)
            optimizers = whole_optimizers(self.optimizers, self.model, module)
        self._translated = from_optimizer(optimizers, module, self.clip)
        rule, _, state, _ = self._translated
        made = module if self.sharded else _plain_copy(module)
        about = facts(module) | {"device": str(self.device)} | ({"processes": "fully_shard"} if self.sharded else {})
        self.window = Window(self.first, Form(()), made, rule, state, facts=about)
        self._names = {name for name, _ in trained(self.model)}
        self._see_forward()  # from here on, and not in the copy

    def _divisor(self) -> float | str | None:
        """By what the losses of the step's items were divided together."""
        if len(self._divisors) > 1:
            raise ModelError(
                "recorder: expected one number of targets for all items of a step, got "
                f"{', '.join(map(str, self._divisors))}; pass the same num_items_in_batch for each"
            )
        return next(iter(self._divisors), None)

    def _stepped(self) -> None:
        """All optimizers have taken a step."""
        self.taken += 1
        if self.window is None:
            if self.taken == self.first:
                self._open()
            return
        if self.done or self._translated is None:
            return
        grouped = len(self._translated.places) > 1 or self.window.rule.name == "grouped"
        rate = group_rates(self._rates, self._translated.places, grouped)
        if self._before:
            self._note_noise()
        norm = torch.stack(self._norms).square().sum().sqrt() if self._norms else None
        own = Step(tuple(self._items), rate, norm, self._divisor(), tuple(self._generator))
        self.window.steps.append(own)
        self._items, self._norms, self._divisors, self._generator = [], [], set(), []
        if self.ranks.count == 1:
            self.window.settle(own)
        count = len(self.window.steps)
        if count == 1:
            given = {name: self._given[id(p)] for name, p in trained(self.model) if id(p) in self._given}
            self.window.consumed = {name: whole(gradient) for name, gradient in given.items()}
            self.on_first(self.window)
            self.window.consumed.clear()  # as large as the model, and shown to be the items' own
        self._given = {}
        if count == self.steps or count % max(1, math.isqrt(self.steps)) == 0:
            self.window.snapshots[count] = flat_parameters(self.model, self._names)


def generator_state(device: torch.device) -> Tensor:
    """State of torch's generator that random numbers on a device come from, as bytes on the CPU."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _other_form(first: Form, now: Form) -> str:
    return (
        f"recorder: expected items of one form, got arguments {', '.join(now.names)} with {dict(now.constants)} after "
        f"{', '.join(first.names)} with {dict(first.constants)}; forward every batch with the same arguments"
    )


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The tensors that are trained, by name."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def flat_parameters(model: nn.Module, names: Set[str]) -> Tensor:
    """Trained parameters [D], on the CPU; ModelError, naming one, where they are not those of these names."""
    own = trained(model)
    if odd := {name for name, _ in own} ^ names:
        raise ModelError(
            f"recorder: expected the same trained tensors in the whole window, got `{min(odd)}` frozen or unfrozen inside it; "
            "choose a window in which it is not"
        )
    return torch.cat([whole(p.detach()).reshape(-1).to("cpu", copy=True) for _, p in own])


def held(optimizer: Optimizer) -> list[Tensor]:
    """The tensors that an optimizer updates."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def facts(model: nn.Module) -> dict[str, Any]:
    """Provenance of a recording."""
    config = getattr(model, "config", None)
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": str(next(model.parameters()).device),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attention": str(getattr(config, "_attn_implementation", "")),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
    }
