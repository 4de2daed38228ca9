"""How much memory there is, and how much a computation takes at its height."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fut.errors import ResourceError

GIB = 1 << 30
CGROUPS = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


class LiveBytes(TorchDispatchMode):
    """While it is on, counts the bytes of every tensor storage that an operation makes and that is still alive.

    What lived before does not count, nor does scratch inside one kernel. Works below autograd and `torch.func`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's says no types
        self.now, self.peak = 0, 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in _tensors((args, kwargs)):
            self._note(given, counted=False)
        if any(leaf._is_zerotensor() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
            if func._schema.is_mutable:
                raise RuntimeError(f"{func}: torch's tensors of zeros alone cannot be written to")
            args, kwargs = tree_map_only(Tensor, _written_out, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        for made in _tensors(result):
            self._note(made, counted=True)
        return result

    def _note(self, tensor: Tensor, counted: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        nbytes = storage.nbytes() if counted else 0
        self._alive.add(key)
        self.now += nbytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, nbytes)

    def _release(self, key: int, nbytes: int) -> None:
        self._alive.discard(key)
        self.now -= nbytes


def _written_out(tensor: Tensor) -> Tensor:
    """A tensor of zeros alone, which forward derivatives make, with its zeros: kernels below a dispatch mode read its memory, of
    which it has none, and the process ends."""
    if not tensor._is_zerotensor():
        return tensor
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _tensors(tree: Any) -> list[Tensor]:
    """Tensors with a storage of their own: those of zeros alone have none, and sparse ones have parts that have."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and _stored(leaf)]


def _stored(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor._is_zerotensor()


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int:
    """Bytes of tensors that `call` holds at its height, beyond what lived before, its result included.

    On CUDA as the allocator counts them (`torch.cuda.max_memory_allocated`), elsewhere by `LiveBytes`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    live = LiveBytes()
    with live:
        call()
    return live.peak


def available_bytes(device: torch.device) -> int | None:
    """Bytes of memory that this process can still take on the device; None where nothing says so.

    CUDA: what the driver has free and what torch's allocator holds unused. Else the least of what the kernel calls
    available and what the process's control group leaves (its page cache counts as free).
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    known = [number for number in (_kernel_available(), _group_available()) if number is not None]
    return max(min(known), 0) if known else None


def _kernel_available() -> int | None:
    try:
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _group_available() -> int | None:
    """What the control group leaves, version 2 or 1; None without a limit."""
    places = (
        (CGROUPS, "memory.max", "memory.current"),
        (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    )
    for folder, limit, usage in places:
        try:
            bound, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file, or `max`: no limit
            continue
        cached = int(counts.get("file", counts.get("total_cache", 0))) - int(counts.get("shmem", 0))
        return bound - used + max(cached, 0)
    return None


def require_memory(stage: str, needed: int, device: torch.device, advice: str) -> None:
    """ResourceError, with both numbers, if the device has fewer than `needed` bytes available for the stage."""
    available = available_bytes(device)
    if available is not None and available < needed:
        where = "GPU memory" if device.type == "cuda" else "memory"
        raise ResourceError(
            f"{stage}: expected at least {needed / GIB:.3g} GiB of {where}, got {available / GIB:.3g} GiB available; "
            f"{advice}, or use another machine"
        )
