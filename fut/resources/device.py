"""Which device runs the numbers, and the settings under which they are reproducible there, held only while `fut` computes."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, wraps
from threading import Lock
from types import FunctionType
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
import zarr

from fut.errors import UsageError
from fut.spoken import spoken

Made = TypeVar("Made", bound=type)
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC = (":4096:8", ":16:8")
"""Values of the variable under which cuBLAS is deterministic; torch reads it at the process's first product on CUDA alone."""
COMPILER, COMPILED = "torch._dynamo", "TORCHINDUCTOR_CACHE_DIR"
_NEWER = hasattr(torch.backends.cudnn, "conv")
"""Whether torch (2.9 and later) has a precision of its own for every kind of operation."""


def choose_device(request: str = "auto") -> torch.device:
    """CUDA when present, else the CPU; or what is asked for by name. Changes nothing: see `reproducible`."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if request == "auto" else request
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: expected auto, cpu or cuda[:N], got `{request}`; correct --device") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu or cuda[:N], got `{request}`; correct --device")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: expected a CUDA device, got none that torch can see; use --device cpu")
    return device


def set_workspace() -> None:
    """Have cuBLAS be deterministic from its first product on, where the host has CUDA and does not say otherwise."""
    if torch.cuda.is_available():
        os.environ.setdefault(WORKSPACE, DETERMINISTIC[0])


def describe(device: torch.device) -> str:
    """The device in words, for the line that says where the work runs."""
    if device.type == "cuda":
        return f"CUDA: {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads (no CUDA device in use)"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine that bitwise results depend on."""
    return {
        "torch": torch.__version__,
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "zarr": zarr.__version__,
    }


class _Held:
    """A group of settings that any number of callers hold at once, in one thread or in several.

    change: sets them, and returns what puts them back. The first to enter calls it, and the last to leave puts back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change, self._lock, self._count = change, Lock(), 0
        self._restore: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if not self._count:
                self._restore = self._change()
            self._count += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                self._restore()


def _precise() -> Callable[[], None]:
    """Products in full single precision, on either device: no TF32, and no bfloat16 inside."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    parts = [torch.backends.cuda.matmul, mkldnn.matmul, cudnn.conv, cudnn.rnn] if _NEWER else []
    kept = [part.fp32_precision for part in parts]
    products, convolutions = _read(torch.get_float32_matmul_precision), _read(lambda: cudnn.allow_tf32)
    if products is not None:
        torch.set_float32_matmul_precision("highest")
    if convolutions is not None:
        cudnn.allow_tf32 = False
    for part in parts:
        part.fp32_precision = "ieee"

    def restore() -> None:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for part, value in zip(parts, kept, strict=True):
            part.fp32_precision = "none"  # as its backend's is, if that gives what it was
            if part.fp32_precision != value:
                part.fp32_precision = value

    return restore


def _read(setting: Callable[[], Any]) -> Any:
    """A setting of torch's older interface; None where the host uses the newer one, beside which torch refuses to say."""
    try:
        return setting()
    except RuntimeError:
        return None


def _deterministic() -> Callable[[], None]:
    """Kernels of CUDA that give the same bytes every time."""
    import torch._inductor.config as inductor  # torch's own setter changes it too

    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.deterministic, cudnn.benchmark
    compiled, workspace = getattr(inductor, "deterministic", None), os.environ.get(WORKSPACE)
    if workspace not in DETERMINISTIC:
        os.environ[WORKSPACE] = DETERMINISTIC[0]
    torch.use_deterministic_algorithms(True)
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # a kernel for every new tensor
    cudnn.deterministic, cudnn.benchmark = True, False

    def restore() -> None:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        cudnn.deterministic, cudnn.benchmark = kernels
        memory.fill_uninitialized_memory = filled
        if compiled is not None:
            inductor.deterministic = compiled
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
        else:
            os.environ[WORKSPACE] = workspace

    return restore


@cache
def _require_workspace(device: torch.device) -> None:
    """UsageError for a process that used cuBLAS before it was deterministic, as torch refuses every product then."""
    if not torch.cuda.is_available():
        return
    one = torch.ones(1, 1, device=device)
    try:
        one @ one
    except RuntimeError as error:
        if WORKSPACE not in str(error):
            raise
        raise UsageError(
            "device: expected a process whose products on CUDA are deterministic from the first on, got one that multiplied "
            f"before; set the environment variable {WORKSPACE}={DETERMINISTIC[0]} before the program starts, or make the "
            "recorder before the first forward pass"
        ) from error


def _undisturbed() -> Callable[[], None]:
    """The first derivative makes torch load its compiler, which leaves a warnings filter and a variable: neither stays."""
    if COMPILER in sys.modules:
        return lambda: None
    variable, caught = os.environ.get(COMPILED), warnings.catch_warnings()
    caught.__enter__()

    def restore() -> None:
        caught.__exit__(None, None, None)
        if variable is None and COMPILER in sys.modules:
            os.environ.pop(COMPILED, None)

    return restore


_UNDISTURBED, _PRECISE, _DETERMINISTIC = _Held(_undisturbed), _Held(_precise), _Held(_deterministic)


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Compute under settings that give the same bytes every time; afterwards they are what the host program had them be.

    May be entered again inside itself, and by several threads. Full precision on every device; on CUDA deterministic
    algorithms too, and a workspace of cuBLAS that is, where the process has not used cuBLAS yet: it keeps its first one.

    Raises:
        UsageError: on CUDA, where the process has used cuBLAS with another workspace.
    """
    with ExitStack() as settings:
        settings.enter_context(_UNDISTURBED)
        settings.enter_context(_PRECISE)
        if device.type == "cuda":
            settings.enter_context(_DETERMINISTIC)
            _require_workspace(device)
        yield


def computes(made: Made) -> Made:
    """Every public method and property of a class that has a `device`, or a `context` that has one, is computed as
    `reproducible` says, those to come too.

    A method that returns an iterator holds the settings only while it makes its next value.
    """
    for name, member in list(vars(made).items()):
        if name.startswith("_") or name == "device":
            continue
        if isinstance(member, cached_property):
            member.func = _held(member.func)
        elif isinstance(member, property) and member.fget is not None:
            setattr(made, name, property(_held(member.fget), member.fset, member.fdel, member.__doc__))
        elif isinstance(member, FunctionType):
            setattr(made, name, _held(member))
    return made


def _held(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        device: torch.device = self.device if hasattr(self, "device") else self.context.device
        with spoken(), reproducible(device):
            answer = method(self, *arguments, **options)
        return _each(device, answer) if isinstance(answer, Iterator) else answer

    return call


def _each(device: torch.device, values: Iterator[Any]) -> Iterator[Any]:
    done = object()
    while True:
        with reproducible(device):
            value = next(values, done)
        if value is done:
            return
        yield value
