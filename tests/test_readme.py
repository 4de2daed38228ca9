"""The README runs: its Python blocks and its `fut` commands, as they stand, in an empty directory."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small import small_config
from typer.testing import CliRunner

import fut
from fut.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in SHELL for line in block.splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with what the README presumes: a demo run and a text."""
    monkeypatch.chdir(tmp_path)
    fut.train("demo", small_config(data={"items": 11}), device="cpu").cache()
    (tmp_path / "book.txt").write_text("".join(f"Sentence {i} of a book about {i * i}. " for i in range(9000)))
    return tmp_path


def test_every_python_block_runs(place: Path) -> None:
    assert len(PYTHON) == 2
    for block in PYTHON:
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert done.stdout.strip(), "a block that prints nothing shows its reader nothing"


def test_the_example_has_about_ten_lines() -> None:
    assert len(PYTHON[0].strip().splitlines()) <= 11


def test_every_fut_command_runs(place: Path) -> None:
    commands = [shlex.split(line, comments=True) for line in COMMANDS if line.startswith("fut ")]
    assert len(commands) >= 8
    for command in commands:
        result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{command}: {result.output}"
        assert result.stdout.strip(), command


def test_every_make_target_exists() -> None:
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_linked_file_exists() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name} links {target}"
