"""A writer killed at any moment: what counts as complete is whole, and a rerun ends where an uninterrupted run does."""

import random
import signal

import numpy as np
import pytest
from patience import PATIENCE

from storage import TermSpec, TermStore

SPECS = [TermSpec("gradient", (6, 16, 3000), "float32"), TermSpec("half", (6, 16, 3000), "bfloat16")]
IDENTITY = {"seed": 3}

WRITER = """
import os, sys, threading
import numpy as np
from storage import TermSpec, TermStore

path, deadly, sign, again = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "again"
moment = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
specs = [TermSpec("gradient", (6, 16, 3000), "float32"), TermSpec("half", (6, 16, 3000), "bfloat16")]
store = TermStore.create_or_open(path, specs, {"seed": 3}, 2)
count = [0]
def counted(call):
    def wrapper(*arguments, **options):
        count[0] += 1
        if count[0] == deadly:
            os.kill(os.getpid(), 9)
        return call(*arguments, **options)
    return wrapper
if deadly:
    os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)
if moment:  # of this process's own clockwork: it is killed in mid-work, however busy the machine
    threading.Timer(moment, os.kill, (os.getpid(), 9)).start()
for block in store.blocks("half") if again else store.missing():
    values = sign * np.random.default_rng([block.step, block.first]).normal(size=(2, 3000)).astype(np.float32)
    names = ["gradient", "half"] if again else store.missing_names(block)
    store.write(block, {name: values for name in names})
os._exit(0)
"""


def expected(step: int, first: int) -> np.ndarray:
    return np.random.default_rng([step, first]).normal(size=(2, 3000)).astype(np.float32)


def assert_complete_blocks_are_whole(path) -> int:
    store = TermStore.open(path)
    assert store.check() == []
    missing = set(store.missing(["gradient"]))
    complete = [block for block in store.blocks("gradient") if block not in missing]
    for block in complete:
        read = store.read_items("gradient", block.step, [block.first, block.first + 1])
        np.testing.assert_array_equal(read, expected(block.step, block.first))
    return len(complete)


def finish(path) -> None:
    store = TermStore.create_or_open(path, SPECS, IDENTITY, 2)
    for block in store.missing():
        values = expected(block.step, block.first)
        store.write(block, dict.fromkeys(store.missing_names(block), values))


def content(path) -> dict[tuple[str, int], bytes]:
    store = TermStore.open(path)
    assert store.check() == []
    return {(spec.name, step): store.read(spec.name, step).tobytes() for spec in store.specs for step in range(6)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted")
    finish(path)
    return content(path)


def test_killed_at_random_moments(tmp_path, start_python, uninterrupted):
    moments = random.Random(0)
    killed, progress = 0, 0
    for _ in range(4):
        process = start_python(WRITER, tmp_path, 0, 1, "missing", moments.uniform(0.005, 0.08))
        process.communicate(timeout=PATIENCE)
        killed += process.returncode == -signal.SIGKILL
        complete = assert_complete_blocks_are_whole(tmp_path)
        assert complete >= progress
        progress = complete
    assert killed >= 1
    finish(tmp_path)
    assert content(tmp_path) == uninterrupted


@pytest.mark.parametrize("deadly", [2, 8, 9, 11, 17])
def test_killed_before_the_nth_sync_or_rename(tmp_path, start_python, uninterrupted, deadly):
    process = start_python(WRITER, tmp_path, deadly, 1, "missing")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert assert_complete_blocks_are_whole(tmp_path) < 48
    finish(tmp_path)
    assert content(tmp_path) == uninterrupted


@pytest.mark.parametrize("deadly", [1, 2, 3, 5, 8, 9])
def test_killed_while_writing_a_complete_block_again(tmp_path, start_python, deadly):
    finish(tmp_path)
    process = start_python(WRITER, tmp_path, deadly, -1, "again")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    store = TermStore.open(tmp_path)
    assert store.check() == []
    first = store.blocks("gradient")[0]
    assert store.missing(["gradient"]) in ([], [first])
    if not store.missing(["gradient"]):
        read = store.read_items("gradient", 0, [0, 1])
        assert read.tobytes() in (expected(0, 0).tobytes(), (-expected(0, 0)).tobytes())
