"""Lifted states as checkpoint arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from estimators.state import State
from fut.training.tensor_store import TensorStore
from storage import Attributes, CheckpointStore


def pack(state: State) -> dict[str, np.ndarray]:
    """Arrays of a stacked state of one run, as they are stored."""
    arrays = {"theta": state.theta[0]} | {f"memory/{name}": buffer[0] for name, buffer in state.memory.items()}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def unpack(tensors: Mapping[str, Tensor], attributes: Attributes) -> State:
    """The lifted state [D], or stacked ones, from stored tensors."""
    memory = {name.removeprefix("memory/"): t for name, t in tensors.items() if name != "theta"}
    clock = {name.removeprefix("clock/"): float(v) for name, v in attributes.items() if name.startswith("clock/")}
    return State(tensors["theta"], memory, clock)


def state_tensors(state: State) -> dict[str, Tensor]:
    """Tensors of a state, or of stacked ones, by the names under which they are stored."""
    return {"theta": state.theta} | {f"memory/{name}": buffer for name, buffer in state.memory.items()}


def attributes_of(state: State, **more: int | float | str) -> dict[str, int | float | str]:
    return {f"clock/{name}": value for name, value in state.clock.items()} | more


def read_state(store: CheckpointStore, step: int, device: torch.device) -> State:
    """The lifted state [D], or stacked ones, that was stored of a step."""
    if isinstance(store, TensorStore):
        return unpack(*store.get(step, device))
    found = store.read(step)
    return unpack({n: torch.from_numpy(a).to(device) for n, a in found.arrays.items()}, found.attributes)


def save(store: TensorStore, step: int, state: State, **more: int | float | str) -> None:
    """Keep a lifted state, or stacked ones, in place of what was there."""
    store.put(step, state_tensors(state), attributes_of(state, **more))
