"""What several tests here need: a Python process that sees the same `storage` as this one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import storage


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -c script *arguments` with its output captured."""

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(storage.__file__).parents[1])}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return start
