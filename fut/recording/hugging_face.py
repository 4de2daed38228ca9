"""A recorder as a callback of `transformers.Trainer`, and what that trainer decides by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from fut.models.forward import SHIFTED, TARGETS
from fut.recording.window import EQUAL

Watching = Callable[..., AbstractContextManager[Any]]


class RecorderCallback(TrainerCallback):
    """Watches from the beginning of `train()` to its end.

    Args:
        watch: of the recorder: (model, optimizer) -> a block.
        set_clip: hears of the trainer's bound on the gradient's norm; None where it has none.
    """

    def __init__(self, watch: Watching, set_clip: Callable[[float | None], None]) -> None:
        self._watch, self._set_clip, self._stack = watch, set_clip, ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach to the model and the optimizer that the trainer made."""
        self._set_clip(args.max_grad_norm or None)
        self._stack.enter_context(self._watch(given["model"], given["optimizer"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Detach."""
        self._stack.close()


def decayed(model: nn.Module) -> set[str]:
    """The tensors that `transformers.Trainer` puts into its first parameter group, by name."""
    return set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]  # which uses nothing of itself


def trainer_weighting(model: Any) -> str:
    """What micro-batches of a step count by in `transformers.Trainer`: their targets where the model takes a divisor."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = [p.kind for p in inspect.signature(inner.forward).parameters.values()]
    if not getattr(inner, "accepts_loss_kwargs", inspect.Parameter.VAR_KEYWORD in kinds):
        return EQUAL
    shifted = LOSS_MAPPING.get(getattr(inner, "loss_type", None) or "") is ForCausalLMLoss
    return SHIFTED if shifted and not getattr(inner.config, "is_encoder_decoder", False) else TARGETS
