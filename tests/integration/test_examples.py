"""Every example runs from an empty directory, is short, and ends with estimates beside retrained orders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, environment

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_ends_with_a_verified_estimate(example: Path, tmp_path: Path) -> None:
    if example.stem == "lightning_module":
        pytest.importorskip("lightning", reason="the package lightning is an extra")
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        env=environment() | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip().splitlines()[-1]
    assert float(said.removeprefix("Spearman with 12 orders retrained: ")) > 0.5, done.stdout
    assert len(example.read_text().splitlines()) <= 40


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"plain_loop", "hugging_face_trainer", "lora", "lightning_module"}
