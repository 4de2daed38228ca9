"""What a module is, apart from the numbers that training changes: its tensors by name, and where another module differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SHOWN = 5
"""Differences that a message names."""


def fixed_tensors(module: nn.Module, own_name: Callable[[str], str]) -> dict[str, list[Any]]:
    """The tensors that training does not change, by name: dtype, shape, and the digest of the bytes.

    Frozen parameters and all buffers, also those that a state dict leaves out: each can decide a loss.

    Args:
        module: that holds them.
        own_name: their names in it -> their names to its owner.
    """
    frozen = {n: p for n, p in module.named_parameters() if not p.requires_grad}
    held = frozen | dict(module.named_buffers())
    return {own_name(n): [str(t.dtype).removeprefix("torch."), list(t.shape), _digest(t)] for n, t in held.items()}


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest() if flat.numel() else ""


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """How a module differs from the one that a run was trained with, its starting values aside; a line each.

    Args:
        expected: the model's part of the run's identity.
        found: that of the module that came.
    """
    lines = list(_of_parameters(expected, found))
    fixed, came = expected["fixed"], found["fixed"]
    for name in sorted(fixed.keys() | came.keys()):
        if name not in came:
            lines.append(f"`{name}` (frozen or a buffer): expected {_shape(fixed[name])}, got none")
        elif name not in fixed:
            lines.append(f"`{name}` (frozen or a buffer): expected none, got {_shape(came[name])}")
        elif fixed[name][:2] != came[name][:2]:
            lines.append(f"`{name}` (frozen or a buffer): expected {_shape(fixed[name])}, got {_shape(came[name])}")
        elif fixed[name] != came[name]:
            lines.append(
                f"`{name}` (frozen or a buffer): expected the numbers that the run was trained with (sha256 "
                f"{fixed[name][2][:12]}…), got others ({came[name][2][:12]}…)"
            )
    return lines


def _of_parameters(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    shapes, came = dict(expected["parameters"]), dict(found["parameters"])
    dtype, its = expected["dtype"], found["dtype"]
    for name in sorted(shapes.keys() | came.keys()):
        if name not in came:
            yield f"`{name}`: expected a trained parameter, {dtype} {shapes[name]}, got none"
        elif name not in shapes:
            yield f"`{name}`: expected no trained parameter, got {its} {came[name]}"
        elif (dtype, shapes[name]) != (its, came[name]):
            yield f"`{name}`: expected {dtype} {shapes[name]}, got {its} {came[name]}"
    if shapes == came and list(shapes) != list(came):
        yield f"expected the parameters in the order {', '.join(shapes)}, got {', '.join(came)}"


def _shape(fixed: list[Any]) -> str:
    return f"{fixed[0]} {fixed[1]}"
