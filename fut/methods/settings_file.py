"""The configuration of a run directory, as the manifest pins it."""

from __future__ import annotations

from pathlib import Path

from fut.artifacts.directory import CONFIG, _sha256, read_manifest
from fut.methods.settings import Config, load_config
from storage import DamagedError


def read_config(path: Path) -> Config:
    """The run's configuration, byte for byte as the manifest pins it."""
    file = path / CONFIG
    found = _sha256(file.read_bytes()) if file.exists() else "no file"
    expected = read_manifest(path).environment[CONFIG]
    if found != expected:
        raise DamagedError(
            f"{file}: expected the bytes that the manifest pins (sha256 {expected[:12]}…), got {found[:12]}; undo the edit: a "
            "run's configuration is fixed, train another run for another one"
        )
    return load_config(file)
