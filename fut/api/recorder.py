"""`fut.Recorder`: a window of a training that the user's own loop runs, as a run that answers questions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fut.api.opening import open_run, train_window
from fut.api.run import Run
from fut.artifacts.location import located
from fut.data.dataset import Dataset
from fut.errors import DataError, ExtraError, ModelError, UsageError
from fut.methods.settings import Config, load_config
from fut.models.objective import Loss, Objective
from fut.progress import Progress, terminal
from fut.recording.checkpoint import read_checkpoint
from fut.recording.configuration import bound_of, configuration, weighting_of
from fut.recording.items import Form, Item, copied, of_mapping
from fut.recording.proof import FirstStep, first_step, replay_errors, require_replayed
from fut.recording.ranks import Ranks
from fut.recording.restored import MakeOptimizer, MakeScheduler, flat_weights, ordered_steps, restored_window
from fut.recording.watch import Watch
from fut.recording.window import Window
from fut.resources.device import set_workspace
from storage import IdentityError, tell, write_json

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
        module: for a model of `fully_shard` alone: one of its structure that is not sharded, as a copy that was made before;
            it is copied, and its values do not matter.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        start: int = 0,
        steps: int = 64,
        loss: Loss | None = None,
        clip: float | None = None,
        module: nn.Module | None = None,
    ) -> None:
        if start < 0 or steps < 2:
            raise UsageError(f"recorder: expected start >= 0 and steps >= 2, got start={start}, steps={steps}")
        self.path, self.start, self.steps, self.clip = located(path, new=True), start, steps, clip
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"recorder: expected a new or empty directory, got {self.path}; choose another")
        set_workspace()
        self._loss, self._plain = loss, module
        self._watch: Watch | None = None
        self._first: FirstStep | None = None
        self._window: Window | None = None  # of all processes, when it is whole

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | str | Mapping[str, Any],
        path: Path | str,
        *,
        model: nn.Module,
        data: Any,
        order: Iterable[Any],
        clip: float | None,
        collate: Callable[[list[Any]], Any] | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        loss: Loss | None = None,
    ) -> Recorder:
        """A window that begins where a training was saved, and that `finish` trains: nothing needs to have been recorded.

        Args:
            checkpoint: a folder of `transformers.Trainer`; or a file of `torch.save`, or its mapping, with the state dicts
                `model` and `optimizer`, and `scheduler` and `step` if there are any. Nothing pickled is executed.
            path: a new directory for the run.
            model: of the checkpoint's structure; it is copied and left alone.
            data: rows by number, as a `Dataset` of torch or of Hugging Face.
            order: for every step of the window the numbers of its rows, or a list of such lists where a step accumulates several
                micro-batches, as [[[0, 1], [2, 3]], [[4, 5], [6, 7]]].
            clip: bound on the gradient's global norm; None for none. No checkpoint says it; the Trainer's default is 1.0.
            collate: a batch of a list of rows, as a `DataLoader` has it: a mapping of the forward pass's arguments, or a tuple as
                `loss` takes it; None for torch's own.
            optimizer: makes the training's optimizer for a module; needed where the saved state does not say it.
            scheduler: makes its learning-rate scheduler for an optimizer; None for constant rates.
            loss: as of the recorder.

        Returns:
            A recorder to call `expect` and `finish` of.

        Raises:
            DataError, ModelError, UsageError: naming what the checkpoint lacks, or what does not fit it.
        """
        made = cls(path, loss=loss, clip=clip)
        saved = read_checkpoint(checkpoint)
        steps = ordered_steps(data, order, collate)
        made._window = restored_window(saved, model, optimizer, scheduler, clip, steps)
        made.start, made.steps = made._window.first, len(steps)
        made._require_precision(made._window)
        return made

    def expect(self, checkpoint: Path | str | Mapping[str, Any]) -> None:
        """Compare the window with a later checkpoint of the same training, for which it is enough to hold weights and its step.

        Args:
            checkpoint: as of `from_checkpoint`; one of any step of the window.

        Raises:
            UsageError: for a checkpoint of a step that is not in the window.
        """
        saved, window = read_checkpoint(checkpoint), self._recorded()
        place = 0 if saved.step is None else saved.step - window.first
        if not 0 < place <= len(window.steps):
            raise UsageError(
                f"{saved.source}: expected one of steps {window.first + 1} to {window.first + len(window.steps)}, got "
                f"{saved.step if saved.step is not None else 'one that does not say its step'}; give a later one"
            )
        window.snapshots[place] = flat_weights(window.module, saved)

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
        self._watch = Watch(model, optimizers, self.start, self.steps, self.clip, self._check_first, self._plain)
        self._watch.attach()
        try:
            yield self
        except BaseException:
            self._watch.detach(failed=True)
            raise
        self._watch.detach()

    def callback(self, package: Literal["transformers", "lightning", "pytorch_lightning"] = "transformers") -> Any:
        """The same for a trainer that makes its optimizer itself, as `transformers.Trainer(callbacks=[recorder.callback()])`.

        Args:
            package: whose callback; with Lightning's an item is a batch, and its loss what `training_step` returns.

        Raises:
            ExtraError: where it is not installed.
        """

        def configure(clip: float | None, loss: Loss | None = None) -> None:
            self.clip = clip if self.clip is None else self.clip
            self._loss = loss if self._loss is None else self._loss

        @contextmanager
        def watching(model: nn.Module, *optimizers: Optimizer) -> Iterator[Watch | None]:
            with self.watch(model, *optimizers):
                yield self._watch

        if package != "transformers":
            from fut.recording.lightning import callback

            return callback(package, watching, configure)
        try:
            from fut.recording.hugging_face import RecorderCallback
        except ImportError as error:
            raise ExtraError(
                "recorder: expected the package transformers, got none installed; run `pip install transformers accelerate`"
            ) from error
        return RecorderCallback(watching, configure)

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
            device: where the run is computed: `auto`, `cpu` or `cuda[:N]`. auto: where the training was watched, else as
                `fut.open` has it.
            progress: hears of the training.
            settings: sections of the configuration that the recording does not decide, as `adjoint`; and `model` with the unit
                of the loss, and `noise_key`, alone.

        Returns:
            The run. Its directory appears when the window is shown to be repeatable, and not before.

        Raises:
            ModelError: where the window cannot be repeated to `REPLAY` of how far the parameters moved. `finish` may then be
                called again, with another `clip` of the recorder, say.
            UsageError: where less than two steps were recorded, or for settings that the recording decides.
        """
        if isinstance(probe, Mapping | Tensor) or not isinstance(probe, Iterable):
            raise DataError(f"probe: expected a list of held-out batches, got {type(probe).__name__}; write [batch]")
        window = self._recorded()
        if device == "auto" and self._watch:
            device = str(self._watch.device)
        given: dict[str, Any] = {"loss": self._loss, "device": device, "progress": progress}
        ranks = self._watch.ranks if self._watch else Ranks()
        batches = list(probe)
        ranks.first_alone(lambda: self._prove(window, batches, dict(settings or {}), given))
        # what its configuration names, the caller has named
        return open_run(self.path, trust=True, module=window.module, **given)

    def _prove(self, window: Window, probe: list[Any], settings: dict[str, Any], given: dict[str, Any]) -> None:
        """Train the window, and move the run to its place if it is where the training went; else remove it, with ModelError."""
        config, noisy = self._config(window, settings), window.noisy
        data = Dataset(
            window.items(),
            [self._probe(window.form, batch, noisy) for batch in probe],
            source=f"recorded steps {window.first} to {window.first + len(window.steps) - 1} of a training",
        )
        unproved = self.path.with_name(f"{self.path.name}.unproved")
        about = {"data": data, "module": window.module, **given}
        try:
            run = train_window(unproved, config, window.start, exist_ok=True, **about)
        except IdentityError:  # what a killed call left of another recording
            shutil.rmtree(unproved)
            run = train_window(unproved, config, window.start, **about)
        self._require_replayed(run, window)
        os.replace(unproved, self.path)
        tell(self.path)

    def _recorded(self) -> Window:
        """The window of all processes, if all of it can be used."""
        window = self._window or (self._watch.window if self._watch else None)
        if window is None or len(window.steps) < 2:
            count = len(window.steps) if window else 0
            raise UsageError(
                f"recorder: expected at least two steps after the first {self.start}, got {count}; train longer, or start earlier"
            )
        if self._window is None:
            self._window = window = window.merged(self._watch.ranks if self._watch else Ranks())
        if not window.per_step:
            counts = sorted({len(step.items) for step in window.steps})
            raise DataError(
                f"recorder: expected steps of equally many micro-batches, got {', '.join(map(str, counts))}; choose a window "
                "that does not cross the end of an epoch, or drop the last incomplete step"
            )
        return window

    def _check_first(self, window: Window) -> None:
        self._require_precision(window)
        first = window.merged(self._watch.ranks if self._watch else Ranks(), 1)
        loss = self._loss or first.form.loss(len(first.steps[0].items))
        device = self._watch.device if self._watch else first.start.theta.device
        self._first = first_step(
            first,
            Objective(
                first.module,
                loss,
                device,
                first.start.theta.dtype,
                first.noisy,
                getattr(torch, window.autocast) if window.autocast else None,
            ),
        )

    def _require_precision(self, window: Window) -> None:
        if window.start.theta.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"recorder: expected parameters in float32 or float64, got {window.start.theta.dtype}: their rounding cannot be "
                "repeated; keep the parameters in float32"
            )

    def _probe(self, form: Form, batch: Any, noisy: bool) -> Item:
        """A held-out batch as an item of the recorded form; with no generator's state where items have one."""
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
        item = tuple(map(copied, batch))
        return (*item, torch.zeros(len(item[0]), 0, dtype=torch.uint8)) if noisy else item

    def _config(self, window: Window, settings: dict[str, Any]) -> Config:
        """The configuration of a run that trains the window."""
        return load_config(None, (), **configuration(window, self._first, self.clip, self._loss is not None, settings))

    def _require_replayed(self, run: Run, window: Window) -> None:
        """Write how the window, trained anew, went; remove it, with ModelError, unless it is where the training went."""
        errors = replay_errors(window, lambda step: run.context.state(step).theta.cpu())
        first = self._first
        write_json(
            run.path / RECORDING,
            {
                "first_step": window.first,
                "steps": len(window.steps),
                "clip": bound_of(window, self._first, self.clip),
                "weighting": weighting_of(window, self._first),
                "noise": f"recorded with each {run.context.config.model.noise_key}" if window.noisy else "none",
                "gradient_error": None if first is None else first.error,
                "replay_errors": {str(step): error for step, error in errors.items()},
                "facts": window.facts,
            },
        )
        try:
            require_replayed(errors, REPLAY)
        except ModelError:
            shutil.rmtree(run.path)
            raise
