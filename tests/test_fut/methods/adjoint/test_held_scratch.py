"""Scratch in memory in place of files: the same bits, nothing on disk but what stays."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small import expand, small_config

import fut
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.training.tensor_store import HeldTensors, TensorStore
from storage import ExistsError, MissingError

WINDOW = {"items": 5, "epochs": 2, "batch": 2, "context": 12, "probe": 4}
CPU = torch.device("cpu")


def _kept(expansion: Expansion) -> dict[str, bytes]:
    """The bytes of all terms, and of what is known of the sample."""
    terms, known = expansion.terms(), expansion.sampled.read(0)
    found = {f"{s.name}/{t}": terms.read(s.name, t).tobytes() for s in terms.specs for t in range(s.shape[0])}
    return found | {name: array.tobytes() for name, array in known.arrays.items()}


@pytest.mark.parametrize(
    "adjoint",
    [
        {"storage": "store"},
        {"storage": "retrain"},
        {"storage": "retrain", "coordinates": 300, "drawn": "before"},
        {"storage": "retrain", "coordinates": 300, "drawn": "before", "control": "never"},
        {"storage": "retrain", "coordinates": 300, "drawn": "before", "readouts": ["probe", "probe@6"]},
        {"storage": "store", "trajectory": "mixture", "num_anchors": 0, "coordinates": 300, "rank": 2},
    ],
    ids=["stored", "retrained", "control", "sample", "early", "mixture"],
)
def test_scratch_in_memory_gives_the_same_bits(tmp_path: Path, adjoint: dict[str, Any]) -> None:
    kept, seen = [], set[str]()

    @contextmanager
    def watching(label: str, total: int) -> Any:
        yield lambda: seen.update(p.name for p in (tmp_path / "memory/adjoint/scratch").rglob("*"))

    for scratch in ("disk", "memory"):
        config = small_config(data=WINDOW, adjoint={"functionals": 2} | adjoint | {"scratch": scratch})
        run = fut.train(tmp_path / scratch, config, device="cpu")
        run.context.progress = watching if scratch == "memory" else run.context.progress
        expand(run.context, None)
        expansion = open_expansion(run.context)
        kept.append(_kept(expansion))
        run.cache(["adjoint"], readouts=["accuracy"])
        kept[-1] |= {f"added {k}": v for k, v in _kept(open_expansion(run.context, part="adjoint-added-001")).items()}
    assert kept[0] == kept[1]
    assert not seen, "no file of scratch"
    assert not (tmp_path / "memory/adjoint/trajectory").exists()
    assert not run.check()


def test_an_interrupted_one_begins_again_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"functionals": 2, "storage": "retrain", "coordinates": 300, "drawn": "before", "scratch": "memory"}
    config = small_config(data=WINDOW, adjoint=settings)
    whole, run = (fut.train(tmp_path / name, config, device="cpu") for name in ("whole", "run"))
    expand(whole.context, None)

    class StoppedError(Exception):
        """As a key would interrupt it, but not pytest."""

    for stage in ("trajectory", "sample", "backward pass", "tables"):

        @contextmanager
        def interrupting(label: str, total: int, stage: str = stage) -> Any:
            def tick() -> None:
                if label == stage:
                    raise StoppedError

            yield tick

        run = fut.open(run.path, device="cpu", progress=interrupting)
        with pytest.raises(StoppedError):
            expand(run.context, None)
    run = fut.open(run.path, device="cpu")
    expand(run.context, None)
    assert _kept(open_expansion(run.context)) == _kept(open_expansion(whole.context))


def test_what_is_held_counts_as_memory_and_not_as_disk(tmp_path: Path) -> None:
    config = small_config(data=WINDOW, adjoint={"storage": "retrain"})
    run = fut.train(tmp_path / "run", config, device="cpu")
    held = config.adjoint.model_copy(update={"scratch": "memory"})
    assert held.identity() == config.adjoint.identity()
    plans = [run.plan(adjoint=settings) for settings in (config.adjoint, held)]
    on_disk, in_memory = (next(way for way in plan.strategies if way.chosen) for plan in plans)
    assert in_memory.gradients == on_disk.gradients
    assert in_memory.scratch_bytes == 0 < on_disk.scratch_bytes
    assert in_memory.host_bytes > on_disk.host_bytes


@pytest.mark.parametrize("kind", [TensorStore, HeldTensors])
def test_a_store_of_tensors(tmp_path: Path, kind: type[TensorStore]) -> None:
    store = kind(tmp_path / "store", "owner")
    assert store.steps() == []
    one, two = torch.arange(6.0).view(2, 3), torch.tensor([1, 2])
    store.put(3, {"one": one[:, 1:], "two": two}, {"clock/step": 2.0})
    store.write(5, {"one": one.numpy()}, {"name": "value"})
    assert store.steps() == [3, 5]
    assert store.has(3)
    assert not store.has(4)
    tensors, attributes = store.get(3, CPU)
    assert torch.equal(tensors["one"], one[:, 1:])
    assert attributes == {"clock/step": 2.0}
    assert torch.equal(store.tensor(3, "two", CPU), two)
    assert store.read_array(5, "one").tolist() == one.tolist() == store.read(5).arrays["one"].tolist()
    assert store.read_attributes(5) == {"name": "value"}
    with pytest.raises(ExistsError):
        store.put(3, {"one": one}, replace=False)
    store.put(3, {"one": one})
    assert torch.equal(store.tensor(3, "one", CPU), one)
    for ask in (lambda: store.get(4, CPU), lambda: store.tensor(5, "two", CPU), lambda: store.remove(4)):
        with pytest.raises(MissingError):
            ask()
    assert not store.check()
    assert store.nbytes() >= one.nbytes
    store.remove(5)
    assert store.steps() == [3]
    store.clear()
    assert store.steps() == []


def test_of_a_part_of_a_larger_tensor_the_part_is_held() -> None:
    store, large = HeldTensors(), torch.zeros(1000)
    store.put(0, {"part": large[:3], "whole": large})
    assert store.tensor(0, "part", CPU).untyped_storage().nbytes() == 12
    assert store.tensor(0, "whole", CPU).data_ptr() == large.data_ptr(), "no copy of what is whole"
