"""Random numbers of torch, Python and numpy under one seed, and whether a computation draws any."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Device = torch.device | int


@contextmanager
def seeded(seed: int, devices: Sequence[Device] = ()) -> Iterator[None]:
    """Random numbers of torch, of `random` and of numpy drawn from a seed; afterwards all go on as before.

    Args:
        seed: 0 or greater.
        devices: CUDA devices whose generators are seeded, beside the CPU's. (`torch.manual_seed` would seed every device,
            also one that is not in use yet.)
    """
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


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
