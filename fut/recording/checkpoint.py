"""A training that was saved: weights, optimizer state and schedule, read as data; nothing pickled is executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fut.errors import DataError, ModelError, UntrustedError
from fut.models.lifting import copied

Table = Mapping[str, Any]
WHOLE, ADAPTER, PICKLED, INDEX = (
    "model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
)
"""Files of a folder that may hold the weights."""
NAMES = {
    "weights": ("model", "model_state_dict", "state_dict"),
    "optimizer": ("optimizer", "optimizer_state_dict", "optimizer_states"),
    "scheduler": ("scheduler", "scheduler_state_dict", "lr_scheduler", "lr_schedulers"),
    "step": ("step", "global_step"),
}
"""What a file of `torch.save` calls each part."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    weights: by name. optimizer, scheduler: their state dicts; None where there is none. step: steps taken; None where it does not
    say. adapter: whether the weights are those of a PEFT adapter alone. trainer: whether `transformers.Trainer` wrote it.
    """

    source: str
    weights: Table
    optimizer: Table | None = None
    scheduler: Table | None = None
    step: int | None = None
    adapter: bool = False
    trainer: bool = False


def read_checkpoint(checkpoint: Path | str | Table) -> Saved:
    """Read a folder of `transformers.Trainer`, a file that `torch.save` wrote, or the mapping that such a file holds.

    Raises:
        DataError: for a checkpoint without weights, or one that cannot be read.
        UntrustedError: naming the file, where reading it would execute code.
    """
    if isinstance(checkpoint, Mapping):
        return _of_mapping(checkpoint, "checkpoint")
    path = Path(checkpoint)
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise DataError(f"checkpoint {path}: expected a folder or a file, got neither; check the path")
    return _of_mapping(_unpickled(path), f"checkpoint {path}")


def _of_folder(path: Path) -> Saved:
    state = path / "trainer_state.json"
    step = _step(_json(state).get("global_step"), f"checkpoint {state}") if state.exists() else None
    tables = {n: _unpickled(path / f"{n}.pt") for n in ("optimizer", "scheduler") if (path / f"{n}.pt").exists()}
    adapter = (path / ADAPTER).exists()
    return Saved(f"checkpoint {path}", _weights(path), step=step, adapter=adapter, trainer=step is not None, **tables)


def _weights(path: Path) -> Table:
    """The tensors of a folder, of one file or of several."""
    if (path / PICKLED).exists() and not (path / WHOLE).exists():
        return _unpickled(path / PICKLED)
    if (path / INDEX).exists():
        files = sorted(set(_json(path / INDEX)["weight_map"].values()))
        if odd := [name for name in files if not isinstance(name, str) or Path(name).name != name]:
            raise DataError(
                f"checkpoint {path / INDEX}: expected names of files beside it, got `{odd[0]}`; it is damaged"
            )
    else:
        files = [name for name in (WHOLE, ADAPTER) if (path / name).exists()][:1]
    if not files:
        raise DataError(
            f"checkpoint {path}: expected {WHOLE} or {ADAPTER} in it, got neither; give the folder of one step"
        )
    found: dict[str, Tensor] = {}
    for name in files:
        try:
            found |= load_file(path / name)
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"checkpoint {path / name}: expected a safetensors file, got {error}; save it again"
            ) from error
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"checkpoint {path}: expected a JSON file, got {error}; save it again") from error
    if not isinstance(found, dict):
        raise DataError(f"checkpoint {path}: expected a JSON object, got {type(found).__name__}; save it again")
    return found


def _unpickled(path: Path) -> Table:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UntrustedError(
            f"checkpoint {path}: expected tensors, numbers, texts and lists of them, got pickled objects, which reading would "
            "execute; save the state dicts alone: torch.save({'model': model.state_dict(), 'optimizer': "
            "optimizer.state_dict()}, path)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:160]
        raise DataError(f"checkpoint {path}: expected a file of torch.save, got {said}; save it again") from error
    if not isinstance(found, Mapping):
        raise DataError(f"checkpoint {path}: expected a mapping, got {type(found).__name__}; save state dicts by name")
    return found


def _of_mapping(given: Table, source: str) -> Saved:
    parts: dict[str, Any] = {}
    for part, names in NAMES.items():
        value = next((given[name] for name in names if name in given), None)
        if isinstance(value, list | tuple):  # as Lightning saves them
            if len(value) > 1:
                raise DataError(
                    f"{source}: expected one {part}, got {len(value)}; give the checkpoint of one optimizer"
                )
            value = value[0] if value else None
        parts[part] = value
    if not isinstance(parts["weights"], Mapping):
        raise DataError(
            f"{source}: expected the weights as one of {', '.join(NAMES['weights'])}, got "
            f"{', '.join(map(str, given)) or 'nothing'}; give {{'model': model.state_dict(), 'optimizer': …}}"
        )
    parts["step"] = None if parts["step"] is None else _step(parts["step"], source)
    return Saved(source, **parts)


def _step(value: Any, source: str) -> int:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float) or value < 0 or value != int(value):
        raise DataError(f"{source}: expected a number of steps, got {value!r:.80}; save it again")
    return int(value)


def with_weights(module: nn.Module, saved: Saved) -> nn.Module:
    """A copy of a module that holds a checkpoint's weights, in training mode; of a module that is in it, each part's own mode.

    Raises:
        ModelError: naming a tensor that the two do not share.
    """
    made = copied(module)[0]
    if not made.training:
        made.train()
    if saved.adapter and not hasattr(made, "peft_config"):
        raise ModelError(
            f"{saved.source}: expected a model with the adapter, got {type(module).__name__}; give its model, as "
            "peft.get_peft_model made it"
        )
    for parameter in made.parameters():
        parameter.grad = None
    try:
        if saved.adapter:
            from peft import set_peft_model_state_dict

            found: Any = set_peft_model_state_dict(made, dict(saved.weights))
            trained = {name for name, p in made.named_parameters() if p.requires_grad}
            missing = [name for name in found.missing_keys if name in trained]
        else:
            found = made.load_state_dict(saved.weights, strict=False)
            missing = found.missing_keys
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()[:200]
        raise ModelError(
            f"{saved.source}: expected weights of the model's shapes, got {said}; give its model"
        ) from error
    own, known = dict(made.named_parameters(remove_duplicate=False)), set(saved.weights)
    held = {id(own[name]) for name in known if name in own}
    missing = [name for name in missing if name not in own or id(own[name]) not in held]  # tied ones are saved once
    if odd := [*missing, *found.unexpected_keys]:
        what = "lacks" if missing else "has besides"
        raise ModelError(
            f"{saved.source}: expected the model's weights, got a checkpoint that {what} `{odd[0]}`; give its model"
        )
    return made
