"""`fut.Recorder`: a window of a training that the user's own loop runs, as a run that answers questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from estimators.rules import described
from fut.api.opening import train
from fut.api.run import Run
from fut.data.dataset import Dataset
from fut.errors import DataError, ModelError, UsageError
from fut.methods.settings import Config, load_config
from fut.models.objective import Loss, Objective
from fut.progress import Progress, silent
from fut.recording.items import Form, Item, copied, of_mapping
from fut.recording.proof import FirstStep, clip_of, first_step
from fut.recording.watch import Watch
from fut.recording.window import Window
from fut.training.checkpoints import read_state
from storage import write_json

REPLAY = 1e-3
"""Largest difference of the replayed window's parameters, as a fraction of how far they moved."""
RECORDING = "recording.json"
"""File of a run directory that says how its training was recorded."""


class Recorder:
    """Records a window of a training while it runs, proves that it can be repeated, and opens it as a `fut.Run`.

        recorder = fut.Recorder("runs/sft", start=400, steps=64)
        with recorder.watch(model, optimizer):
            trainer.train()  # or your own loop
        run = recorder.finish(probe=held_out)

    The training itself is left alone: nothing is drawn, changed or moved. What is forwarded through the model in training mode
    between two steps of the optimizer are the step's items; they may be micro-batches that are accumulated.

    Args:
        path: a new directory for the run.
        start: steps to let pass before the window.
        steps: T, of the window.
        loss: `loss(module, *item)` for a model whose forward pass does not return its loss; items are then what `item` is
            given, or the arguments of the forward pass in the order of their names.
        clip: bound on the gradient's global norm, if there is one; found from the gradients where it is not said.
    """

    def __init__(
        self, path: Path | str, *, start: int = 0, steps: int = 64, loss: Loss | None = None, clip: float | None = None
    ) -> None:
        if start < 0 or steps < 2:
            raise UsageError(f"recorder: expected start >= 0 and steps >= 2, got start={start}, steps={steps}")
        self.path, self.start, self.steps, self.clip = Path(path), start, steps, clip
        if self.path.exists() and any(self.path.iterdir()):
            raise UsageError(f"recorder: expected a new or empty directory, got {self.path}; choose another")
        self._loss = loss
        self._watch: Watch | None = None
        self._first: FirstStep | None = None

    @contextmanager
    def watch(self, model: nn.Module, *optimizers: Optimizer) -> Iterator[Recorder]:
        """See the training inside the block.

        Args:
            model: what is trained.
            optimizers: all that train it, as they are or as accelerate prepared them.

        Raises:
            ModelError: at the first step of the window, where it cannot be repeated; with the likely cause.
        """
        if not optimizers:
            raise UsageError("recorder: expected the optimizers that train the model, got none; pass them after it")
        self._watch = Watch(model, optimizers, self.start, self.steps, self.clip, self._check_first)
        self._watch.attach()
        try:
            yield self
        finally:
            self._watch.detach()

    def callback(self) -> Any:
        """The same for `transformers.Trainer(callbacks=[recorder.callback()])`, which makes its optimizer itself."""
        from fut.recording.hugging_face import RecorderCallback

        def set_clip(clip: float | None) -> None:
            self.clip = clip if self.clip is None else self.clip

        return RecorderCallback(self.watch, set_clip)

    def item(self, *tensors: Tensor, **named: Tensor) -> None:
        """Say what the coming loss is computed from, where it is more than what is forwarded, as labels.

        Args:
            tensors: the item, as `loss(module, *tensors)` takes it.
            named: the item by argument, for a forward pass that returns its loss.
        """
        if self._watch is None:
            raise UsageError("recorder: expected `item` inside `with recorder.watch(...)`, got it outside")
        self._watch.explicit = True
        if named:
            self._watch.take(*of_mapping(named))
        else:
            self._watch.take(Form(tuple(str(i) for i in range(len(tensors)))), tuple(map(copied, tensors)))

    def finish(
        self,
        probe: Iterable[Any],
        *,
        device: str = "auto",
        progress: Progress = silent,
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Train the recorded window anew, compare it with what was recorded, and open it.

        Args:
            probe: held-out batches, whose mean loss is the read-out: mappings of the forward pass's arguments, or tuples as
                `loss` takes them.
            device: where the run is computed: `auto`, `cpu` or `cuda[:N]`.
            progress: hears of the training.
            settings: further sections of the configuration, as `adjoint`.

        Returns:
            The run.

        Raises:
            ModelError: where the window cannot be repeated to `REPLAY` of how far the parameters moved.
            UsageError: where less than two steps were recorded.
        """
        window = self._recorded()
        if isinstance(probe, Mapping | Tensor) or not isinstance(probe, Iterable):
            raise DataError(f"probe: expected a list of held-out batches, got {type(probe).__name__}; write [batch]")
        data = Dataset(
            tuple(item for step in window.steps for item in step.items),
            tuple(self._probe(window.form, batch) for batch in probe),
            source=f"recorded steps {window.first} to {window.first + len(window.steps) - 1} of a training",
        )
        config = self._config(window, dict(settings or {}))
        run = train(
            self.path,
            config,
            module=window.module,
            loss=self._loss,
            data=data,
            device=device,
            progress=progress,
            state=window.start,
        )
        self._require_replayed(run, window)
        return run

    def _recorded(self) -> Window:
        """The window, if all of it can be used."""
        window = self._watch.window if self._watch else None
        if window is None or len(window.steps) < 2:
            count = len(window.steps) if window else 0
            raise UsageError(
                f"recorder: expected at least two steps after the first {self.start}, got {count}; train longer, or start earlier"
            )
        if not window.per_step:
            counts = sorted({len(step.items) for step in window.steps})
            raise DataError(
                f"recorder: expected steps of equally many micro-batches, got {', '.join(map(str, counts))}; choose a window "
                "that does not cross the end of an epoch, or drop the last incomplete step"
            )
        return window

    def _objective(self, window: Window) -> Objective:
        dtype = window.start.theta.dtype
        return Objective(window.module, self._loss or window.form.loss(len(window.steps[0].items)), "cpu", dtype)

    def _check_first(self, window: Window) -> None:
        if window.start.theta.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"recorder: expected parameters in float32 or float64, got {window.start.theta.dtype}: their rounding cannot be "
                "repeated; keep the parameters in float32"
            )
        with torch.random.fork_rng(devices=[]):
            self._first = first_step(window, self._objective(window))

    def _probe(self, form: Form, batch: Any) -> Item:
        """A held-out batch as an item of the recorded form."""
        if isinstance(batch, Mapping):
            missing = [name for name in form.names if name not in batch]
            if missing:
                raise DataError(
                    f"probe: expected {', '.join(form.names)} in every batch, got none of `{missing[0]}`; add it"
                )
            batch = [batch[name] for name in form.names]
        if not isinstance(batch, tuple | list) or len(batch) != len(form.names):
            got = f"{len(batch)} of them" if isinstance(batch, tuple | list) else type(batch).__name__
            raise DataError(
                f"probe: expected batches as mappings or tuples of {', '.join(form.names)}, got {got}; give each as recorded"
            )
        return tuple(map(copied, batch))

    def _config(self, window: Window, settings: dict[str, Any]) -> Config:
        """The configuration of a run that trains the window."""
        norms = [float(step.norm) for step in window.steps]
        clip = self.clip or (self._first.clip if self._first else None) or clip_of(norms)
        name, options = described(replace(window.rule, clip=clip))
        items = [item for step in window.steps for item in step.items]
        weights = self._first.weights(window.form, items) if self._first else []
        own = {
            "data": {"items": len(items), "per_step": window.per_step, "weights": weights},
            "model": {"dtype": str(window.start.theta.dtype).removeprefix("torch.")} | self._forward(window),
            "rule": {"name": name, "options": options},
            "schedule": {
                "kind": "recorded",
                "rates": [float(s.rate) for s in window.steps],
                "groups": window.group_rates(),
            },
            "warmup": {"steps": 0},
        }
        return load_config(None, (), **{key: own.get(key, {}) | settings.get(key, {}) for key in {*own, *settings}})

    def _forward(self, window: Window) -> dict[str, Any]:
        """The loss of the forward pass, as the configuration has it; nothing where a loss was given."""
        if self._loss:
            return {}
        loss = window.form.loss(window.per_step)
        return {"forward": list(loss.names), "constants": dict(loss.constants), "training": dict(loss.training)}

    def _require_replayed(self, run: Run, window: Window) -> None:
        """ModelError unless the window, trained anew, went where the training went; written beside the run in any case."""
        checkpoints = run.context.checkpoints
        moved = window.snapshots[len(window.steps)] - window.start.theta.cpu()
        errors = {}
        for step, theta in sorted(window.snapshots.items()):
            ours = read_state(checkpoints, step, torch.device("cpu")).theta
            errors[step] = float((ours - theta).norm() / moved.norm().clamp(min=1e-30))
        first = self._first
        write_json(
            run.path / RECORDING,
            {
                "first_step": window.first,
                "steps": len(window.steps),
                "gradient_error": None if first is None else first.error,
                "replay_errors": {str(step): error for step, error in errors.items()},
                "facts": window.facts,
            },
        )
        worst = max(errors.values())
        if worst > REPLAY:
            step = next(step for step, error in errors.items() if error > REPLAY)
            raise ModelError(
                f"recorder: expected the window, trained anew, to end where the training did, got parameters that differ by "
                f"{worst:.2g} of how far they moved, first after step {step}; likely causes: a clip that was not said (clip=), a "
                "rate that was changed between steps, a tensor that something else than the optimizer writes"
            )
