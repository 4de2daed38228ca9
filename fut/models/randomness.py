"""Random numbers of torch, Python and numpy under one seed, and whether a computation draws any."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fut.errors import ModelError

Device = torch.device | int


@contextmanager
def seeded(seed: int | Tensor, devices: Sequence[Device] = ()) -> Iterator[None]:
    """Random numbers of torch, of `random` and of numpy drawn from a seed; afterwards all go on as before.

    Args:
        seed: 0 or greater; or the state of one of torch's generators, in bytes, which it goes on from.
        devices: CUDA devices whose generators are seeded, beside the CPU's. (`torch.manual_seed` would seed every device,
            also one that is not in use yet.)

    Raises:
        ModelError: for the state of a generator of another kind of device.
    """
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        number = seed if isinstance(seed, int) else _number(seed)
        torch.default_generator.manual_seed(number)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        if not isinstance(seed, int):
            _set_state(seed, devices)
        random.seed(number)
        np.random.seed(number % (1 << 32))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def _number(state: Tensor) -> int:
    return int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7], "little")


def _set_state(state: Tensor, devices: Sequence[Device]) -> None:
    """Set the generators of CUDA devices, or the CPU's where there are none."""
    try:
        for device in devices:
            torch.cuda.set_rng_state(state, device)
        if not devices:
            torch.set_rng_state(state)
    except RuntimeError as error:
        kind = "cuda" if devices else "cpu"
        raise ModelError(
            f"noise: expected the recorded state of a {kind} generator, got one of {state.numel()} bytes; compute on the kind of "
            "device that the training was recorded on"
        ) from error


def draws(call: Callable[[], object], devices: Sequence[Device] = ()) -> bool:
    """Whether a call draws from a generator of torch, of `random` or of numpy; all go on afterwards as before."""
    with seeded(0, devices):
        before = _states(devices)
        call()
        return _states(devices) != before


def _states(devices: Sequence[Device]) -> list[Any]:
    kind, keys, *rest = np.random.get_state()
    torches = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    return [random.getstate(), kind, np.asarray(keys).tobytes(), rest, *(state.numpy().tobytes() for state in torches)]
