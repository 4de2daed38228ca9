"""The README runs: its Python blocks and its commands, as they stand, in an empty directory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, blocks, environment, run_command, shell_lines
from small import small_config

import fut

README = ROOT / "README.md"
BLOCKS = blocks(README)
PYTHON = [block.text for block in BLOCKS if block.language == "python"]
COMMANDS = [line for block in BLOCKS for line in shell_lines(block)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with what the README presumes: a demo run."""
    monkeypatch.chdir(tmp_path)
    fut.train("demo", small_config(data={"items": 11}), device="cpu").cache(["adjoint"])
    return tmp_path


def test_every_python_block_runs(place: Path) -> None:
    assert len(PYTHON) == 2
    for block in PYTHON:
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert done.stdout.strip(), "a block that prints nothing shows its reader nothing"


def test_the_example_has_about_ten_lines() -> None:
    assert len(PYTHON[0].strip().splitlines()) <= 11


def test_every_command_runs(place: Path) -> None:
    assert len([line for line in COMMANDS if line.startswith("fut ")]) == 3
    for line in COMMANDS:
        run_command(line, "README.md")


def test_every_make_target_is_there() -> None:
    assert [line.split()[1] for line in COMMANDS if line.startswith("make ")] == ["demo", "test", "dist"]


def test_output_is_that_of_the_record() -> None:
    """`python benchmarks/readme.py demo` runs the commands, records what they print, and rewrites the README."""
    record = json.loads((ROOT / "benchmarks" / "records" / "readme.json").read_text(encoding="utf-8"))
    recorded = [f"$ {row['command']}\n" + "".join(f"{line}\n" for line in row["output"]) for row in record["results"]]
    assert [block.text for block in BLOCKS if block.language == "console"] == recorded


def test_it_is_short() -> None:
    """A reader has ten minutes. Output aside, which has a bound of its own in `benchmarks/readme.py`."""
    output = sum(len(b.text.splitlines()) - len(shell_lines(b)) for b in BLOCKS if b.language == "console")
    assert len(README.read_text(encoding="utf-8").splitlines()) - output <= 130


def test_every_linked_file_exists() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name} links {target}"
