"""SIGKILL at any moment of training and of caching: repeating the command ends where an uninterrupted one does."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from patience import PATIENCE
from small import arguments, contents

import fut

StartPython = Callable[..., "subprocess.Popen[str]"]

KILLER = """
import os, sys, torch, torch._dynamo  # which torch.func imports at its first derivative: once here, not in every child
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
        fut.open(path, device="cpu").cache("all")
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


COMMANDS = """
import json, os, sys, threading, time, torch._dynamo
from fut.cli.app import main

def killed_a_little_after(file, delay):
    while not os.path.exists(file):
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(os.getpid(), 9)

for file, delay, *words in json.loads(sys.argv[1]):
    pid = os.fork()
    if not pid:
        sys.argv = ["fut", *words]
        if file:
            threading.Thread(target=killed_a_little_after, args=(file, delay), daemon=True).start()
        try:
            main()
        except SystemExit as left:
            os._exit(left.code or 0)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=sys.stderr)
"""
"""Every command in a process of its own, which kills itself: so it is killed in mid-work, however busy the machine."""


def test_fut_train_and_fut_cache_killed_at_random_moments(start_python: StartPython, tmp_path: Path) -> None:
    settings = arguments(data={"items": 9}, warmup={"steps": 60})
    draw, path = random.Random(7), tmp_path / "run"
    train = ["train", "--out", str(path), "--device", "cpu", *settings]
    cache = ["cache", str(path), "--terms", "all", "--device", "cpu"]
    steps = [threshold + draw.randrange(3) for threshold in (0, 3, 6)]
    commands = [[f"{path}/checkpoints/step-{step:06d}.h5", draw.uniform(0, 0.02), *train] for step in steps]
    commands += [["", 0, *train]]
    commands += [[f"{path}/terms/ledger/update/{step}-2.json", draw.uniform(0, 0.05), *cache] for step in (1, 6)]
    commands += [["", 0, *cache]]
    _, err = start_python(COMMANDS, json.dumps(commands)).communicate(timeout=PATIENCE)
    ends = [int(line) for line in err.splitlines() if line.lstrip("-").isdigit()]
    assert len(ends) == len(commands), err
    finished = ends[3] == 2 and "holds a finished run" in err  # the kill before came after the last file
    assert finished or ends[3] == 0, err
    assert ends[6] == 0, err
    assert ends.count(-signal.SIGKILL) >= 3, f"expected most of five commands to be killed before they were done: {err}"
    whole = fut.train(tmp_path / "whole", fut.load_config(path / "config.toml"), device="cpu")
    whole.cache("all")
    assert contents(path) == contents(whole.path), err
