"""A guest in a host program: what `fut` needs of the process it holds only while it computes, and leaves as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE
from small import Cli, arguments, small_config
from torch import nn

import fut
from fut.methods.base import Estimator
from fut.methods.context import Context
from fut.models.factory import build_module
from fut.models.objective import Objective
from fut.resources import device as devices
from fut.resources.device import WORKSPACE, choose_device, computes, reproducible, set_workspace
from fut.training.problem import Problem

CUDA = torch.device("cuda")
CPU = torch.device("cpu")
NEWER: Any = torch.backends
"""With what a version of torch may lack."""


def settings() -> dict[str, Any]:
    """What `reproducible` may change."""
    cuda, cudnn, mkldnn = torch.backends.cuda.matmul, NEWER.cudnn, NEWER.mkldnn
    newer: list[Any] = [cuda, mkldnn.matmul, cudnn.conv, cudnn.rnn] if devices._NEWER else []
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "allow_tf32": (cuda.allow_tf32, cudnn.allow_tf32),
        "newer": [part.fp32_precision for part in newer],
        "cudnn": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
        "workspace": os.environ.get(WORKSPACE),
    }


def a_host(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    monkeypatch.setenv(WORKSPACE, ":0:0") if deterministic else monkeypatch.delenv(WORKSPACE, raising=False)


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = False, True
    for part in (torch.backends.cuda.matmul, NEWER.mkldnn.matmul) if devices._NEWER else ():
        part.fp32_precision = "none"


@pytest.mark.parametrize("deterministic", [False, True])
def test_settings_hold_inside_and_are_the_hosts_afterwards(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    a_host(monkeypatch, deterministic)
    before = settings()
    with reproducible(CUDA), reproducible(CPU):
        with reproducible(CUDA):
            pass
        inside = settings()
    assert settings() == before
    assert (inside["deterministic"], inside["warn_only"], inside["workspace"]) == (True, False, ":4096:8")
    assert (inside["products"], inside["allow_tf32"], inside["cudnn"]) == (
        "highest",
        (False, False),
        (True, True, False),
    )
    assert set(inside["newer"]) <= {"ieee"}
    with pytest.raises(KeyError), reproducible(CUDA):
        raise KeyError
    assert settings() == before


def test_on_the_cpu_the_precision_alone_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    a_host(monkeypatch, False)
    before = settings()
    with reproducible(CPU):
        inside = settings()
    assert settings() == before
    assert inside["products"] == "highest"
    assert {k: inside[k] for k in ("deterministic", "cudnn", "workspace")} == {
        k: before[k] for k in ("deterministic", "cudnn", "workspace")
    }


def test_whoever_leaves_last_puts_the_hosts_settings_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two threads may: the first to come is the first to go."""
    a_host(monkeypatch, False)
    before, first, second = settings(), ExitStack(), ExitStack()
    first.enter_context(reproducible(CUDA))
    second.enter_context(reproducible(CUDA))
    first.close()
    assert settings()["deterministic"], "the second still computes"
    second.close()
    assert settings() == before


@pytest.mark.skipif(not devices._NEWER, reason="torch before 2.9 has the older settings alone")
def test_a_host_with_the_newer_settings_keeps_them() -> None:
    product = torch.backends.cuda.matmul
    product.fp32_precision = "tf32"
    with reproducible(CUDA):
        assert product.fp32_precision == "ieee"
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8
    assert product.fp32_precision == "tf32"
    product.fp32_precision = "none"


def test_choosing_a_device_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = settings()
    assert choose_device("auto") == choose_device("cuda") == CUDA
    assert settings() == before


