"""Which device runs the numbers, and the settings under which they are reproducible there."""

from __future__ import annotations

import os
import platform
from typing import Any

import h5py
import numpy as np
import torch
import zarr

from fut.errors import UsageError


def choose_device(request: str = "auto") -> torch.device:
    """CUDA when present, else the CPU; or what is asked for by name.

    On CUDA it turns deterministic algorithms on and TF32 off for the process: without both, the same order does not
    give the same bytes.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if request == "auto" else request
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: expected auto, cpu or cuda[:N], got `{request}`; correct --device") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu or cuda[:N], got `{request}`; correct --device")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("device: expected a CUDA device, got none that torch can see; use --device cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


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
