"""SIGKILL at any moment of training and of caching: repeating the command ends where an uninterrupted one does."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import PATIENCE
from small import arguments, contents

import fut

StartPython = Callable[..., "subprocess.Popen[str]"]
COMMAND = "from fut.cli.app import main; main()"

KILLER = """
import os, sys, torch
import fut
from small import small_config

torch.set_num_threads(1)
work = sys.argv[1]

def counted(call, deadly, count):
    def wrapper(*arguments, **options):
        count[0] += 1
        if count[0] == deadly:
            os.kill(os.getpid(), 9)
        return call(*arguments, **options)
    return wrapper

def child(path, deadly):
    count = [0]
    for name in ("fsync", "replace", "mkdir", "unlink"):
        setattr(os, name, counted(getattr(os, name), deadly, count))
    if work == "train":
        fut.train(path, small_config(), device="cpu")
    else:
        fut.open(path, device="cpu").cache()
    os._exit(0)

for path in sys.argv[2:]:
    for deadly in [*map(int, os.path.basename(path).split("-")), 0]:
        pid = os.fork()
        if not pid:
            try:
                child(path, deadly)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}".replace(" ", "_"), end="!")
            finally:
                sys.stdout.flush()
                os._exit(1)
        status = os.waitpid(pid, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), end=" ", flush=True)
        if os.WIFEXITED(status):
            break
    print(flush=True)
"""
TESTS = str(Path(__file__).parents[1])


def killed_and_resumed(start: StartPython, work: str, paths: list[Path]) -> None:
    """Work in every path, its processes killed before their n-th sync, rename, mkdir or unlink, as the name says."""
    out, err = start(KILLER, work, *paths, path=TESTS).communicate(timeout=PATIENCE)
    for path, line in zip(paths, out.splitlines(), strict=True):
        expected = ["killed"] * len(path.name.split("-")) + ["0"]
        assert line.split() == expected, f"{work} killed at {path.name} ended as {line}, not as {expected}: {err}"


def test_training_killed_before_the_nth_sync_or_rename(
    small_run: fut.Run, start_python: StartPython, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("1", "2", "3", "6", "10-7-2-5-4")]
    killed_and_resumed(start_python, "train", paths)
    expected = contents(small_run.path)
    for path in paths:
        found = contents(path)
        assert [name for name in found if found[name] != expected.get(name)] == [], path.name
        assert fut.open(path).check() == []


def test_caching_killed_before_the_nth_sync_or_rename(
    small_run: fut.Run, start_python: StartPython, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("2", "5", "40-9-25")]
    for path in paths:
        shutil.copytree(small_run.path, path, ignore=shutil.ignore_patterns("terms", "adjoint"))
    killed_and_resumed(start_python, "cache", paths)
    expected = contents(small_run.path)
    for path in paths:
        assert contents(path) == expected, path.name
        assert fut.open(path).check() == []


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], delay: float) -> bool:
    """SIGKILL a little after something is reached; whether it was still running."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and not reached() and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_fut_train_and_fut_cache_killed_at_random_moments(start_python: StartPython, tmp_path: Path) -> None:
    settings = arguments(data={"items": 12}, warmup={"steps": 60})
    draw, path = random.Random(7), tmp_path / "run"
    train = ("train", "--out", path, "--device", "cpu", *settings)
    killed = 0
    for threshold in (0, 3, 6):
        step = threshold + draw.randrange(3)
        process = start_python(COMMAND, *train)
        killed += kill_when(process, (path / f"checkpoints/step-{step:06d}.h5").exists, draw.uniform(0, 0.02))
    _, err = start_python(COMMAND, *train).communicate(timeout=PATIENCE)
    assert (path / "summary.json").exists(), err
    for step in (1, 6):
        process = start_python(COMMAND, "cache", path, "--device", "cpu")
        killed += kill_when(process, (path / f"terms/ledger/update/{step}-2.json").exists, draw.uniform(0, 0.05))
    assert killed >= 3, f"expected most of five processes to be killed before they were done, got {killed}"
    _, err = start_python(COMMAND, "cache", path, "--device", "cpu").communicate(timeout=PATIENCE)
    whole = fut.train(tmp_path / "whole", fut.load_config(path / "config.toml"), device="cpu")
    whole.cache()
    assert contents(path) == contents(whole.path), err