def test_a_process_that_multiplied_before_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reads it at the first product on CUDA, and refuses all products under deterministic algorithms afterwards."""

    class Refused:
        def __matmul__(self, other: object) -> None:
            raise RuntimeError(
                f"you must set an environment variable before running: {WORKSPACE}=:4096:8 or {WORKSPACE}=:16:8"
            )

    a_host(monkeypatch, False)
    before = settings()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: Refused())
    devices._require_workspace.cache_clear()
    with pytest.raises(fut.UsageError, match=rf"{WORKSPACE}=:4096:8 before the program starts"), reproducible(CUDA):
        pass
    assert settings() == before


def test_the_workspace_is_the_hosts_where_it_says_one(monkeypatch: pytest.MonkeyPatch) -> None:
    a_host(monkeypatch, True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_workspace()
    assert os.environ[WORKSPACE] == ":0:0"
    monkeypatch.delenv(WORKSPACE)
    set_workspace()
    assert os.environ[WORKSPACE] == ":4096:8"


class Computer:
    """Has a device, and says under which settings it computes."""

    device = CUDA

    def method(self) -> bool:
        return torch.are_deterministic_algorithms_enabled()

    @property
    def read(self) -> bool:
        return torch.are_deterministic_algorithms_enabled()

    def several(self) -> Iterator[bool]:
        for _ in range(2):
            yield torch.are_deterministic_algorithms_enabled()


def test_all_that_computes_holds_them_and_an_iterator_between_its_values_does_not() -> None:
    of = computes(Computer)()
    assert of.method()
    assert of.read
    values = of.several()
    assert not torch.are_deterministic_algorithms_enabled()
    for value in values:
        assert value
        assert not torch.are_deterministic_algorithms_enabled()


def subclasses(kind: type[Any]) -> list[type[Any]]:
    """All of them, of any depth."""
    return [found for direct in kind.__subclasses__() for found in (direct, *subclasses(direct))]


@pytest.mark.parametrize("made", [fut.Run, Context, Problem, *subclasses(Estimator)])
def test_no_public_member_of_what_computes_is_left_out(made: type) -> None:
    own = [(n, m) for c in made.__mro__ for n, m in vars(c).items() if c.__module__.startswith("fut.")]
    members = [(n, getattr(m, "func", getattr(m, "fget", m))) for n, m in own if n[0] != "_" and n != "device"]
    functions = [(name, member) for name, member in members if callable(member)]
    assert len(functions) > 5
    assert [name for name, function in functions if not hasattr(function, "__wrapped__")] == []


GUEST = """
import json, os, random, sys, warnings
import numpy as np, torch
import scipy.optimize, scipy.special  # which add to the filters, once, whoever imports them first

def state():
    numbers = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [str(numbers[0]), numbers[1].tolist(), *map(float, numbers[2:])],
        "random": repr(random.getstate()),
        "filters": [repr(f) for f in warnings.filters],
        "path": list(sys.path),
        "environment": dict(os.environ),
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "directory": os.getcwd(),
        "settings": [
            torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
        ],
    }

torch.set_num_threads(1)
torch.set_float32_matmul_precision(sys.argv[4])
import fut
fut.plan, fut.train, fut.open  # what they need is imported here: libraries set filters of their own then
config, changed = fut.load_config(None, (), **json.loads(sys.argv[2])), {}

def call(name, function):
    if sys.argv[3] == "losses" and name not in ("train", "open", "cache", "calibrate", "adjoint", "taylor1", "replay-exact"):
        return None
    before = state()
    found = function()
    after = state()
    wrong = [key for key in before if before[key] != after[key]]
    if wrong:
        changed[name] = wrong
    return found

