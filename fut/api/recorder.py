"""`fut.Recorder`: a window of a training that the user's own loop runs, as a run that answers questions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from estimators.rules import described
from fut.api.opening import open_run, train_window
from fut.api.run import Run
from fut.data.dataset import Dataset
from fut.errors import DataError, ModelError, UsageError
from fut.methods.settings import Config, load_config
from fut.models.objective import Loss, Objective
from fut.progress import Progress, terminal
from fut.recording.items import Form, Item, copied, of_mapping
from fut.recording.proof import FirstStep, clip_of, first_step
from fut.recording.watch import Watch
from fut.recording.window import Window
from fut.training.checkpoints import read_state
from storage import IdentityError, write_json

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
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
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
        if self._watch is not None and self._watch.window is not None:
            raise UsageError("recorder: expected one window, got a second `watch` after it; make a recorder for each")
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
        if named:
            self._watch.say(*of_mapping(named))
        else:
            self._watch.say(Form(tuple(str(i) for i in range(len(tensors)))), tuple(map(copied, tensors)))

    def finish(
        self,
        probe: Iterable[Any],
        *,
        device: str = "auto",
        progress: Progress = terminal,
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Train the recorded window anew, compare it with what was recorded, and open it.

        Args:
            probe: held-out batches, whose mean loss is the read-out: mappings of the forward pass's arguments, or tuples as
                `loss` takes them.
            device: where the run is computed: `auto`, `cpu` or `cuda[:N]`.
            progress: hears of the training.
            settings: sections of the configuration that the recording does not decide, as `adjoint`.

        Returns:
            The run. Its directory appears when the window is shown to be repeatable, and not before.

        Raises:
            ModelError: where the window cannot be repeated to `REPLAY` of how far the parameters moved. `finish` may then be
                called again, with another `clip` of the recorder, say.
            UsageError: where less than two steps were recorded, or for settings that the recording decides.
        """
        window = self._recorded()
        if isinstance(probe, Mapping | Tensor) or not isinstance(probe, Iterable):
            raise DataError(f"probe: expected a list of held-out batches, got {type(probe).__name__}; write [batch]")
        data = Dataset(
            tuple(item for step in window.steps for item in step.items),
            tuple(self._probe(window.form, batch) for batch in probe),
            source=f"recorded steps {window.first} to {window.first + len(window.steps) - 1} of a training",
        )
        given: dict[str, Any] = {"module": window.module, "loss": self._loss, "device": device, "progress": progress}
        unproved = self.path.with_name(f"{self.path.name}.unproved")
        config, about = self._config(window, dict(settings or {})), {"data": data, **given}
        try:
            run = train_window(unproved, config, window.start, exist_ok=True, **about)
        except IdentityError:  # what a killed call left of another recording
            shutil.rmtree(unproved)
            run = train_window(unproved, config, window.start, **about)
        self._require_replayed(run, window)
        os.replace(unproved, self.path)
        return open_run(self.path, trust=True, **given)  # what its configuration names, the caller has named

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
        name, options = described(replace(window.rule, clip=self._clip_of(window)))
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
        if decided := sorted(own.keys() & settings.keys()):
            raise UsageError(
                f"recorder: expected settings that the recording does not decide, got `{decided[0]}`; remove it from `settings`"
            )
        sections: dict[str, Any] = own | settings
        return load_config(None, (), **sections)

    def _clip_of(self, window: Window) -> float | None:
        """The bound on the gradient's norm: as said, or as the first step or the norms of all show it."""
        shown = self._first.clip if self._first else None
        return self.clip or shown or clip_of([float(step.norm) for step in window.steps])

    def _forward(self, window: Window) -> dict[str, Any]:
        """The loss of the forward pass, as the configuration has it; nothing where a loss was given."""
        if self._loss:
            return {}
        loss = window.form.loss(window.per_step)
        return {"forward": list(loss.names), "constants": dict(loss.constants), "training": dict(loss.training)}

    def _require_replayed(self, run: Run, window: Window) -> None:
        """Write how the window, trained anew, went; remove it, with ModelError, unless it is where the training went."""
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
                "clip": self._clip_of(window),
                "weighting": None if first is None else first.weighting,
                "gradient_error": None if first is None else first.error,
                "replay_errors": {str(step): error for step, error in errors.items()},
                "facts": window.facts,
            },
        )
        worst = max(errors.values())
        if worst > REPLAY:
            shutil.rmtree(run.path)
            step = next(step for step, error in errors.items() if error > REPLAY)
            raise ModelError(
                f"recorder: expected the window, trained anew, to end where the training did, got parameters that differ by "
                f"{worst:.2g} of how far they moved, first after step {step}; likely causes: a clip that was not said (clip=), a "
                "rate that was changed between steps, a tensor that something else than the optimizer writes"
            )
