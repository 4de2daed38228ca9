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
from small import arguments, contents

import fut

StartPython = Callable[..., "subprocess.Popen[str]"]
COMMAND = "from fut.cli import main; main()"

KILLER = """
import os, sys, torch
import fut
from small import small_config

torch.set_num_threads(1)
work, path, moments = sys.argv[1], sys.argv[2], [int(m) for m in sys.argv[3].split(",")]

def counted(call, deadly, count):
    def wrapper(*arguments, **options):
        count[0] += 1
        if count[0] == deadly:
            os.kill(os.getpid(), 9)
        return call(*arguments, **options)
    return wrapper

def child(deadly):
    count = [0]
    for name in ("fsync", "replace", "mkdir", "unlink"):
        setattr(os, name, counted(getattr(os, name), deadly, count))
    if work == "train":
        fut.train(path, small_config(), device="cpu")
    else:
        fut.open(path, device="cpu").cache()
    os._exit(0)

for deadly in [*moments, 0]:
    pid = os.fork()
    if not pid:
        try:
            child(deadly)
        finally:
            import traceback
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
    if os.WIFEXITED(status):
        break
"""
TESTS = str(Path(__file__).parents[1])


def killed_and_resumed(start: StartPython, work: str, path: Path, moments: list[int]) -> list[str]:
    """How each of the processes ended that were killed before their n-th sync, rename, mkdir or unlink in turn."""
    out, err = start(KILLER, work, path, ",".join(map(str, moments)), path=TESTS).communicate(timeout=200)
    ends = out.split()
    assert ends[-1] == "0", f"{work} was not resumed after being killed at {moments[: len(ends)]}: {ends}\n{err}"
    return ends


@pytest.mark.parametrize("moments", [[n] for n in (1, 2, 3, 4, 5, 8)] + [[11, 7, 2, 5, 9, 4, 3]], ids=str)
def test_training_killed_before_the_nth_sync_or_rename(
    small_run: fut.Run, start_python: StartPython, tmp_path: Path, moments: list[int]
) -> None:
    ends = killed_and_resumed(start_python, "train", tmp_path / "run", moments)
    assert ends.count("killed") == len(moments), f"expected every moment to come before the end, got {ends}"
    found, expected = contents(tmp_path / "run"), contents(small_run.path)
    assert [name for name in found if found[name] != expected.get(name)] == []
    assert fut.open(tmp_path / "run").check() == []


@pytest.mark.parametrize("moments", [[n] for n in (1, 2, 3, 5, 7)] + [[40, 9, 30, 6, 25, 3]], ids=str)
def test_caching_killed_before_the_nth_sync_or_rename(
    small_run: fut.Run, start_python: StartPython, own_run: Path, moments: list[int]
) -> None:
    shutil.rmtree(own_run / "terms")
    ends = killed_and_resumed(start_python, "cache", own_run, moments)
    assert ends.count("killed") == len(moments), f"expected every moment to come before the end, got {ends}"
    assert contents(own_run) == contents(small_run.path)
    assert fut.open(own_run).check() == []


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], delay: float) -> bool:
    """SIGKILL a little after something is reached; whether it was still running."""
    until = time.monotonic() + 100
    while process.poll() is None and not reached() and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_fut_train_and_fut_cache_killed_at_random_moments(start_python: StartPython, tmp_path: Path) -> None:
    settings = arguments(data={"items": 40}, warmup={"steps": 60})
    draw, path = random.Random(7), tmp_path / "run"
    train = ("train", "--out", path, "--device", "cpu", *settings)
    killed = 0
    for threshold in (0, 5, 20):
        step = threshold + draw.randrange(8)
        process = start_python(COMMAND, *train)
        killed += kill_when(process, (path / f"checkpoints/step-{step:06d}.h5").exists, draw.uniform(0, 0.02))
    _, err = start_python(COMMAND, *train).communicate(timeout=200)
    assert (path / "summary.json").exists(), err
    for step in (2, 11, 29):
        process = start_python(COMMAND, "cache", path, "--device", "cpu")
        killed += kill_when(process, (path / f"terms/ledger/update/{step}-2.json").exists, draw.uniform(0, 0.05))
    assert killed >= 4, f"expected most of six processes to be killed before they were done, got {killed}"
    _, err = start_python(COMMAND, "cache", path, "--device", "cpu").communicate(timeout=200)
    whole = fut.train(tmp_path / "whole", fut.load_config(path / "config.toml"), device="cpu")
    whole.cache()
    assert contents(path) == contents(whole.path), err
