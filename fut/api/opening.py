"""Make a run, or open one: the two ways to get a `Run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from estimators.state import State
from fut.api.run import Run
from fut.artifacts import creation
from fut.artifacts import dataset as dataset_file
from fut.artifacts import directory as files
from fut.artifacts.identity import require_same_run
from fut.artifacts.location import located
from fut.artifacts.lock import run_lock
from fut.artifacts.trust import require_trust
from fut.data.counting import counted
from fut.data.dataset import Dataset
from fut.data.text import REFERENCE
from fut.errors import UsageError
from fut.execution.engine import Engine
from fut.execution.inline import INLINE
from fut.methods.adjoint.identity import open_expansion
from fut.methods.build import require_states, require_training
from fut.methods.settings import Config, adjoint_settings, read_config
from fut.models.objective import Loss
from fut.models.transformer import Transformer
from fut.planning import Plan, plan_problem
from fut.progress import Progress, terminal
from fut.readouts.readout import UserFunction
from fut.resources.device import choose_device, environment, reproducible
from fut.spoken import speaks_python
from fut.training.checkpoints import read_state
from fut.training.fidelity import require_same_training
from fut.training.model_checks import first_evaluation, require_same_function, require_trainable
from fut.training.optimizers import AnyOptimizer, maker_of
from fut.training.problem import Problem, build_problem, finite, kept_steps, module_and_loss, unit_of_loss
from fut.training.trainer import train_reference
from storage import CheckpointStore, remove_parts


@speaks_python
def open_run(
    path: Path | str,
    *,
    device: str = "auto",
    module: nn.Module | None = None,
    loss: Loss | None = None,
    optimizer: AnyOptimizer | None = None,
    readouts: Mapping[str, UserFunction] | None = None,
    progress: Progress = terminal,
    trust: bool = False,
    engine: Engine | str = INLINE,
) -> Run:
    """Open a finished run directory.

    Args:
        path: the run directory. It may come from somebody else: it is data, and nothing that it names is executed.
        device: `auto`, `cpu` or `cuda[:N]`.
        module: what the run was trained with, where it was given as an object. Its structure, its frozen parameters and its
            buffers are compared with the run's; its trained parameters may have any values, as the run holds their own.
        loss: the same of the loss.
        optimizer: what the run was trained with, where no update rule is the same.
        readouts: functions of your own by name, `f(module)` -> a tensor holding one number, differentiable in the module's
            parameters.
        progress: hears of long work.
        trust: whether code may run that the directory names as `package.module:name`: its model, its loss, its read-outs.
        engine: where orders are retrained and independent units of `cache` are done: `ray`, or what `fut.engine` gives; by
            default this process.

    Raises:
        MissingError, IdentityError, DamagedError, ModelError: naming what does not fit.
        UsageError: where code would have to run that is named in the directory alone.
    """
    given: dict[str, Any] = {"module": module, "loss": loss, "optimizer": optimizer, "readouts": readouts}
    return Run(path, device=device, progress=progress, trust=trust, engine=engine, **given)


@speaks_python
def plan_path(
    path: Path | str,
    *,
    settings: Sequence[str] = (),
    device: str = "auto",
    progress: Progress = terminal,
    trust: bool = False,
    module: nn.Module | None = None,
    loss: Loss | None = None,
) -> Plan:
    """The plan of a run directory whose training may not be finished.

    Args:
        path: the run directory.
        settings: `adjoint.key=value`, of an expansion made so.
        device: `auto`, `cpu` or `cuda[:N]`.
        progress: hears of long work.
        trust, module, loss: as in `open_run`.
    """
    where = located(path)
    if (where / files.SUMMARY).exists():
        run = open_run(where, device=device, progress=progress, trust=trust, module=module, loss=loss)
        return run.plan(adjoint_settings(open_expansion(run.context).spec.config, settings))
    manifest, config = files.read_manifest(where), read_config(where)
    owner, data = files.owner_of(manifest), None
    if CheckpointStore(where / files.DATA).has(0):
        data = dataset_file.read_dataset(where, owner)
    named = {
        "model.factory": config.model.factory if module is None else "",
        "model.loss": config.model.loss if loss is None else "",
    }
    outside = {"data.text": config.data.text, "data.tokenizer": config.data.tokenizer} if data is None else {}
    require_trust(where, trust, named | outside)
    torch_device = choose_device(device)
    with reproducible(torch_device):
        problem = build_problem(config, torch_device, module=module, loss=loss, data=data)
        require_same_run(manifest.identity, problem.identity, where)
        adjoint = adjoint_settings(config.adjoint, settings) or config.adjoint
        return plan_problem(problem, config.model_copy(update={"adjoint": adjoint}), progress)


@speaks_python
def train(
    out: Path | str,
    config: Config | None = None,
    *,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    data: Dataset | None = None,
    optimizer: AnyOptimizer | None = None,
    device: str = "auto",
    readouts: Mapping[str, UserFunction] | None = None,
    progress: Progress = terminal,
    exist_ok: bool = False,
) -> Run:
    """Train the reference run into a new directory, or finish an interrupted one of the same identity.

    config: what to train; the defaults make the demo's run. module: any `nn.Module` in place of the configured model
    (copied, never changed). loss: `loss(module, *item)` -> mean loss in nats/token, or `loss(module, item)` where items are
    mappings. data: items and probe, in place of a text; their numbers are `data.items` and `warmup.steps`. optimizer: a new
    optimizer of torch over the module's parameters, or a function of the module that makes one, in place of `rule`; its rate is
    `schedule.rate` where that is not given. readouts: as in `open`. exist_ok: return a finished run of the same identity. Raises
    ExistsError for a finished run without it, and IdentityError for one of another identity.
    """
    given: dict[str, Any] = {"module": module, "loss": loss, "data": data, "optimizer": optimizer, "readouts": readouts}
    return train_window(out, config or Config(), None, device=device, progress=progress, exist_ok=exist_ok, **given)


def train_window(
    out: Path | str,
    config: Config,
    state: State | None,
    *,
    data: Dataset | None = None,
    optimizer: AnyOptimizer | None = None,
    device: str = "auto",
    progress: Progress = terminal,
    exist_ok: bool = False,
    **given: Any,
) -> Run:
    """`train` from a lifted state [D], of a training that was under way; None to begin with the module's own parameters.

    given: `module`, `loss` and `readouts`; the others as in `train`.
    """
    if data is not None and not isinstance(data, Dataset):
        raise UsageError(
            f"train: expected data as fut.Dataset(items, probe), got {type(data).__name__}; wrap it, with held-out batches"
        )
    torch_device, module, loss = choose_device(device), given.get("module"), given.get("loss")
    _require_own_data(config, module, data)
    config, path = counted(config, data), located(out, new=True)
    make = None if optimizer is None else maker_of(optimizer, module)
    with reproducible(torch_device):
        problem = build_problem(config, torch_device, module=module, loss=loss, data=data, state=state, optimizer=make)
        if exist_ok and (path / files.SUMMARY).exists():
            require_same_run(files.read_manifest(path).identity, problem.identity, path)
        else:
            require_states(problem)
            require_trainable(problem, *module_and_loss(config, module, loss, problem.data.names))
            require_training(problem)
            creation.create(path, problem, environment(torch_device))
            with run_lock(path):
                _finish(path, problem, progress)
        del problem
    # What the configuration names, the caller has named.
    return Run(path, device=device, progress=progress, trust=True, data=data, optimizer=make, **given)


def _require_own_data(config: Config, module: nn.Module | None, data: Dataset | None) -> None:
    """UsageError for a module of the user's own that would be trained on the built-in text, which nobody asked for."""
    if module is None or isinstance(module, Transformer) or data is not None or config.data.text:
        return
    raise UsageError(
        f"train: expected data for the module {type(module).__name__}, got none; give data=fut.Dataset(items, probe), or a text: "
        f'fut.load_config(data={{"text": PATH}}), where "{REFERENCE}" is CPython\'s language reference'
    )


def _finish(path: Path, problem: Problem, progress: Progress) -> None:
    """Train what is missing of a reference run whose directory is claimed."""
    checkpoints = CheckpointStore(path / files.CHECKPOINTS, problem.digest)
    for directory in (path, path / files.CHECKPOINTS, path / files.DATA):
        remove_parts(directory)
    require_same_training(problem, checkpoints, max(checkpoints.steps(), default=0), f"run {path}, to be finished")
    before = first_evaluation(problem)
    train_reference(problem, checkpoints, path / files.WARMUP, progress)
    require_same_function(problem, before)
    first, last = (read_state(checkpoints, t, problem.device).theta for t in (0, problem.config.steps))
    summary = {
        "reference_loss": finite(problem.probe_loss(last), "probe set after the last step"),
        "start_loss": finite(problem.probe_loss(first), "probe set before the window"),
        "parameters": problem.objective.size,
        "source": problem.data.source,
        "unit": unit_of_loss(problem),
        "checkpoints": kept_steps(problem),
    }
    creation.finish(path, summary, problem.digest)
