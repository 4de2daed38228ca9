"""What killed commands left half-written in the term stores of a run directory."""

from __future__ import annotations

from pathlib import Path

from fut.artifacts.directory import TERMS
from storage import remove_parts


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of every term store below a run directory."""
    for store in (path / TERMS, *path.glob("*/terms")):
        for directory in (store, *store.glob("arrays/*"), *store.glob("ledger/*")):
            remove_parts(directory)
