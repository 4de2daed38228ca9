"""Two processes that train one model of `fully_shard`: whole tensors are gathered, and each process opens the plain run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.multiprocessing.spawn import spawn
from torch.optim import SGD
from two_processes import joined, port
from user_loops import PROBE, adamw, batches, net

import fut
from estimators.torch_optimizers import from_optimizer
from fut.errors import ModelError
from fut.recording.items import Form
from fut.recording.ranks import Ranks
from fut.recording.window import Step, Window

START, STEPS, RANKS = 2, 4, 2
BOUND = 0.3
"""On the gradient's norm, which most steps are above."""


def model(dropout: bool = False) -> Any:
    made: Any = net()
    if dropout:
        made.norm = nn.Sequential(made.norm, nn.Dropout(0.3))
    made.body.bias.requires_grad_(False)
    return made


def sharded(made: Any, **options: Any) -> Any:
    fully_shard(made.body, **options)
    fully_shard(made, **options)
    return made


def loop(
    rank: int, path: str, accumulate: int = 1, dropout: bool = False, clip: float | None = BOUND
) -> dict[str, Any]:
    """A loop with AdamW in two groups, clipping and a schedule, recorded; what one process found."""
    made = model(dropout)
    plain = copy.deepcopy(made)
    optimizer = adamw(sharded(made))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    recorder = fut.Recorder(path, start=START, steps=STEPS, module=plain)
    given = batches((START + STEPS) * RANKS * accumulate)
    torch.manual_seed(rank)
    with recorder.watch(made, optimizer):
        for _ in range(START + STEPS):
            own = [batch for number, batch in enumerate(next(given) for _ in range(RANKS * accumulate))]
            for batch in own[rank * accumulate : (rank + 1) * accumulate]:
                (made(*batch) / accumulate).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(made.parameters(), clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    run = recorder.finish(PROBE, device="cpu")
    made.eval()
    with torch.no_grad():
        trained = torch.stack([made(**batch) for batch in PROBE]).mean().item()
    return {"steps": run.steps, "items": run.items, "loss": run.reference_loss, "own": trained}


def refused(name: str, path: str) -> str:
    """What is said of a model that is not repeated."""
    made, whole = model(), model()
    flat, square = init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (1, RANKS), mesh_dim_names=("a", "b"))
    kinds: dict[str, Callable[[], Any]] = {
        "a policy of precision": lambda: sharded(made, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)),
        "a mesh of two dimensions": lambda: sharded(made, mesh=square),
        "a tensor that is not sharded": lambda: sharded(made, ignored_params={made.head.weight}),
        "no plain module": lambda: sharded(made),
        "another plain module": lambda: sharded(made),
        "a plain module without values": lambda: sharded(made),
        "tensor parallel": lambda: parallelize_module(made, flat, {"head": ColwiseParallel()}),
        "the older kind": lambda: FullyShardedDataParallel(made, device_id=torch.device("cpu"), use_orig_params=True),
    }
    plain: dict[str, Any] = {
        "no plain module": None,
        "another plain module": nn.Linear(4, 4),
        "a plain module without values": whole.to("meta"),
    }
    spoiled = kinds[name]()
    recorder = fut.Recorder(path, steps=STEPS, module=plain.get(name, model()))
    try:
        with recorder.watch(spoiled, SGD([p for p in spoiled.parameters() if p.requires_grad], lr=0.1)):
            return "nothing"
    except ModelError as error:
        return str(error)


SAID = {
    "a policy of precision": "got param_dtype=torch.bfloat16 in the policy of fully_shard",
    "a mesh of two dimensions": "on a mesh of 1x2",
    "a tensor that is not sharded": "got `head.weight` whole",
    "no plain module": "got none; make one before fully_shard",
    "another plain module": "expected `body.weight` of shape [8, 4] in `module`",
    "a plain module without values": "expected tensors that hold values in `module`",
    "tensor parallel": "of a tensor-parallel plan",
    "the older kind": "FullyShardedDataParallel (FSDP1)",
}
LOOPS: dict[str, dict[str, Any]] = {
    "clipped": {},
    "accumulated": {"accumulate": 2, "clip": None},
    "dropout": {"dropout": True},
}


def work(rank: int, free: int, path: str) -> None:
    """What one process does."""
    with joined(rank, RANKS, free):
        found = {name: loop(rank, f"{path}-{name}", **about) for name, about in LOOPS.items()}
        said = {name: refused(name, f"{path}-refused") for name in SAID}
        Path(f"{path}.{rank}.json").write_text(json.dumps({"found": found, "said": said}))


@pytest.mark.slow
def test_two_processes_of_fully_shard(tmp_path: Path) -> None:
    spawn(work, (port(), str(tmp_path / "run")), nprocs=RANKS)
    for rank in range(RANKS):
        about = json.loads((tmp_path / f"run.{rank}.json").read_text())
        for name, found in about["found"].items():
            count = STEPS * RANKS * LOOPS[name].get("accumulate", 1)
            assert (found["steps"], found["items"]) == (STEPS, count)
            assert found["loss"] == pytest.approx(found["own"], abs=1e-6)
        for name, message in SAID.items():
            assert message in about["said"][name]
    for name in LOOPS:
        said = json.loads((tmp_path / f"run-{name}" / "recording.json").read_text())
        assert max(said["replay_errors"].values()) <= 1e-5
        assert said["clip"] == (None if name == "accumulated" else pytest.approx(BOUND, rel=1e-5))
    run = fut.open(tmp_path / "run-clipped", module=model(), device="cpu")
    for item, given in zip(run.context.problem.data.items, list(batches(RANKS * (START + STEPS)))[4:], strict=True):
        assert torch.equal(item[0], given[0]), "rank by rank inside a step"
    assert run.retrain("identity").loss == run.reference_loss
    run.cache(["adjoint"])
    orders = ["reverse", "random:1"]
    for estimate, truth in zip(run.estimate(orders, "adjoint"), run.estimate(orders, "retrain"), strict=True):
        assert estimate.delta == pytest.approx(truth.delta, abs=0.3 * abs(truth.delta))


@dataclass(frozen=True)
class Other(Ranks):
    """A second process that recorded the same, with gradients of norm 4."""

    def gathered(self, value: Any) -> list[Any]:
        noisy, steps = value
        return [value, (noisy, [(*told, torch.tensor(4.0)) for *told, _ in steps])]


@pytest.mark.parametrize(("sharded", "norm"), [(True, 5.0), (False, 3.0)], ids=["parts", "whole gradients"])
def test_the_norm_of_a_step_is_that_of_all_parts(sharded: bool, norm: float) -> None:
    made = net()
    rule, rate, state, _ = from_optimizer(adamw(made), made)
    step = Step(((torch.zeros(1),),), rate, torch.tensor(3.0))
    window = Window(0, Form(("x",)), made, rule, state, steps=[step])
    [merged] = window.merged(Other(None, 0, 2, sharded)).steps
    assert merged.norm == torch.tensor(norm)
