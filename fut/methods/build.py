"""What a run computes before it answers: planned, refused where it does not fit, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fut.artifacts import creation
from fut.artifacts import directory as files
from fut.artifacts.lock import alone
from fut.methods.adjoint import identity
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.coupling import UNCUT, require_uncut
from fut.methods.footprint import footprint_of
from fut.methods.leftovers import remove_leftovers
from fut.methods.limits import LESS, require_base, require_expansion, require_pairwise
from fut.methods.lowrank.config import CurvedConfig
from fut.methods.lowrank.terms import has_base, open_base
from fut.methods.pairwise import store as pairwise_store
from fut.methods.pairwise.compute import CachePlan, fill, known_terms, plan_cache
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.store import open_terms, pairwise_config, term_layout
from fut.methods.pairwise.terms import TermLayout
from fut.methods.reweighting.config import ReweightingConfig
from fut.methods.reweighting.terms import DIRECTORY as REWEIGHTING
from fut.methods.reweighting.terms import open_sensitivities, stored_config
from fut.methods.settings import parse_config
from fut.readouts.readout import readout_names, shortened
from fut.resources.device import environment
from fut.resources.memory import require_memory
from storage import IdentityError, MemoryTerms, require_free

if TYPE_CHECKING:
    from fut.methods.context import Context


Names = Sequence[str] | None


def plan(
    run: Context, names: Names, config: CacheConfig | None, readouts: Names, adjoint_config: AdjointConfig | None = None
) -> CachePlan:
    """What `cache` would still cost."""
    pairwise, adjoint, curved = _split(run, names)
    layout = TermLayout.of(run.problem, config or pairwise_config(run))
    terms = open_terms(run, config) if pairwise else MemoryTerms(layout.specs(), {}, layout.config.item_block)
    expansion = open_expansion(run, expansion_config(run, readouts, adjoint_config)) if adjoint else None
    base = open_base(run) if curved else None
    about = open_sensitivities(run, _reweighting(run, readouts)) if REWEIGHTING in (names or ()) else None
    wanted = known_terms(layout, pairwise)
    return plan_cache(run.problem, layout, terms, wanted, run.state(0), expansion, base, about)


def cache(
    run: Context, names: Names, config: CacheConfig | None, readouts: Names, adjoint_config: AdjointConfig | None = None
) -> None:
    """Compute what is missing of the named terms."""
    creation.require_same_environment(run.manifest, environment(run.problem.device), run.path)
    with alone(run.path):
        _cache(run, names, config, readouts, adjoint_config)


def _cache(
    run: Context, names: Names, config: CacheConfig | None, readouts: Names, adjoint_config: AdjointConfig | None
) -> None:
    pairwise, adjoint, curved = _split(run, names)
    reweighted = _reweighting(run, readouts) if REWEIGHTING in (names or ()) else None
    _require_possible(run, pairwise, curved, reweighted)
    if adjoint:
        expand(run, expansion_config(run, readouts, adjoint_config))
    if curved:
        curve(run)
    if reweighted is not None:
        sensitise(run, reweighted)
    if pairwise:
        terms = open_terms(run, config)
        wanted = known_terms(term_layout(run), pairwise)
        pairwise_store.require_space(run.path, term_layout(run), terms, wanted)
        if terms.missing(wanted):
            chosen = footprint_of(run.problem, open_expansion(run).config, config or pairwise_config(run))
            require_pairwise(chosen, wanted)
        fill(run.problem, term_layout(run), terms, run.state, wanted, run.progress)


def _require_possible(
    run: Context, pairwise: Sequence[str], curved: bool, reweighted: ReweightingConfig | None
) -> None:
    """UsageError or OrderError for what is computed after the expansion about the centre, before that is."""
    if curved:
        open_base(run).require_possible()
    if reweighted is not None:
        open_sensitivities(run, reweighted).require_possible()
    if "gradient" in pairwise:
        require_uncut(run.problem, "replay", term_layout(run).sample.size, UNCUT)


def expansion_config(run: Context, readouts: Names, chosen: AdjointConfig | None) -> AdjointConfig:
    """The configuration that the run's expansion is computed with."""
    return identity.readout_config(run.path, run.config, readouts, chosen)


