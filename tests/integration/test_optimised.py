"""`python -O` removes every `assert`: no check of the library's may be one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

import fut

ROOT = Path(fut.__file__).parents[1]
BEGUN = """
import sys, fut
from fut.methods.lowrank.pipeline import LOW_RANK_TERMS
from fut.methods.lowrank.terms import open_low_rank
run = fut.open(sys.argv[1], device="cpu")
LOW_RANK_TERMS.pin_identity(open_low_rank(run.context), {}, run.path)
try:
    run.methods.open("lowrank").ready()
except fut.NotCachedError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("optimised", [False, True])
def test_an_estimator_without_its_terms_is_not_ready(
    own_run: Path, optimised: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if optimised:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-O", "-c", BEGUN, str(own_run)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE)
        said = done.stdout
    else:
        monkeypatch.setattr(sys, "argv", ["fut", str(own_run)])
        exec(compile(BEGUN, "BEGUN", "exec"), {})
        said = capsys.readouterr().out
    assert said.startswith("refused: lowrank: expected complete terms"), said
