"""A recorder as a callback of Lightning's `Trainer`: an item is a batch, and its loss is what `training_step` returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from fut.errors import DataError, ExtraError, ModelError
from fut.recording.items import Form, copied, of_mapping
from fut.recording.watch import Watch

PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
"""Where each package has its callbacks."""


@dataclass(frozen=True)
class TrainingStep:
    """The loss of a batch that a module's own `training_step` returns.

    names: of a batch that is a mapping; empty for one that is a tuple. alone: whether a batch is one tensor.
    """

    names: tuple[str, ...] = ()
    alone: bool = False

    def __call__(self, module: nn.Module, *item: Tensor) -> Any:
        batch: Any = dict(zip(self.names, item, strict=True)) if self.names else item[0] if self.alone else item
        step: Callable[..., Any] = module.training_step  # type: ignore[assignment]
        with _without_logs(module):
            found = step(*(batch, 0)[: len(inspect.signature(step).parameters)])
        return found["loss"] if isinstance(found, Mapping) else found


@contextmanager
def _without_logs(module: nn.Module) -> Iterator[None]:
    """A module that has no trainer: what it logs goes nowhere."""
    names = [
        name for name in ("log", "log_dict") if getattr(module, "_trainer", None) is None and name not in vars(module)
    ]
    vars(module).update(dict.fromkeys(names, _nothing))
    try:
        yield
    finally:
        for name in names:
            vars(module).pop(name)


def _nothing(*values: Any, **named: Any) -> None:
    pass


def form_of(batch: Any) -> tuple[Form, tuple[Tensor, ...], TrainingStep]:
    """A batch as an item, and the loss that takes it; DataError for one that is neither tensors nor a mapping of them."""
    if isinstance(batch, Mapping):
        form, item = of_mapping(batch)
        if form.constants:
            raise DataError(
                f"items: expected batches of tensors, got `{form.constants[0][0]}`; leave it out of the batch"
            )
        return form, item, TrainingStep(form.names)
    parts = [batch] if isinstance(batch, Tensor) else list(batch) if isinstance(batch, tuple | list) else []
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise DataError(f"items: expected batches as tensors, tuples or mappings of them, got {type(batch).__name__}")
    form = Form(tuple(map(str, range(len(parts)))))
    return form, tuple(map(copied, parts)), TrainingStep(alone=isinstance(batch, Tensor))


class Recording:
    """What the callback does; `callback` gives it to Lightning.

    Args:
        watch: of the recorder: (model, optimizers) -> a block that gives what watches.
        configure: hears of the trainer's bound on the gradient's norm, None where it has none, and of the loss.
    """

    def __init__(
        self,
        watch: Callable[..., AbstractContextManager[Watch]],
        configure: Callable[[float | None, Any], None],
    ) -> None:
        self._enter, self._configure, self._stack = watch, configure, ExitStack()
        self._watch: Watch | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the module and the optimizers that the trainer made."""
        _require_repeatable(trainer, pl_module)
        self._configure(trainer.gradient_clip_val or None, None)
        self._watch = self._stack.enter_context(self._enter(trainer.strategy.model, *trainer.optimizers))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The batch is an item."""
        if self._watch is not None and self._watch.window is not None and not self._watch.done:
            form, item, loss = form_of(batch)
            self._configure(None, loss)
            self._watch.say(form, item, before=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach."""
        self._stack.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach."""
        self._stack.close()


def _require_repeatable(trainer: Any, module: Any) -> None:
    """ModelError for what the trainer does that is not repeated."""
    if not module.automatic_optimization:
        raise ModelError(
            "recorder: expected automatic optimization, got a module that steps its optimizers itself; record with "
            "`recorder.watch(model, optimizer)` around the training and `recorder.item(...)` before each backward pass"
        )
    if (
        trainer.gradient_clip_val
        and str(getattr(trainer.gradient_clip_algorithm, "value", "norm") or "norm") == "value"
    ):
        raise ModelError(
            "recorder: expected clipping by the norm, got clipping by value; set gradient_clip_algorithm='norm'"
        )
    if str(trainer.precision) not in ("32-true", "64-true", "bf16-mixed"):
        raise ModelError(
            f"recorder: expected precision 32-true, 64-true or bf16-mixed, got {trainer.precision}; record with one of these"
        )


def callback(package: str, watch: Any, configure: Any) -> Any:
    """A callback of `lightning` or of `pytorch_lightning`; ExtraError where it is not installed."""
    try:
        base = import_module(PACKAGES[package]).Callback
    except ImportError as error:
        raise ExtraError(
            f"recorder: expected the package {package}, got none installed; run `pip install {package}`"
        ) from error
    return type("RecorderCallback", (Recording, base), {})(watch, configure)
