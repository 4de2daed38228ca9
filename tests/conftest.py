"""Small runs that tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import browser
import checked_shapes  # noqa: F401  # before anything imports estimators
import pytest
import torch
from runs import Cached, Patches, can_be_kept, shared
from small import ASKED, Cli, MakeRun, Said, small_config
from tiers import tier_of

import fut
from fut.cli import app as command_line

Hook = Generator[None, Any, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(tier_of(item.path, {*getattr(item, "fixturenames", ())}))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Hook:
    """A browser test that is skipped fails where a browser is required."""
    report = yield
    if report.skipped and os.environ.get(browser.REQUIRED) and item.get_closest_marker("browser"):
        report.outcome = "failed"
        report.longrepr = f"{browser.REQUIRED} is set, and this test was skipped: {report.longrepr[-1]}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Hook:
    """Last of all, which tests in a browser and on a GPU were not run, and how to run the former."""
    found = yield
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "browser" in r.keywords]
    if skipped:
        terminalreporter.section(f"NOT RUN: {len(skipped)} tests in a browser", red=True, bold=True)
        for report in sorted(skipped, key=lambda r: r.nodeid):
            terminalreporter.line(f"NOT RUN {report.nodeid}", red=True)
        terminalreporter.line(f"Why: {skipped[0].longrepr[-1]}", red=True)
        terminalreporter.line(browser.REMEDY, red=True, bold=True)
    if on_gpu := [r for r in terminalreporter.stats.get("skipped", []) if "cuda" in r.keywords]:
        terminalreporter.section(f"NOT RUN: {len(on_gpu)} tests on a GPU, of which this machine has none", red=True)
        for report in sorted(on_gpu, key=lambda r: r.nodeid):
            terminalreporter.line(f"NOT RUN {report.nodeid}", red=True)
    return found


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[browser.Browser]:
    with browser.started() as found:
        yield found


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """A small run, trained (and cached); the same sections give this process the same run, so tests must not damage it.

    A test that has patched something gets one that is its own.
    """
    known: dict[str, fut.Run] = {}

    def make(cached: Cached = True, **sections: dict[str, Any]) -> fut.Run:
        key, config = repr((cached, sorted(sections.items()))), small_config(**sections)
        if key in known and can_be_kept(config):
            return known[key]
        run = shared(tmp_path_factory.mktemp("run") / "run", config, cached)
        return known.setdefault(key, run) if can_be_kept(config) else run

    return make


@pytest.fixture(scope="session")
def small_run(make_run: MakeRun) -> fut.Run:
    """A cached small run. Shared: read only."""
    return make_run()


@pytest.fixture
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    """pytest's own, which tells while anything is patched."""
    with Patches.context() as patches:
        yield patches


@pytest.fixture
def own_run(small_run: fut.Run, tmp_path: Path) -> Path:
    """A copy of the cached small run, without what other tests have asked of it, to be damaged at will."""
    return Path(shutil.copytree(small_run.path, tmp_path / "own", ignore=ASKED))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`fut ARGUMENTS` in this process, as its entry point runs it."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fut", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            command_line.main()
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
        return Said(status, *capsys.readouterr())

    return call


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen[str]]:
    """Start `python -c script *arguments`, which sees the same `fut` as this process, its output captured."""

    def start(script: str, *arguments: object, path: str = "") -> subprocess.Popen[str]:
        here = str(Path(fut.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (path, here) if p), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/"
        )

    return start
