"""The worked example of CONTRIBUTING.md: one file and one line make a method that every command knows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small import Cli

import fut
from fut.methods.registry import METHODS

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    (source,) = re.findall(
        r"```python\n(.*?)```", TEXT.partition("## Add a method")[2].partition("\n## ")[0], re.DOTALL
    )
    module = ModuleType("mean_method")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setattr(METHODS, "_all", dict(METHODS._all))
    METHODS.add(module.MEAN)  # the one line
    return module.MEAN


def test_the_example_is_a_method(example: Any, own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run, device="cpu")
    same, other = run.estimate(["identity", "reverse"], "mean", known=False)
    assert same.value == run.reference_loss != other.value
    assert "mean" in run.info()["estimators"]
    said = cli("estimate", own_run, "--order", "reverse", "--estimator", "mean", "--device", "cpu", "--json")
    assert said.status == 0, said.err
    found = run.verify(orders=2, estimators=["mean"])
    assert found.estimators["mean"]["precompute_gradients"] == 0
