"""What a run directory names is data until the caller says otherwise: no code that it names is imported or called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fut.errors import UntrustedError


def require_trust(path: Path, trust: bool, named: Mapping[str, str]) -> None:
    """UntrustedError where a directory names what would have to be run or read outside of it, and the caller has not allowed it.

    Args:
        path: the run directory.
        trust: whether the caller has said that what it names may be used.
        named: what it names, by the key that names it; "" for nothing.
    """
    said = ", ".join(f"{key} = `{name}`" for key, name in named.items() if name)
    if said and not trust:
        raise UntrustedError(
            f"run {path}: expected to be told that what its configuration names may be used ({said}), as a directory may come "
            "from anybody; pass --trust if you trust this one, or give the objects: "
            "fut.open(path, module=…, loss=…)"
        )
