"""Models of `fully_shard` (FSDP2), whose tensors are spread over processes: whole ones, where a recording needs them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from fut.errors import ModelError

CHECKPOINT = "save a checkpoint of whole tensors and use fut.Recorder.from_checkpoint"


def spread(tensor: Any) -> bool:
    """Whether a tensor is spread over processes."""
    if not distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process calls this for one that is spread."""
    if not spread(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    if not spread(tensor):
        return tensor
    local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def is_sharded(model: nn.Module) -> bool:
    """Whether a trained tensor is spread over processes; ModelError for one that is not spread as `fully_shard` does it."""
    if getattr(distributed, "fsdp", None) and any(
        isinstance(part, distributed.fsdp.FullyShardedDataParallel) for part in model.modules()
    ):
        raise ModelError(
            "recorder: expected whole tensors, or those of fully_shard, got a model of FullyShardedDataParallel (FSDP1); shard "
            f"it with torch.distributed.fsdp.fully_shard, or {CHECKPOINT}"
        )
    names = [name for name, p in model.named_parameters() if spread(p)]
    if names and not _parts(model):
        raise ModelError(
            f"recorder: expected tensors that fully_shard spreads, got `{names[0]}` of a tensor-parallel plan; {CHECKPOINT}"
        )
    return bool(_parts(model))


def require_gatherable(model: nn.Module, plain: nn.Module | None) -> None:
    """ModelError for a model of `fully_shard` that is not repeated, or whose plain counterpart does not fit it.

    plain: a module of the same structure that is not sharded.
    """
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _require_one_mesh(own)
    for part in _parts(model):
        _require_own_precision(part)
    if plain is None:
        raise ModelError(
            "recorder: expected a module of the sharded model's structure that is not sharded, got none; make one before "
            "fully_shard: fut.Recorder(…, module=copy.deepcopy(model))"
        )
    given = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    for name, p in model.named_parameters():
        if given.pop(name, None) != tuple(p.shape):
            raise ModelError(
                f"recorder: expected `{name}` of shape {list(p.shape)} in `module`, got none; give its model"
            )
    if given:
        raise ModelError(f"recorder: expected no `{next(iter(given))}` in `module`, which the sharded model lacks")
    if empty := [name for name, t in _tensors(plain) if t.is_meta or spread(t)]:
        raise ModelError(
            f"recorder: expected tensors that hold values in `module`, got `{empty[0]}` without; make them"
        )


def _require_one_mesh(own: Mapping[str, Tensor]) -> None:
    """ModelError unless every trained tensor is split over all processes, once."""
    for name, tensor in own.items():
        if not spread(tensor):
            raise ModelError(
                f"recorder: expected trained tensors that are all sharded, got `{name}` whole; leave it out of ignored_params; "
                "after a forward pass call model.reshard() before `watch`"
            )
        mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
        if mesh.ndim > 1 or mesh.size() != distributed.get_world_size():
            raise ModelError(
                f"recorder: expected tensors that are split over all {distributed.get_world_size()} processes, got `{name}` on a "
                f"mesh of {'x'.join(map(str, mesh.shape))} (hybrid sharding, tensor or pipeline parallel); shard on a mesh of "
                f"one dimension, or {CHECKPOINT}"
            )


def _require_own_precision(part: Any) -> None:
    """ModelError for a policy that casts what is computed."""
    state = part._get_fsdp_state() if hasattr(part, "_get_fsdp_state") else None
    policy, held = getattr(state, "_mp_policy", None), {p.dtype for p in part.parameters()}
    for name in ("param_dtype", "reduce_dtype", "output_dtype"):
        found = getattr(policy, name, None)
        if found is not None and {found} != held:
            raise ModelError(
                f"recorder: expected forward passes in the parameters' own precision, got {name}={found} in the policy of "
                "fully_shard; train the window without MixedPrecisionPolicy (torch.autocast to bfloat16 is repeated)"
            )


def _parts(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was called on."""
    if not distributed.is_available():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def whole_module(model: nn.Module, plain: nn.Module) -> nn.Module:
    """A copy of the plain module, on the CPU, with a sharded model's values, modes and frozen tensors; all call this."""
    made, given = copy.deepcopy(plain).to("cpu"), dict(_tensors(model))
    with torch.no_grad():
        for name, tensor in _tensors(made):
            if name in given:
                tensor.copy_(whole(given[name].detach()))
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    for name, p in made.named_parameters():
        p.requires_grad_(frozen[name]).grad = None
    modes = {name: part.training for name, part in model.named_modules()}
    for name, part in made.named_modules():
        part.training = modes.get(name, part.training)
    return made


def whole_optimizers(optimizers: Iterable[Optimizer], model: nn.Module, made: nn.Module) -> list[Optimizer]:
    """Optimizers of a whole module's tensors, where those of a sharded model stand; every process calls this.

    They are read, and never step.
    """
    names, tensors = {id(p): name for name, p in model.named_parameters()}, dict(made.named_parameters())
    found = []
    for optimizer in optimizers:
        counterpart = {
            id(p): tensors[names[id(p)]] for g in optimizer.param_groups for p in g["params"] if id(p) in names
        }
        groups = [
            group | {"params": [counterpart.get(id(p), p) for p in group["params"]]} for group in optimizer.param_groups
        ]
        state = {counterpart.get(id(p), p): _whole_table(table) for p, table in optimizer.state.items()}
        twin: Optimizer = object.__new__(type(optimizer))
        vars(twin).update(vars(optimizer) | {"param_groups": groups, "state": state})
        found.append(twin)
    return found


def _whole_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """A tensor's memory in an optimizer, on the CPU."""
    return {key: whole(value).cpu() if isinstance(value, Tensor) else value for key, value in table.items()}
