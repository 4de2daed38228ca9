"""What a module holds beside its item and its trained parameters, fingerprinted: a forward pass that remembers is seen by it."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OWN = {*vars(nn.Module()), "training"}
"""Attributes that every module has from torch."""
LARGE, DEPTH = 1 << 20, 6
"""Numbers from which a tensor is known by its sums, and levels of nested attributes that are looked at."""


def hidden_state(root: nn.Module) -> dict[str, str]:
    """A fingerprint of every tensor that is not trained and every plain attribute of a module and its parts, by name.

    Trained tensors are written anew before every evaluation, and compared with what was written by who evaluates.
    Loss and module of an objective are the parts `module` and `loss`; names are given without the former.
    """
    found: dict[str, str] = {}
    for name, tensor in (*root.named_parameters(), *root.named_buffers()):
        if not tensor.requires_grad:
            found[_short(name)] = _of_tensor(tensor)
    for name, part in root.named_modules():
        if part is not root:
            found |= {_short(f"{name}.{key}"): _of(value) for key, value in _attributes(part)}
    loss = getattr(root, "loss", None)
    if not isinstance(loss, nn.Module):
        owner = getattr(loss, "__self__", loss)  # of a method, or an object that can be called
        found |= {f"loss.{key}": _of(value) for key, value in getattr(owner, "__dict__", {}).items()}
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of what differs, those that one of both lacks included."""
    return sorted(n for n in {*before, *after} if before.get(n) != after.get(n))


def _short(name: str) -> str:
    return name.removeprefix("module.")


def _attributes(part: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from ((key, value) for key, value in vars(part).items() if key not in OWN)


def _of(value: Any, depth: int = 0, seen: frozenset[int] = frozenset()) -> str:
    """A text that differs where the value does; of what has no content to compare, its type."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | count | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    generator = _generator(value)
    if generator is not None:
        return generator
    if depth >= DEPTH or id(value) in seen or isinstance(value, nn.Module):  # a module is looked at where it is a part
        return type(value).__name__
    inner = seen | {id(value)}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_of(v, depth + 1, inner)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple | deque):
        return "[" + ", ".join(_of(v, depth + 1, inner) for v in value) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_of(v, depth + 1, inner) for v in value)) + "}"
    fields = getattr(value, "__dict__", None)
    if not fields or callable(value):
        return type(value).__name__
    return type(value).__name__ + _of(dict(fields), depth + 1, inner)


def _generator(value: Any) -> str | None:
    if isinstance(value, torch.Generator):
        return hashlib.sha256(value.get_state().numpy().tobytes()).hexdigest()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    return hashlib.sha256(repr(value.getstate()).encode()).hexdigest() if isinstance(value, random.Random) else None


def _of_tensor(tensor: Tensor) -> str:
    held = tensor.detach()
    if held.layout != torch.strided or held.is_quantized or held.is_meta:
        return f"{held.dtype}{tuple(held.shape)}{held.layout}{tensor._version}"
    if held.numel() > LARGE:
        parts = torch.view_as_real(held) if held.is_complex() else held
        sums = [part.sum().item() for part in (parts.double(), parts.double().square())]
        return f"{held.dtype}{tuple(held.shape)}{tensor._version}{sums}"
    content = held.contiguous().cpu().reshape(-1).view(torch.uint8) if held.numel() else held.cpu().reshape(-1)
    return f"{held.dtype}{tuple(held.shape)}{hashlib.sha256(content.numpy().tobytes()).hexdigest()}"
