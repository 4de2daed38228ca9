"""Bars where somebody sees them, for work that takes long, whether it ticks or not; nothing anywhere else."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import PATIENCE

import fut
from fut import progress
from fut.progress import Tick, terminal


class Screen(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


def seen(screen: io.StringIO, text: str) -> None:
    """Wait until a text has been drawn."""
    end = time.monotonic() + PATIENCE
    while text not in screen.getvalue():
        assert time.monotonic() < end, f"{text} was never drawn"
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.01)


def test_one_long_unit_is_seen_before_it_is_done(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal("a long unit", 1):
        seen(screen, "a long unit")


def test_ticks_are_counted(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal("steps", 3) as tick:
        tick()
        tick()
        seen(screen, "2/3")


def test_short_work_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "DELAY", PATIENCE)
    with terminal("short", 2) as tick:
        tick()
        tick()
    assert "short" not in screen.getvalue()


def test_nothing_is_drawn_on_a_pipe_and_something_in_a_notebook(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with terminal("unseen", 1) as tick:
        time.sleep(0.05)
        tick()
    assert pipe.getvalue() == ""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with terminal("in a notebook", 1):
        seen(pipe, "in a notebook")


def test_what_takes_long_reports(small_run: fut.Run, tmp_path: Path) -> None:
    """Every call of an opened run that may take longer than two seconds."""
    stages: dict[str, int] = {}
    ticks: list[str] = []

    @contextmanager
    def heard(label: str, total: int) -> Iterator[Tick]:
        stages[label] = total
        yield lambda: ticks.append(label)

    run = fut.open(small_run.path, device="cpu", progress=heard)
    run.plan()
    run.estimate(["random:1", "random:2"])
    run.endpoint("random:1", "replay-exact", tmp_path / "e.safetensors")
    run.endpoint("random:5", "retrain", tmp_path / "r.safetensors")
    run.retrain("random:4")
    run.report(tmp_path / "report.html", samples=2)
    expected = {
        "planning",
        "estimating 2 orders",
        "endpoint by replay-exact",
        "endpoint by retrain",
        "retraining",
        "report",
    }
    assert expected <= stages.keys()
    counted = {label: ticks.count(label) for label in expected}
    assert counted == {label: stages[label] for label in expected}


def test_progress_is_on_where_nothing_is_said(small_run: fut.Run) -> None:
    assert fut.open(small_run.path, device="cpu").context.progress is terminal
