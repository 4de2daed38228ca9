"""Every example runs from an empty directory, is short, and ends with estimates beside retrained orders."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from documents import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.filterwarnings("default")  # of libraries, as a user has them
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_ends_with_a_verified_estimate(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if example.stem == "lightning_module":
        pytest.importorskip("lightning", reason="the package lightning is an extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(example.parent))  # as Python does for a script
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(example), run_name="__main__")
    shown = capsys.readouterr().out
    said = shown.strip().splitlines()[-1]
    assert float(said.removeprefix("Spearman with 12 orders retrained: ")) > 0.5, shown
    assert len(example.read_text().splitlines()) <= 40


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"plain_loop", "hugging_face_trainer", "lora", "lightning_module"}
