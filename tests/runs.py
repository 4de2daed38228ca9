"""Trained runs that test processes share: made once per configuration and source code, kept in a directory on disk.

Nobody works in what is kept: a process copies it first, so that no test sees what another one did to it. The name of a kept
run is a digest of all that decides its bytes: where code, settings or a library differ, there is nothing to find, and the run
is really trained. What is made while a test has patched something is not kept. The tests of training, caching and resuming do
not come here: they train for themselves.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal

import pytest
import torch

ROOT = Path(__file__).parents[1]
ROOMS = ("fut", "estimators", "storage")
LIBRARIES = ("torch", "numpy", "scipy", "h5py", "zarr", "numcodecs", "safetensors", "pydantic")
PLACE = "FUT_TEST_RUNS"
"""The environment variable that names another directory for kept runs."""


def digest_of_sources(root: Path = ROOT) -> str:
    """Of every Python file that may decide a number, and of this one."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    for file in [f for room in ROOMS for f in sorted((root / room).rglob("*.py"))]:
        content = file.read_bytes()
        found.update(f"{file.relative_to(root)} {len(content)} ".encode() + content)
    return found.hexdigest()


SOURCES = digest_of_sources()
"""As they stood before this process imported any of them."""

import fut  # noqa: E402
from estimators.rules import RULES  # noqa: E402
from fut.methods.settings import Config  # noqa: E402
from fut.resources.device import choose_device, environment  # noqa: E402

assert Path(fut.__file__).parents[1] == ROOT, f"expected the fut beside these tests, {ROOT}, got {fut.__file__}"


class Patches(pytest.MonkeyPatch):  # type: ignore[misc]
    """pytest's monkeypatch, of which is known whether anything is patched now."""

    live: set[Patches] = set()  # noqa: RUF012

    def setattr(self, *arguments: Any, **options: Any) -> None:
        if arguments[0] is not sys:  # arguments and paths of a command: no run depends on them
            self.live.add(self)
        super().setattr(*arguments, **options)

    def setitem(self, *arguments: Any, **options: Any) -> None:
        self.live.add(self)
        super().setitem(*arguments, **options)

    def undo(self) -> None:
        super().undo()
        self.live.discard(self)


OWN_READOUTS = re.compile(r"(probe|accuracy|items|item:\d+|groups:\d+|probe:\d+of\d+)(@\d+)?")


def can_be_kept(config: Config) -> bool:
    """Whether nothing decides the run but its configuration and the sources: no patch, no text or code of a test's own."""
    named = (config.data.text, config.data.tokenizer, config.model.factory, config.model.loss)
    rule = RULES.get(config.rule.name)
    ours = rule is not None and rule.__module__.split(".")[0] in ROOMS
    return ours and not Patches.live and not any(named) and all(map(OWN_READOUTS.fullmatch, config.adjoint.readouts))


Cached = bool | Literal["adjoint"]
"""What is computed of a run: all terms for True, those of the adjoint alone, or none."""


def made(path: Path, config: Config, cached: Cached) -> fut.Run:
    """Really train a run, and compute its terms."""
    run = fut.train(path, config, device="cpu")
    if cached:
        run.cache("all" if cached is True else cached)
    return run


def shared(path: Path, config: Config, cached: Cached = True) -> fut.Run:
    """A run of this configuration at `path`, the caller's own: a copy of the kept one, which is made where it is missing."""
    if can_be_kept(config):
        decides = [config.model_dump(mode="json"), cached]
        _copied_or_made(path, _directory() / _digest(decides), config, cached)
    else:
        made(path, config, cached)
    return fut.open(path, device="cpu")


def _copied_or_made(path: Path, kept: Path, config: Config, cached: Cached) -> None:
    """One process at a time makes a run. What is kept gets its name when it is whole; none of other sources is kept."""
    with _locked(kept.with_suffix(".lock")):
        if kept.exists():
            shutil.copytree(kept, path)
            return
        made(path, config, cached)
        if digest_of_sources() == SOURCES:
            with TemporaryDirectory(dir=kept.parent, prefix="making-") as making:
                shutil.copytree(path, Path(making) / "run").rename(kept)


@cache
def _directory() -> Path:
    """Where this process keeps runs, held until it ends; the first time, runs of other sources that nobody holds go."""
    machine = environment(choose_device("cpu")) | {name: version(name) for name in LIBRARIES}
    own = _digest([SOURCES, sys.version, _processor(), machine])
    place = Path(os.environ.get(PLACE) or ROOT / ".pytest_cache" / "runs").absolute()
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place / "lock"):
        for old in place.glob("*/"):
            if old.name != own:
                _forget(old)
        (place / own).mkdir(exist_ok=True)
        held = (place / own / "in-use").open("a")
        fcntl.flock(held, fcntl.LOCK_SH)
    _held.append(held)
    return place / own


_held: list[IO[str]] = []


def _forget(old: Path) -> None:
    """Remove a directory of kept runs, unless a process holds it."""
    with (old / "in-use").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(old)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _processor() -> list[str]:
    """What libraries choose their arithmetic by."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return [torch.backends.cpu.get_cpu_capability(), *sorted({x for x in lines if x.startswith("model name")})]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
