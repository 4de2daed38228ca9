"""The store of the terms of every (checkpoint, item) pair: whether it is there, whether it fits the disk."""

from __future__ import annotations

from pathlib import Path

from fut.artifacts.directory import MANIFEST, TERMS
from fut.methods.pairwise.terms import TermLayout
from storage import DamagedError, Manifest, TermStore, require_free


def has_terms(path: Path) -> bool:
    """Whether caching has begun: a call killed before its manifest was whole has left nothing worth opening."""
    return any((path / TERMS / name).exists() for name in (MANIFEST, "arrays", "ledger"))


def renew_term_metadata(path: Path) -> None:
    """Remove metadata of term arrays that is damaged or was never finished; the store writes it from its manifest."""
    try:
        TermStore.open(path / TERMS)
    except DamagedError:
        Manifest.read(path / TERMS / MANIFEST)  # what the arrays are is said here alone
        for file in (path / TERMS / "arrays").rglob("zarr.json"):
            file.unlink()


def require_space(path: Path, layout: TermLayout, terms: TermStore, names: list[str]) -> None:
    """DiskFullError, with both numbers, if the terms still missing do not fit on the disk."""
    missing = sum(b.last - b.first for b in terms.missing(names))
    needed = round(layout.nbytes(names) * missing / (layout.steps * layout.items))
    require_free(path, needed, "the terms still missing")
