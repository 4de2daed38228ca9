"""Lifted states as checkpoint arrays, and back."""

from __future__ import annotations

import numpy as np
import torch

from estimators.state import State
from storage import CheckpointStore


def pack(state: State) -> dict[str, np.ndarray]:
    """Arrays of a stacked state of one run, as they are stored."""
    arrays = {"theta": state.theta[0]} | {f"memory/{name}": buffer[0] for name, buffer in state.memory.items()}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def unpack(arrays: dict[str, np.ndarray], attributes: dict[str, int | float | str], device: torch.device) -> State:
    """The lifted state [D] from stored arrays."""
    memory = {
        name.removeprefix("memory/"): torch.from_numpy(a).to(device) for name, a in arrays.items() if name != "theta"
    }
    clock = {name.removeprefix("clock/"): float(v) for name, v in attributes.items() if name.startswith("clock/")}
    return State(torch.from_numpy(arrays["theta"]).to(device), memory, clock)


def attributes_of(state: State, **more: int | float | str) -> dict[str, int | float | str]:
    return {f"clock/{name}": value for name, value in state.clock.items()} | more


def read_state(store: CheckpointStore, step: int, device: torch.device) -> State:
    checkpoint = store.read(step)
    return unpack(checkpoint.arrays, checkpoint.attributes, device)
