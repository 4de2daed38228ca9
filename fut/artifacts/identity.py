"""A store's directory is claimed before its first number: it pins what its numbers are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage import FORMAT, IdentityError, Manifest, require_same

MANIFEST = "manifest.json"
PINS = "readout_values"


def read_pins(path: Path) -> dict[str, float]:
    """Values at the reference endpoint of those read-outs of a run directory's stores that nothing else would recognise again."""
    held = [Manifest.read(file).environment for file in sorted(path.glob(f"*/{MANIFEST}"))]
    return {name: value for environment in held for name, value in environment.get(PINS, {}).items()}


def pin_identity(directory: Path, kind: str, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Write the directory's manifest; IdentityError, naming field and both values, if it holds another identity."""
    target = directory / MANIFEST
    if target.exists():
        try:
            require_same(Manifest.read(target).identity, dict(identity), f"{kind} {directory}")
        except IdentityError as error:
            raise IdentityError(f"{error}; or remove {directory} to compute it anew") from error
    directory.mkdir(exist_ok=True)
    Manifest(kind, FORMAT, dict(identity), dict(environment)).write(target)
