"""Fewer checkpoints than steps: states in between are trained again, with the same bits."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_config

import fut
from fut.artifacts.creation import checkpoint_bytes
from fut.training.checkpoints import state_tensors

WINDOW = {"items": 5, "epochs": 2, "batch": 2, "context": 12, "probe": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[fut.Run, fut.Run]:
    """The same run with all checkpoints, and with every fourth."""
    found = []
    for every in (1, 4):
        config = small_config(data=WINDOW, checkpoints={"every": every})
        found.append(fut.train(tmp_path_factory.mktemp("cadence") / "run", config, device="cpu"))
    return found[0], found[1]


def test_states_in_between_are_the_same_bits(runs: tuple[fut.Run, fut.Run]) -> None:
    whole, few = runs
    assert few.context.checkpoints.steps() == [0, 4, 8, 9, 10]
    assert whole.context.checkpoints.steps() == list(range(11))
    for step in (3, 1, 2, 5, 7, 6, 10, 8, 0):  # forwards and backwards
        expected, found = (state_tensors(run.context.state(step)) for run in (whole, few))
        assert all(torch.equal(expected[name], found[name]) for name in expected), step
        assert few.context.state(step).clock == whole.context.state(step).clock
    assert whole.context.manifest.identity == few.context.manifest.identity, "no number depends on it"


def test_every_method_gives_the_same_numbers(runs: tuple[fut.Run, fut.Run]) -> None:
    answers = []
    for run in runs:
        run.cache(["adjoint", "gradient", "norm"])
        answers.append([run.estimate(["reverse"], m, known=False)[0].value for m in ("adjoint", "replay-exact")])
    assert answers[0] == answers[1]


def test_it_is_checked_and_planned(runs: tuple[fut.Run, fut.Run]) -> None:
    whole, few = runs
    assert not few.check()
    assert checkpoint_bytes(few.context.problem) * 11 == checkpoint_bytes(whole.context.problem) * 5
    file = few.context.checkpoints.path(4)
    kept = file.read_bytes()
    file.unlink()
    assert [Path(damage.path).name for damage in few.check()] == [file.name]
    file.write_bytes(kept)


def test_large_ones_are_kept_at_a_distance_by_themselves(tmp_path: Path) -> None:
    config = small_config(data=WINDOW, checkpoints={"bytes": 1 << 19})
    run = fut.train(tmp_path / "run", config, device="cpu")
    assert run.context.problem.state_bytes * 11 > 1 << 19
    assert run.context.problem.kept_steps == [0, 4, 8, 9, 10]
    again = fut.open(run.path, device="cpu")
    assert again.retrain("identity").loss == run.reference_loss


def test_an_interrupted_run_goes_on_after_one_that_is_kept(runs: tuple[fut.Run, fut.Run], tmp_path: Path) -> None:
    class StoppedError(Exception):
        """As a key would interrupt it, but not pytest."""

    @contextmanager
    def interrupting(label: str, total: int) -> Any:
        left = [7]

        def tick() -> None:
            left[0] -= 1
            if label == "reference run" and not left[0]:
                raise StoppedError

        yield tick

    config = small_config(data=WINDOW, checkpoints={"every": 4})
    with pytest.raises(StoppedError):
        fut.train(tmp_path / "run", config, device="cpu", progress=interrupting)
    run = fut.train(tmp_path / "run", config, device="cpu")
    assert run.reference_loss == runs[0].reference_loss
    assert run.context.checkpoints.steps() == [0, 4, 8, 9, 10]
