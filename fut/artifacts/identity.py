"""A store's directory is claimed before its first number: it pins what its numbers are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fut.artifacts.directory import require_owned
from storage import FORMAT, DamagedError, IdentityError, Manifest, fingerprint, require_same

T = TypeVar("T")
MANIFEST = "manifest.json"
PINS = "readout_values"
WORDS = {
    "data.items": "content of the items",
    "data.probe": "content of the probe",
    "data.warmup": "content of the warm-up items",
    "data.names": "names of the items' tensors",
    "model.start": "starting values of the parameters",
    "model.parameters": "names or shapes of the trained parameters",
    "model.fixed": "frozen parameters or buffers",
    "model.dtype": "number format of the parameters",
    "order": "reference order",
    "state": "state that training begins in",
    "config": "setting",
}
"""What a run's identity consists of, in words, by the beginning of a field's name."""


def require_same_run(found: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """IdentityError, saying in words what differs, unless a run directory is of the same training.

    Args:
        found: the identity that it pins.
        expected: that of what is to be trained or opened.
        path: the directory.
    """
    require_same(dict(found), dict(expected), f"run {path}", WORDS)


def read_pins(path: Path) -> dict[str, float]:
    """Values at the reference endpoint of those read-outs of a run directory's stores that nothing else would recognise again."""
    held = [Manifest.read(file).environment for file in sorted(path.glob(f"*/{MANIFEST}"))]
    pins = [found for environment in held if isinstance(found := environment.get(PINS), dict)]
    return {name: value for found in pins for name, value in found.items() if isinstance(value, (int, float))}


def read_identity(directory: Path, owner: str) -> dict[str, Any]:
    """What a store's directory pins. IdentityError where that belongs to another run than the owner, which a digest names."""
    file = directory / MANIFEST
    identity = Manifest.read(file).identity
    pinned = identity.get("identity", identity)  # of a term store that has no directory around it
    require_owned(fingerprint(pinned.get("run")) if isinstance(pinned, dict) else "", owner, file)
    return dict(pinned)


def read_settings(made: Callable[[], T], directory: Path) -> T:
    """What a function makes of what a store's directory pins; DamagedError where that is not in the form that it reads."""
    try:
        return made()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0][:200]
        raise DamagedError(f"{directory / MANIFEST}: expected its settings, got {said}; restore the file") from error


def pin_identity(directory: Path, kind: str, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Write the directory's manifest; IdentityError, naming field and both values, if it holds another identity."""
    require_identity(directory, kind, identity)
    directory.mkdir(exist_ok=True)
    Manifest(kind, FORMAT, dict(identity), dict(environment)).write(directory / MANIFEST)


def require_identity(directory: Path, kind: str, identity: Mapping[str, Any]) -> None:
    """IdentityError, naming field and both values, where a directory is claimed for another identity."""
    target = directory / MANIFEST
    if not target.exists():
        return
    try:
        require_same(Manifest.read(target).identity, dict(identity), f"{kind} {directory}")
    except IdentityError as error:
        raise IdentityError(f"{error}; or remove {directory} to compute it anew") from error
