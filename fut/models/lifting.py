"""The copy of a user's module and loss that is trained: the same function, its trained parameters in another type."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fut.errors import FutError, ModelError

M = TypeVar("M", bound=nn.Module)
COMPLEX = {torch.float16: torch.complex32, torch.float32: torch.complex64, torch.float64: torch.complex128}


def copied(module: nn.Module, loss: Any = None) -> tuple[nn.Module, Any]:
    """Copies of a module and of a loss, what they share being shared by the copies; a loss that is no module stays as it is.

    Raises:
        ModelError: naming the part that cannot be copied, lazy parameters, and hooks on parameters, which no copy keeps.
    """
    for part in (module, loss):
        if isinstance(part, nn.Module):
            _require_shapes(part)
            _require_no_hooks(part)
    try:
        if isinstance(loss, nn.Module):
            return copy.deepcopy((module, loss))
        return copy.deepcopy(module), loss
    except (FutError, MemoryError):
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:160]
        raise ModelError(
            f"model: expected a module that copy.deepcopy copies, got {type(error).__name__} for {_culprit(module, loss)}: "
            f"{said}; {_way_out(module)}"
        ) from error


def _require_shapes(module: nn.Module) -> None:
    lazy = [n for n, p in _tensors(module) if nn.parameter.is_lazy(p)]
    if lazy:
        raise ModelError(
            f"model: expected parameters that have their shapes, got a lazy one, `{lazy[0]}`; run one forward pass on an item "
            "first, which gives it its shape and its starting values"
        )


def _require_no_hooks(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ModelError(
                f"model: expected parameters without hooks, got one on `{name}` (register_hook), which a copy loses; do the same "
                "in the forward pass or in the loss"
            )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _culprit(module: nn.Module, loss: Any) -> str:
    """The innermost attribute that cannot be copied, by name."""
    for root, of in ((module, "the module"), (loss, "the loss")):
        if not isinstance(root, nn.Module):
            continue
        for name, part in root.named_modules():
            for key, value in vars(part).items():
                if key not in ("_parameters", "_buffers", "_modules") and not _copies(value):
                    where = f"`{name}`" if name else of
                    return f"the attribute `{key}` of {where} ({type(part).__name__})"
    return "the module"


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True


def _way_out(module: nn.Module) -> str:
    hooks = {type(h).__name__ for m in module.modules() for h in m._forward_pre_hooks.values()}
    if hooks & {"WeightNorm", "SpectralNorm"}:
        return "use torch.nn.utils.parametrizations.weight_norm in place of torch.nn.utils.weight_norm"
    return "keep it outside of the module, or give the class a __deepcopy__"


def lifted(call: M, device: torch.device, dtype: torch.dtype) -> M:
    """The module on a device, its trained parameters in `dtype`; in place.

    Everything else keeps its type, but what has the type of a trained parameter that is cast: frozen parameters and buffers
    of that type go with it, and complex ones of that precision, so that the forward pass still fits together.

    Raises:
        ModelError: for a trained parameter that is complex or no floating-point number.
    """
    call.zero_grad(set_to_none=True)
    trained = [(n.removeprefix("module."), p) for n, p in call.named_parameters() if p.requires_grad]
    for name, parameter in trained:
        if not parameter.dtype.is_floating_point:
            raise ModelError(
                f"model: expected trained parameters that are real numbers, got `{name}` of type "
                f"{str(parameter.dtype).removeprefix('torch.')}; hold its real and imaginary part as two, and join them in the "
                "forward pass (torch.view_as_complex), or freeze it (requires_grad_(False))"
            )
    if any(t.device != device for t in (*call.parameters(), *call.buffers())):
        call = call.to(device=device)
    cast: dict[torch.dtype, torch.dtype] = {p.dtype: dtype for _, p in trained if p.dtype != dtype}
    cast |= {COMPLEX[old]: COMPLEX[dtype] for old in cast if old in COMPLEX}
    _cast(call, lambda t: cast.get(t.dtype, t.dtype))
    return call


def _cast(call: nn.Module, chosen: Callable[[Tensor], torch.dtype]) -> None:
    for parameter in call.parameters():
        if chosen(parameter) != parameter.dtype:
            parameter.data = parameter.data.to(chosen(parameter))
    made: dict[int, Tensor] = {}
    for module in call.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and chosen(buffer) != buffer.dtype:
                module._buffers[name] = made.setdefault(id(buffer), buffer.to(chosen(buffer)))
