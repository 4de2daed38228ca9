"""`fut demo` goes from nothing to the accuracy table, and repeats nothing that is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import small_config

from fut.api.demo import run_demo
from fut.progress import silent


def test_the_demo_ends_with_a_table_and_a_picture_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fut.api.demo.load_config", lambda *given, **sections: small_config(data={"items": 6}))
    said: list[str] = []
    result, picture = run_demo(tmp_path / "demo", None, 3, "cpu", silent, said.append)
    assert picture.stat().st_size > 1000
    assert {"reference", "adjoint", "replay-exact", "taylor1", "taylor2"} <= set(result.estimators)
    assert result.estimators["reference"]["skill"] == 0.0
    first, said = said, []
    again, _ = run_demo(tmp_path / "demo", None, 3, "cpu", silent, said.append)
    assert again.true_losses == result.true_losses
    assert any(line.startswith("4. calibrating") for line in first)
    assert not any(line.startswith("4. calibrating") for line in said)
    assert any("already" in line for line in said)
