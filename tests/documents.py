"""Markdown documents as a reader runs them: their fenced blocks, and what each kind of block must do.

A block's language says what it is. `python` and `sh` are run, in their order and in one directory, and so are the
lines `$ …` of `console`, whose other lines are output. `text` is output or a formula; `toml`, `json` and `mermaid`
are read by other programs. A block without a language is an error.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from fut.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = {"python", "sh", "console", "text", "toml", "json", "mermaid"}
WIDTH = 100
NOT_RUN = ("git clone ", "cd ", "python -m venv ", ". .venv/bin/activate")
"""Commands that set up a clone: the test stands in one already."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document at which it begins."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every document that a reader may follow: the README, CONTRIBUTING and `docs/`."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in their order."""
    found: list[Block] = []
    opened: tuple[str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r"```(\S*)", line.strip())
        if fence and opened is None:
            opened, lines = (fence[1], number), []
        elif fence and opened is not None:
            found.append(Block(opened[0], "\n".join(lines) + "\n", opened[1]))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{document.name}:{opened}: this block is never closed"
    return found


def example(document: Path, heading: str) -> str:
    """The one Python block of a section, as the text of a module."""
    lines = document.read_text(encoding="utf-8").splitlines()
    first = lines.index(heading) + 1
    last = next((n for n, line in enumerate(lines, start=1) if n > first and line.startswith("## ")), len(lines))
    found = [block.text for block in blocks(document) if block.language == "python" and first < block.line < last]
    assert len(found) == 1, f"{document.name}: expected one Python block under `{heading}`, got {len(found)}"
    return found[0]


def module_of(document: Path, heading: str, name: str, directory: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """The `example` of a section as a module `name`, written to a directory and imported; forgotten when the patch ends."""
    file = directory / f"{name}.py"
    file.write_text(example(document, heading), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def long_lines(document: Path) -> list[int]:
    """Numbers of the lines over `WIDTH` characters, other than tables, output, and lines with an address."""
    text = document.read_text(encoding="utf-8").splitlines()
    output: set[int] = set()
    for block in blocks(document):
        if block.language in ("text", "console"):
            output |= set(range(block.line, block.line + block.text.count("\n") + 2))
    return [
        number
        for number, line in enumerate(text, start=1)
        if len(line) > WIDTH and number not in output and not line.lstrip().startswith("|") and "http" not in line
    ]


def run_blocks(document: Path) -> None:
    """Run the Python and sh blocks of a document in the current directory; Python blocks share their names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(document):
        place = f"{document.name}:{block.line}"
        if block.language == "python":
            exec(compile(block.text, place, "exec"), names)
        elif block.language in ("sh", "console"):
            for line in shell_lines(block):
                run_command(line, place)
        elif block.language == "toml":
            tomllib.loads(block.text)


def shell_lines(block: Block) -> list[str]:
    """The commands of a block: all lines of `sh`, the lines `$ …` of `console`, none of another language."""
    lines = block.text.splitlines()
    if block.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return lines if block.language == "sh" else []


def run_command(line: str, place: str) -> None:
    """Run a `fut` command; of others check that what they name exists."""
    words = shlex.split(line, comments=True)
    if not words or line.startswith(NOT_RUN):
        return
    if words[0] == "fut":
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{place}: {line}: {result.output}"
        assert result.stdout.strip(), f"{place}: {line} prints nothing"
    elif words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{place}: {line}: {done.stderr}"
    elif "pip" in words[:3]:
        _require_extras(words, place)
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), f"{place}: {line} names a file that is not there"
    else:
        raise AssertionError(f"{place}: expected a command that this test knows how to check, got `{line}`")


def _require_extras(words: list[str], place: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        for extra in re.findall(r"\[([\w,]+)\]$", word):
            missing = set(extra.split(",")) - set(project["optional-dependencies"])
            assert not missing, f"{place}: {' '.join(words)}: no extra {missing}"


def environment() -> dict[str, str]:
    """For processes that import this clone."""
    return os.environ | {"PYTHONPATH": str(ROOT)}
