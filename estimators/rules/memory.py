"""Memory for the results of steps: new vectors, whose pages the system takes as long to clear as the arithmetic takes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

ALIGNED = 64
"""Bytes at a multiple of which a vector begins, as torch has it."""
MOST = 8
"""Pieces of memory that are kept for later vectors."""


class _Spares:
    """Pieces of memory that were lent and that nothing holds any more."""

    def __init__(self) -> None:
        self._rooms: list[np.ndarray] = []
        self._open = True

    def take(self, size: int) -> np.ndarray:
        """One of `size` bytes, or a new one."""
        for place, room in enumerate(self._rooms):
            if room.nbytes == size:
                return self._rooms.pop(place)
        return np.empty(size, dtype=np.uint8)

    def give(self, room: np.ndarray) -> None:
        """Keep a piece that is free again."""
        if self._open and len(self._rooms) < MOST:
            self._rooms.append(room)

    def close(self) -> None:
        """Give all back to the system, and keep nothing from now on."""
        self._open = False
        self._rooms.clear()


_SPARES: ContextVar[_Spares | None] = ContextVar("_SPARES", default=None)


@contextmanager
def reused() -> Iterator[None]:
    """Within it the memory of vectors that nothing holds any more serves for later ones, so that no page is cleared anew.

    Nobody sees that but the clock, and the process's memory: one lifted state more while no step is taken.
    """
    spares = _Spares()
    before = _SPARES.set(spares)
    try:
        yield
    finally:
        _SPARES.reset(before)
        spares.close()


def lent(count: int) -> Tensor:
    """Memory of `count` bytes [count], for as long as a tensor is in it.

    It is numpy's, which asks for large pages where the system has them: a few of these are cleared sooner than many small ones.
    """
    spares, size = _SPARES.get(), count + ALIGNED
    room = np.empty(size, dtype=np.uint8) if spares is None else spares.take(size)
    first = -room.ctypes.data % ALIGNED
    part = room[first : first + count]
    if spares is not None:
        weakref.finalize(part, spares.give, room).atexit = False
    return torch.from_numpy(part)
