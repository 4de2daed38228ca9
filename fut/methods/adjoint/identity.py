"""Which expansion a directory holds: its configuration, its read-outs, and what pins them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fut.artifacts.directory import ADJOINT, MANIFEST
from fut.errors import NotCachedError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.context import Context
from fut.methods.settings import Config, parse_config
from fut.readouts.readout import PROBE, caching_command, readout_names, shortened
from storage import IdentityError, Manifest


def has_expansion(path: Path, part: str = ADJOINT) -> bool:
    return (path / part / MANIFEST).exists()


def read_expansion_config(path: Path, part: str = ADJOINT) -> AdjointConfig:
    identity = Manifest.read(path / part / MANIFEST).identity
    return AdjointConfig.model_validate(identity["adjoint"] | {"readouts": identity["readouts"]})


def readout_config(
    path: Path, config: Config, readouts: Sequence[str] | None, chosen: AdjointConfig | None = None
) -> AdjointConfig:
    """The expansion's configuration, for these read-outs if any are named; the stored one where it has them all.

    chosen: one that is asked for, in place of the stored one or the run's. IdentityError where there is an expansion without
    the read-outs: it is not thrown away unasked. (That a chosen one is not the stored one is found when it is claimed.)
    """
    stored = read_expansion_config(path) if chosen is None and has_expansion(path) else None
    if readouts is None:
        return chosen or stored or config.adjoint
    if stored is None:
        adjoint = (chosen or config.adjoint).model_dump(mode="json") | {"readouts": list(readouts)}
        return parse_config({"adjoint": adjoint}).adjoint
    held, wanted = (readout_names(specs, config.data.items) for specs in (stored.readouts, readouts))
    if set(wanted) <= set(held):
        return stored
    raise IdentityError(
        f"expansion {path / ADJOINT}: expected an adjoint pass for {shortened(wanted)}, got one for {shortened(held)}; all "
        "read-outs share one sample of coordinates and one adjoint pass: remove the directory to compute it anew, for all of them"
    )


def open_expansion(context: Context, config: AdjointConfig | None = None, part: str = ADJOINT) -> Expansion:
    """The run's expansion as it is stored; with the run's own configuration where there is none yet.

    part: the directory of the run that holds it; `adjoint`, or `memorization` for that of a memorization map.
    """
    if config is None and has_expansion(context.path, part):
        config = read_expansion_config(context.path, part)
    chosen, directory = config or context.config.adjoint, context.path / part
    user, end = context.readouts.user, lambda: context.state(context.steps).theta
    return Expansion(directory, AdjointSpec(context.problem, chosen), lambda: context.state(0), user, end)


def expansion_of(context: Context, readout: str, name: str) -> Expansion:
    """The run's expansion, if its adjoint pass was for the read-out; else NotCachedError, naming the commands that make it so."""
    if not has_expansion(context.path):
        asked = "fut cache RUN --terms adjoint" if readout == PROBE else caching_command([PROBE, readout])
        raise NotCachedError(
            f"{name}: expected the run's expansion about its trajectory, got none; run `{asked}` first"
        )
    expansion = open_expansion(context)
    if not expansion.readable:
        raise NotCachedError(
            f"{name}: expected the run's expansion, got {expansion.directory}, which is not finished; "
            "repeat `fut cache RUN --terms adjoint`"
        )
    if readout not in expansion.spec.names:
        raise NotCachedError(
            f"{name}: expected an adjoint pass computed for the read-out `{readout}`, got one for "
            f"{shortened(expansion.spec.names)}; remove {expansion.directory}, "
            f"then run `{caching_command([*expansion.spec.config.readouts, readout])}`; or use "
            "--estimator replay-exact"
        )
    return expansion
