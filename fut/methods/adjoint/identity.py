"""Which expansion a directory holds: its configuration, its read-outs, and what pins them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fut.artifacts.directory import ADJOINT, MANIFEST
from fut.artifacts.identity import read_identity, read_settings
from fut.errors import NotCachedError
from fut.methods.adjoint.config import STORED, AdjointConfig, in_memory
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec, possible_spec, stored_bytes
from fut.methods.context import Context
from fut.readouts.readout import PROBE, caching_command, shortened
from storage import IdentityError, address

ADDED = "adjoint-added-"
"""What directories of added read-outs are called, before their number."""
OWN = {"readouts", "functionals", "num_exact_readouts", "anchor_error"}
"""Settings in which an expansion of added read-outs may differ from that it is added to."""


def has_expansion(path: Path, part: str = ADJOINT) -> bool:
    return (path / part / MANIFEST).exists()


def read_expansion_config(context: Context, part: str = ADJOINT) -> AdjointConfig:
    """How a run's expansion was made; IdentityError for one of another run."""
    identity = read_identity(context.path / part, context.owner)
    stored = {name: getattr(context.config.adjoint, name) for name in STORED}
    return read_settings(
        lambda: AdjointConfig.model_validate(identity["adjoint"] | {"readouts": identity["readouts"]} | stored),
        context.path / part,
    )


def open_expansion(context: Context, config: AdjointConfig | None = None, part: str = ADJOINT) -> Expansion:
    """The run's expansion as it is stored; with the run's own configuration where there is none yet.

    part: the directory of the run that holds it; `adjoint`, or `memorization` for that of a memorization map.
    """
    if config is None and has_expansion(context.path, part):
        spec = AdjointSpec(context.problem, read_expansion_config(context, part))
    else:
        config = _left_out_as_stored(context, config or context.config.adjoint, part)
        known = has_expansion(context.path, part) and read_expansion_config(context, part).curvature == config.curvature
        spec = (AdjointSpec if known else possible_spec)(context.problem, config)
    if part != ADJOINT:  # a map asks of an item's own steps, which differ by far less than random orders do
        spec = replace(spec, config=spec.config.model_copy(update={"replay_error": 0.0}))
    return _expansion(context, replace(spec, keeps=part == ADJOINT), part)


def _left_out_as_stored(context: Context, config: AdjointConfig, part: str) -> AdjointConfig:
    """A configuration that leaves no run out, with those that the stored expansion was found to leave out."""
    if config.left_out or not has_expansion(context.path, part):
        return config
    return config.model_copy(update={"left_out": read_expansion_config(context, part).left_out})


def _expansion(context: Context, spec: AdjointSpec, part: str, origin: Expansion | None = None) -> Expansion:
    user, end = context.readouts.user, lambda: context.state(context.steps).theta
    spec = replace(spec, keeps=spec.keeps and not in_memory(spec.config))
    found = Expansion(context.path / part, spec, lambda: context.state(0), user, end, origin)
    return replace(found, planned=_stored_as(found.trajectory.directory, spec, context.path))


def _stored_as(directory: Path, spec: AdjointSpec, run: Path) -> AdjointSpec:
    """The specification with the trajectory stored as it was begun; else, where it is to be chosen, as the disk has room."""
    begun = {
        "retrain": directory / "snapshots",
        "store": directory / "runs" if spec.trajectory.ensemble else directory / "centre",
    }
    storage = next((name for name, place in begun.items() if place.exists()), spec.config.storage)
    if storage == "auto" and stored_bytes(spec) > shutil.disk_usage(run).free:
        storage = "retrain"
    return replace(spec, config=spec.config.model_copy(update={"storage": storage}))


def added_places(path: Path) -> list[str]:
    """Directories of a run directory that hold expansions of added read-outs, in the order in which they were added."""
    return sorted(found.parent.name for found in path.glob(f"{ADDED}[0-9]*/{MANIFEST}"))


def added_expansions(context: Context) -> list[Expansion]:
    """The expansions of read-outs that were added to the run's own."""
    return [_added(context, read_expansion_config(context, place), place) for place in added_places(context.path)]


def new_expansion(context: Context, names: Sequence[str]) -> Expansion:
    """An expansion of read-outs that the run's own lacks: with its trajectory and anchors, and an adjoint pass for them alone.

    Raises:
        NotCachedError: where the run's own is not finished.
    """
    first = open_expansion(context)
    if not first.complete():
        raise NotCachedError(
            f"cache: expected a finished expansion, to which {shortened(names)} can be added, got {first.directory}, which is "
            "not; repeat `fut cache RUN --terms adjoint` first"
        )
    changed = {"readouts": list(names), "functionals": 0, "num_exact_readouts": 0}
    config = AdjointConfig.model_validate(first.spec.resolved.model_dump() | changed)
    taken = [int(place.removeprefix(ADDED)) for place in added_places(context.path)]
    return _added(context, config, f"{ADDED}{max(taken, default=0) + 1:03d}")


def _added(context: Context, config: AdjointConfig, part: str) -> Expansion:
    return _expansion(context, AdjointSpec(context.problem, config, added=True), part, open_expansion(context))


def require_same_origin(expansion: Expansion, origin: Expansion) -> None:
    """IdentityError where an unfinished expansion of added read-outs was begun about another trajectory than the run's now."""
    ours, theirs = (of.spec.resolved.model_dump(exclude=OWN) for of in (expansion, origin))
    differing = [f"adjoint.{name}" for name in ours if ours[name] != theirs[name]]
    if differing and not expansion.complete():
        raise IdentityError(
            f"expansion {expansion.directory}: expected {', '.join(differing)} as in {origin.directory}, about which it was "
            f"begun, got others; remove {expansion.directory}, and add {shortened(expansion.spec.names)} anew"
        )


def holding(context: Context, readout: str) -> Expansion:
    """The expansion that holds a read-out; the run's own where none does."""
    first = open_expansion(context)
    held = (expansion for expansion in (first, *added_expansions(context)) if readout in expansion.spec.names)
    return next(held, first)


def computed_readouts(context: Context) -> list[str]:
    """Read-outs that the run has an adjoint pass of, in the order in which they were asked for."""
    if not has_expansion(context.path):
        return []
    added = [expansion for expansion in added_expansions(context) if expansion.complete()]
    return [name for expansion in (open_expansion(context), *added) for name in expansion.spec.names]


def expansion_of(context: Context, readout: str, name: str) -> Expansion:
    """The run's expansion, if its adjoint pass was for the read-out; else NotCachedError, naming the commands that make it so."""
    if not has_expansion(context.path):
        command = "fut cache RUN --terms adjoint" if readout == PROBE else caching_command([PROBE, readout])
        raise NotCachedError(
            f"{name}: expected the run's expansion about its trajectory, got none; run `{command}` first"
        )
    expansion = holding(context, readout)
    if not expansion.readable:
        raise NotCachedError(
            f"{name}: expected the run's expansion, got {address(expansion.directory)}, which is not finished; "
            "repeat `fut cache RUN --terms adjoint`"
        )
    if readout not in expansion.spec.names:
        raise NotCachedError(
            f"{name}: expected an adjoint pass computed for the read-out `{readout}`, got one for "
            f"{shortened(computed_readouts(context))}; run `{caching_command([readout])}`, which adds it; or use --estimator "
            "replay-exact"
        )
    return expansion
