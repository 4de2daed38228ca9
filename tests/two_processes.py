"""Processes of one distributed training, for tests: they meet on a free port of this machine, over gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


def port() -> int:
    """A port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


@contextmanager
def joined(rank: int, ranks: int, free: int) -> Iterator[None]:
    """Be one of the processes, on one thread."""
    torch.set_num_threads(1)
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free}
    os.environ.update({name: str(value) for name, value in about.items()})
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