draw = torch.Generator().manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1))
items = tuple((torch.randn(2, 3, generator=draw),) for _ in range(4))
loss = lambda m, x: m(x).square().mean()
free = fut.load_config(None, (), data={"items": 3}, warmup={"steps": 0}, model={"seed": 1})
call("plan", lambda: fut.plan(config, device="cpu"))
call("train", lambda: fut.train(sys.argv[1], config, device="cpu"))
noisy = fut.Dataset(items[:3], items[3:])
call("noise", lambda: fut.train(sys.argv[1] + "-own", free, module=net, loss=loss, data=noisy, device="cpu"))
from fut.questions.whatif.stream import Queries
run = call("open", lambda: fut.open(sys.argv[1], device="cpu"))
call("cache", lambda: run.cache("all"))
call("cache more", lambda: run.cache(["lowrank", "reweighting"]))
call("calibrate", lambda: run.calibrate(4))
methods = ("adjoint", "taylor1", "replay-exact")
losses = [call(n, lambda: [a.value for a in run.estimate(["reverse", "swap:0,1"], n)]) for n in methods]
call("plan of a run", lambda: run.plan())
call("verify", lambda: run.verify(3))
call("whatif", lambda: run.whatif(edits=["swap:0,3"], verify=True))
call("whatifs", lambda: list(run.ask(Queries(queries=["reverse", "random:3"]))))
call("search", lambda: run.search(evaluations=20, verify=2, finalists=1, heuristics=[]))
call("lds", lambda: run.lds(3, 0.4))
call("memorize", lambda: run.memorize(items=[0, 1], groups=2))
call("domains", lambda: run.domains({"a": [0, 1], "b": [2, 3, 4]}, items=[1]))
call("report", lambda: run.report(samples=8))
call("endpoint", lambda: run.endpoint("reverse"))
call("difficulty", lambda: run.orders.difficulty("gradient-norm"))
call("best", lambda: run.orders.best())
call("shown", lambda: run.estimate(["reverse"])._repr_html_())
call("info", lambda: (run.info(), run.check()))
sys.argv[:] = ["fut", "estimate", sys.argv[1], "--order", "reverse", "--device", "cpu", "--json"]
from fut.cli import app as cli

def command():
    try:
        cli.main()
    except SystemExit as left:
        assert not left.code, left.code

call("command", command)
print(json.dumps({"changed": changed, "losses": losses}))
"""


@pytest.mark.slow
def test_every_public_call_leaves_the_process_as_it_was(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    sections = json.dumps(small_config().model_dump(mode="json", exclude_unset=True))
    found = []
    for precision, calls in (("highest", "all"), ("medium", "losses")):
        process = start_python(GUEST, tmp_path / precision, sections, calls, precision)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        found.append(json.loads(out.splitlines()[-1]))
    assert [f["changed"] for f in found] == [{}, {}]
    assert found[0]["losses"] == found[1]["losses"], "the host's precision is not that of the answers"


def test_random_numbers_of_other_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    own = build_module(config.model, 256, 12)
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    objective = Objective(module, lambda m, x: m(x).square().mean())
    before = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds every CUDA device"))
    again = build_module(config.model, 256, 12)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), again.parameters(), strict=True))
    item = (torch.ones(2, 3),)
    assert objective.loss(objective.start(), item) == objective.loss(objective.start(), item)
    assert torch.equal(torch.get_rng_state(), before)


NET = """
import queue
from fut import Transformer

assert hasattr(queue, "Queue")

def make(vocabulary, context):
    return Transformer(vocabulary, context, 8, 1, 2)
"""


def test_the_command_finds_the_users_module_and_no_file_there_passes_for_a_library(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_text(NET)
    for name in ("torch", "queue", "numpy", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a shadow')\n")
    root = str(Path(fut.__file__).parents[1])
    script = (
        tmp_path / "bin" / "fut"
    )  # as installed: Python puts the script's folder on the path, not the working directory
    script.parent.mkdir()
    script.write_text("from fut.cli.app import main\nmain()\n")
    settings = arguments(data={"items": 3}, model={"factory": "mymodel:make"}, warmup={"steps": 0})
    command = [sys.executable, str(script), "train", "--out", "run", *settings, "--device", "cpu", "--json"]
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["steps"] == 3


def test_the_path_is_what_it_was_after_a_command(
    own_run: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert cli("info", own_run).status == 0
    assert cli("info", tmp_path).status == 1
    assert sys.path == before
