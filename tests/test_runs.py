"""Kept runs hide nothing: other sources find none, and what is patched, unfinished or a test's own is not kept."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest
import runs
from small import small_config

import fut


def test_every_source_decides_the_digest(tmp_path: Path) -> None:
    for room in runs.ROOMS:
        (tmp_path / room / "inner").mkdir(parents=True)
    seen = {runs.digest_of_sources(tmp_path)}
    for number, room in enumerate(runs.ROOMS):
        file = tmp_path / room / "inner" / "module.py"
        for content in ("a = 1", "a = 2"):
            file.write_text(content)
            seen.add(runs.digest_of_sources(tmp_path))
        file.rename(file.with_name("other.py"))
        seen.add(runs.digest_of_sources(tmp_path))
        assert len(seen) == 1 + 3 * (number + 1)


def test_what_a_patched_test_makes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    monkeypatch.setattr(sys, "argv", ["fut"])
    assert runs.can_be_kept(config), "no run depends on a command's words"
    with monkeypatch.context() as patched:
        patched.setattr("fut.train", None)
        assert not runs.can_be_kept(config)
    assert runs.can_be_kept(config)
    assert fut.train is not None


def test_a_text_or_code_of_a_tests_own_is_not_kept(tmp_path: Path) -> None:
    for section, key in (("data", "text"), ("data", "tokenizer"), ("model", "factory"), ("model", "loss")):
        assert not runs.can_be_kept(small_config(**{section: {key: f"{tmp_path}/mine"}}))
    assert runs.can_be_kept(small_config(adjoint={"readouts": ["probe", "item:3", "groups:2"]}))
    assert not runs.can_be_kept(small_config(adjoint={"readouts": ["probe", "mine:norm"]}))
    assert not runs.can_be_kept(small_config(rule={"name": "mine", "options": {}}))


def test_a_run_is_made_once_and_copied_and_an_unfinished_one_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, config, kept = list[Path](), small_config(), tmp_path / "kept"

    def make(path: Path, *_: object) -> None:
        made.append(path)
        path.mkdir()
        (path / "file").write_text("whole")
        if len(made) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "made", make)
    with pytest.raises(KeyboardInterrupt):
        runs._copied_or_made(tmp_path / "first", kept, config, True)
    assert not kept.exists()
    for name in ("second", "third"):
        runs._copied_or_made(tmp_path / name, kept, config, True)
        assert (tmp_path / name / "file").read_text() == "whole"
        (tmp_path / name / "file").write_text("damaged")
    assert made == [tmp_path / "first", tmp_path / "second"]
    assert (kept / "file").read_text() == "whole"
    monkeypatch.setattr(runs, "SOURCES", "those that were imported")
    runs._copied_or_made(tmp_path / "fourth", tmp_path / "changed", config, True)
    assert not (tmp_path / "changed").exists(), "sources have changed since"


def test_runs_of_other_sources_go_unless_a_process_holds_them(tmp_path: Path) -> None:
    for name in ("held", "left"):
        (tmp_path / name / "run").mkdir(parents=True)
    with (tmp_path / "held" / "in-use").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        for name in ("held", "left"):
            runs._forget(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["held"]
