"""Browser tests that are not run: said last and loudly, and failures where a browser is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ONE = "test_fut/report/test_report_page.py::test_every_single_edit_is_recognised"


def without_browser(*required: str) -> tuple[int, str]:
    """Status and output of one browser test in a process that finds no browser."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "FUT_"))}
    nowhere = {"PATH": "/nonexistent", "PLAYWRIGHT_BROWSERS_PATH": "/nonexistent"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{TESTS / ONE}"]
    environment = kept | nowhere | dict.fromkeys(required, "1")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent, check=False)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_skipped_browser_test_is_said_last() -> None:
    status, said = without_browser()
    assert status == 0, said
    *_, remedy, _ = [line for line in said.splitlines() if line.strip()]
    assert f"NOT RUN tests/{ONE}" in said
    assert "apt-get install chromium" in remedy


@pytest.mark.slow
def test_a_skipped_browser_test_fails_where_a_browser_is_required() -> None:
    status, said = without_browser("FUT_REQUIRE_BROWSER")
    assert status == 1, said
    assert "FUT_REQUIRE_BROWSER is set, and this test was skipped" in said
