"""On a GPU: the same bytes twice, the identity order bit for bit, and numbers of the CPU but for rounding.

Skipped where there is none. `python benchmarks/gpu.py` measures accuracy and speed there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import expand, small_config

import fut
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.training.tensor_store import KEPT_FREE, HeldTensors

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]

WINDOW = {"items": 8, "batch": 4, "context": 24, "probe": 8}
FIRST = {"functionals": 2, "storage": "retrain", "coordinates": 400, "drawn": "before", "control": "never"}


def _run(path: Path, device: str = "cuda", **sections: Any) -> fut.Run:
    return fut.train(path, small_config(data=WINDOW, **sections), device=device)


def _kept(expansion: Expansion) -> dict[str, bytes]:
    terms = expansion.terms()
    return {f"{s.name}/{t}": terms.read(s.name, t).tobytes() for s in terms.specs for t in range(s.shape[0])}


@pytest.mark.parametrize("autocast", ["", "bfloat16"])
def test_the_identity_order_is_the_reference_bit_for_bit(tmp_path: Path, autocast: str) -> None:
    model = small_config().model.model_dump() | {"autocast": autocast}
    run = _run(tmp_path / "run", model=model)
    assert run.context.device.type == "cuda"
    found = run.context.retrain(run.reference)
    assert found.loss == run.reference_loss
    assert torch.equal(found.theta, run.context.state(run.steps).theta)
    again = _run(tmp_path / "again", model=model)
    assert again.reference_loss == run.reference_loss, "the same bytes twice"


@pytest.mark.parametrize("scratch", ["disk", "memory"])
def test_an_expansion_is_the_same_bytes_twice_and_answers(tmp_path: Path, scratch: str) -> None:
    kept = []
    for name in ("one", "two"):
        run = _run(tmp_path / name, adjoint=FIRST | {"scratch": scratch})
        expand(run.context, None)
        kept.append(_kept(open_expansion(run.context)))
    assert kept[0] == kept[1]
    assert run.estimate(["identity"], "adjoint", known=False)[0].value == run.reference_loss
    true = run.retrain("reverse").loss - run.reference_loss
    assert abs(run.estimate(["reverse"], "adjoint", known=False)[0].delta - true) < abs(true) + 0.02


def test_numbers_are_those_of_the_cpu_but_for_rounding(tmp_path: Path) -> None:
    model = small_config().model.model_dump() | {"dtype": "float64"}
    runs = [_run(tmp_path / device, device, model=model, adjoint={"functionals": 2}) for device in ("cpu", "cuda")]
    for run in runs:
        expand(run.context, None)
    losses = [run.reference_loss for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    values = [run.estimate(["reverse", "random:3"], "adjoint", known=False) for run in runs]
    for ours, theirs in zip(*values, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-7)


def test_exact_products_agree_with_differences_in_full_precision(tmp_path: Path) -> None:
    for autocast in ("", "bfloat16"):
        model = small_config().model.model_dump() | {"autocast": autocast}
        run = _run(tmp_path / f"run{autocast}", model=model)
        problem, theta = run.context.problem, run.context.state(0).theta
        u = torch.randn(len(theta), generator=torch.Generator().manual_seed(0)).to(theta)
        exact, difference = (problem.product(theta, 0, u, exact=exact) for exact in (True, False))
        assert (exact - difference).norm() / difference.norm() < (0.05 if autocast else 0.02)


def test_tensors_are_held_on_the_device_while_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    store, tensor = HeldTensors(), torch.ones(1000, device="cuda")
    store.put(0, {"x": tensor})
    assert store._held[0][0]["x"].device.type == "cuda"
    total = torch.cuda.get_device_properties(tensor.device).total_memory
    monkeypatch.setattr("fut.training.tensor_store.available_bytes", lambda device: int(KEPT_FREE * total) - 1)
    store.put(1, {"x": tensor})
    assert store._held[1][0]["x"].device.type == "cpu"
    assert torch.equal(store.tensor(1, "x", tensor.device), tensor)
    monkeypatch.undo()
    seldom = HeldTensors(seldom=True)
    seldom.put(0, {"x": tensor})
    assert seldom._held[0][0]["x"].device.type == "cpu"


def test_the_host_programs_settings_are_left_alone(tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    _run(tmp_path / "run")
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()) == before