def expand(run: Context, config: AdjointConfig | None) -> None:
    """Compute what the adjoint estimator reads."""
    build_expansion(run, open_expansion(run, config))


def build_expansion(run: Context, expansion: Expansion) -> None:
    """Compute what is missing of an expansion about the centre, refused beforehand where it does not fit."""
    creation.require_same_environment(run.manifest, environment(run.problem.device), run.path)
    pins: dict[str, float] = {}
    expansion.require_possible()
    if not expansion.complete():
        pins = run.readouts.pins(expansion.names)
        require_expansion(footprint_of(run.problem, expansion.config, pairwise_config(run)))
        _require_rest(
            expansion.directory, expansion.scratch_bytes() + expansion.nbytes(), "the expansion and its scratch"
        )
    identity.claim_expansion(run.path, expansion, pins)
    expansion.build(run.progress)


def curve(run: Context, config: CurvedConfig | None = None) -> None:
    """Compute what the curved estimator reads."""
    creation.require_same_environment(run.manifest, environment(run.problem.device), run.path)
    base = open_base(run, config)
    base.require_possible()
    if not base.complete():
        require_base(footprint_of(run.problem, base.adjoint, pairwise_config(run)), base)
        _require_rest(base.directory, base.scratch_bytes() + base.nbytes(), "the low-rank curvature and its scratch")
    base.claim()
    base.build(run.progress)


def sensitise(run: Context, config: ReweightingConfig) -> None:
    """Compute what the reweighting estimator reads."""
    found, pins = open_sensitivities(run, config), dict[str, float]()
    if not found.complete():
        pins = run.readouts.pins(found.names)
        footprint = footprint_of(run.problem, open_expansion(run).config, pairwise_config(run))
        require_memory("reweighting", footprint.reweighting(found), run.problem.device, LESS)
        _require_rest(found.directory, found.scratch_bytes() + found.nbytes(), "the expansion about the reference run")
    identity.claim_expansion(run.path, found, pins)
    found.build(run.progress)


def _require_rest(directory: Path, nbytes: int, what: str) -> None:
    """DiskFullError unless what is still to be written of so many bytes fits: not what an interrupted call left there."""
    require_free(directory.parent, max(0, nbytes - files.directory_bytes(directory)), what)


def _reweighting(run: Context, readouts: Names) -> ReweightingConfig:
    """The stored configuration, or the run's own, for these read-outs if any are named; IdentityError where an expansion
    is stored without them."""
    stored = stored_config(run.path)
    if readouts is None:
        return stored or run.config.reweighting
    if stored is None:
        chosen = run.config.reweighting.model_dump(mode="json") | {"readouts": list(readouts)}
        return parse_config({"reweighting": chosen}).reweighting
    held, wanted = (readout_names(specs, run.items) for specs in (stored.readouts, readouts))
    if set(wanted) <= set(held):
        return stored
    raise IdentityError(
        f"expansion {run.path / REWEIGHTING}: expected one swept for {shortened(wanted)}, got one swept for "
        f"{shortened(held)}; remove the directory to compute it anew, for all of them"
    )


def repair(run: Context) -> int:
    """Discard damaged term blocks, so that `cache` computes them again; how many there were."""
    with alone(run.path):
        return _repair(run)


def _repair(run: Context) -> int:
    remove_leftovers(run.path)
    found = 0
    if pairwise_store.has_terms(run.path):
        pairwise_store.renew_term_metadata(run.path)
        found = len(open_terms(run).repair())
    found += open_base(run).repair() if has_base(run.path) else 0
    found += open_sensitivities(run).repair() if stored_config(run.path) else 0
    swept = [part for part in (files.ADJOINT, files.MEMORIZATION) if identity.has_expansion(run.path, part)]
    return found + sum(open_expansion(run, part=part).repair() for part in swept)


def _split(run: Context, names: Names) -> tuple[list[str], bool, bool]:
    """Requested terms of every pair, and whether the expansion and the curved estimator's terms are; these last only by name,
    or where they were begun."""
    if names is None:
        return term_layout(run).names, run.problem.rule.smooth, has_base(run.path)
    pairwise = [n for n in names if n not in ("adjoint", "curved", REWEIGHTING)]
    return pairwise, "adjoint" in names, "curved" in names
