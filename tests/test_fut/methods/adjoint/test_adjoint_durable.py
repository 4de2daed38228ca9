"""The expansion, killed, damaged, and on a full disk."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import ASKED, MakeRun, expand

import fut
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.sampling import draw_sample
from fut.methods.stages import build
from fut.progress import silent
from storage import CheckpointStore, DiskFullError

FEW = {"coordinates": 600}


def own(run: fut.Run, path: Path) -> fut.Run:
    """A copy of a shared run, to be damaged at will."""
    shutil.copytree(run.path, path, ignore=ASKED)
    return fut.open(path, device="cpu")


class StoppedError(Exception):
    """As a key would interrupt it, but not pytest."""


@contextmanager
def _interrupting(label: str, total: int) -> Any:
    """A progress that stops the work in the middle of every stage."""

    def tick() -> None:
        tick.left -= 1  # type: ignore[attr-defined]
        if tick.left == 0:  # type: ignore[attr-defined]
            raise StoppedError

    tick.left = max(1, total // 2)  # type: ignore[attr-defined]
    yield tick


def test_an_interrupted_expansion_resumes_to_the_same_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run(cached="adjoint")
    run = own(make_run(cached=False), tmp_path / "run")
    stops, run.context.progress = 0, _interrupting
    for _ in range(40):
        try:
            expand(run.context, None)
            break
        except StoppedError:
            stops += 1
            run = fut.open(tmp_path / "run", device="cpu", progress=_interrupting)
    assert stops >= 3, "every stage should have been interrupted"
    assert not (tmp_path / "run" / "adjoint" / "scratch").exists()
    for spec in open_expansion(whole.context).terms().specs:
        for step in range(spec.shape[0]):
            ours, theirs = (open_expansion(r.context).terms().read(spec.name, step) for r in (run, whole))
            assert np.array_equal(ours, theirs), (spec.name, step)


def test_a_flipped_byte_in_the_expansion_is_found_and_not_used(make_run: MakeRun, tmp_path: Path) -> None:
    run = own(make_run(cached="adjoint"), tmp_path / "run")
    assert run.check() == []
    chunk = next(p for p in (tmp_path / "run/adjoint/terms/arrays/weight/c").rglob("*") if p.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    assert any("weight" in damage.path for damage in run.check())
    with pytest.raises(OSError, match="weight"):
        run.estimate(["reverse"], "adjoint", known=False)
    content[len(content) // 2] ^= 1
    assert run.methods.repair() == 1
    run.cache(["adjoint"])
    assert chunk.read_bytes() == bytes(content), "the block is computed again as it was"
    assert run.check() == []


@pytest.mark.parametrize(
    ("part", "stage"),
    [
        ("centre", "trajectory"),
        ("gradients", "trajectory"),
        ("runs", "trajectory"),
        ("anchors", "tables"),
        ("costate", "backward pass"),
        ("bounded", "tables"),
    ],
)
def test_damaged_scratch_of_a_killed_expansion_is_found_and_computed_again(
    make_run: MakeRun, tmp_path: Path, part: str, stage: str
) -> None:
    whole = make_run(cached="adjoint", adjoint=FEW)
    run = own(make_run(cached=False, adjoint=FEW), tmp_path / "run")
    run.context.progress = lambda label, total: (_interrupting if label == stage else silent)(label, total)
    with pytest.raises(StoppedError):
        expand(run.context, None)
    place = "trajectory" if stage == "trajectory" else "scratch"
    store = CheckpointStore(tmp_path / "run/adjoint" / place / part)
    path = store.path(store.steps()[0])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert [d.path for d in run.check()] == [str(path)]
    run = fut.open(tmp_path / "run", device="cpu")
    assert run.methods.repair() == 1
    expand(run.context, None)
    assert run.check() == []
    ours, theirs = (open_expansion(r.context).terms() for r in (run, whole))
    for spec in theirs.specs:
        assert all(np.array_equal(ours.read(spec.name, t), theirs.read(spec.name, t)) for t in range(spec.shape[0]))


def test_an_expansion_that_does_not_fit_the_disk_is_refused_before_it_begins(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own(make_run(cached=False), tmp_path / "run")
    expansion = open_expansion(run.context)
    needed = EXPANSION.cost(expansion.spec).scratch + EXPANSION.cost(expansion.spec).kept
    monkeypatch.setattr("storage.atomic._free_bytes", lambda directory: needed - 1)
    with pytest.raises(DiskFullError, match="the expansion and its scratch"):
        expand(run.context, None)
    assert not (tmp_path / "run" / "adjoint").exists()


def test_scratch_is_no_larger_than_said(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = own(make_run(cached=False), tmp_path / "run")
    expansion, seen = open_expansion(run.context), []

    def measured(of: Expansion) -> None:
        seen.append(sum(p.stat().st_size for p in of.scratch.rglob("*.h5")))
        draw_sample(of)

    monkeypatch.setattr("fut.methods.adjoint.pipeline.draw_sample", measured)
    build(EXPANSION, expansion)
    headers = 40_000 * 4 * (run.steps + 1)  # HDF5's own, which a few thousand parameters do not outweigh
    assert EXPANSION.cost(expansion.spec).scratch / 2 < seen[0] < EXPANSION.cost(expansion.spec).scratch + headers
