"""The store of the terms of every (checkpoint, item) pair: whether it is there, whether it fits the disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fut.artifacts.directory import MANIFEST, TERMS
from fut.artifacts.identity import read_identity, read_settings
from fut.errors import NotCachedError
from fut.methods.base import Estimator
from fut.methods.context import Context
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.terms import TermLayout, TermTables
from storage import DamagedError, Manifest, TermStore


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
        stored = read_identity(context.path / TERMS, context.owner)
        return read_settings(lambda: CacheConfig.model_validate(stored["cache"]), context.path / TERMS)
    return context.config.cache


def term_layout(context: Context) -> TermLayout:
    """The layout of the terms in the store; the configuration's where nothing is cached yet."""
    return TermLayout.of(context.problem, pairwise_config(context))


def stored_terms(context: Context) -> TermStore:
    """The store of a run's terms, opened for reading; IdentityError where it is another run's, or has other shapes."""
    layout = term_layout(context)
    identity = {"run": context.problem.identity, "cache": layout.config.model_dump(mode="json")}
    return TermStore.open(context.path / TERMS, identity, layout.specs())


def incomplete(context: Context, needs: Sequence[str]) -> list[str]:
    """Those of the named terms of which blocks are missing."""
    terms = stored_terms(context) if has_terms(context.path) else None
    stored = set() if terms is None else {spec.name for spec in terms.specs}
    return [name for name in needs if terms is None or name not in stored or terms.missing([name])]


class Streamed(Estimator):
    """An estimator that replays pairwise terms. needs: their names."""

    needs: tuple[str, ...]

    @cached_property
    def tables(self) -> TermTables:
        """The terms that it replays; NotCachedError where some are missing."""
        self.ready()
        return TermTables(stored_terms(self.context), self.context.problem.device)

    def ready(self) -> None:
        if missing := incomplete(self.context, self.needs):
            named = ",".join(missing)
            raise NotCachedError(
                f"{self.name}: expected the terms {', '.join(self.needs)} for every checkpoint and item, "
                f"got an incomplete store (missing or unfinished: {', '.join(missing)}); "
                f"run `fut cache RUN --terms {named}` first"
            )
