"""A recorder as a callback of `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from transformers import TrainerCallback

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
