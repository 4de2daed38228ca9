"""The store of the terms of every (checkpoint, item) pair: whether it is there, whether it fits the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fut.artifacts.directory import MANIFEST, TERMS
from fut.errors import NotCachedError
from fut.methods.context import Context
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.terms import TermLayout, TermTables
from storage import DamagedError, IdentityError, Manifest, TermStore


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


def pairwise_config(context: Context) -> CacheConfig:
    """The configuration of the terms in the store; the run's own where nothing is cached yet."""
    if has_terms(context.path):
        stored = Manifest.read(context.path / TERMS / MANIFEST).identity["identity"]
        return CacheConfig.model_validate(stored["cache"])
    return context.config.cache


def term_layout(context: Context) -> TermLayout:
    """The layout of the terms in the store; the configuration's where nothing is cached yet."""
    return TermLayout.of(context.problem, pairwise_config(context))


def open_terms(context: Context, config: CacheConfig | None = None) -> TermStore:
    """The store of pairwise terms, created if absent; IdentityError if it was made with another configuration."""
    layout, path = TermLayout.of(context.problem, config or pairwise_config(context)), context.path / TERMS
    try:
        return TermStore.create_or_open(
            path, layout.specs(), layout.identity(context.problem), layout.config.item_block
        )
    except IdentityError as error:
        raise IdentityError(f"{error}; or remove {path} to cache anew") from error


def has_complete(context: Context, needs: Sequence[str]) -> bool:
    """Whether every block of the named terms is there."""
    stored = TermStore.open(context.path / TERMS) if has_terms(context.path) else None
    tables = TermTables(stored, context.problem.device)
    return all(tables.complete(term) for term in needs)


def term_tables(context: Context, name: str, needs: Sequence[str]) -> TermTables:
    """The terms that a method replays; NotCachedError, naming the command, where some are missing."""
    stored = TermStore.open(context.path / TERMS) if has_terms(context.path) else None
    tables = TermTables(stored, context.problem.device)
    missing = [term for term in needs if not tables.complete(term)]
    if missing:
        raise NotCachedError(
            f"{name}: expected the terms {', '.join(needs)} for every checkpoint and item, "
            f"got an incomplete store (missing or unfinished: {', '.join(missing)}); run `fut cache RUN` first"
        )
    return tables
