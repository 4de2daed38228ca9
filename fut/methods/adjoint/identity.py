"""Which expansion a directory holds: its configuration, its read-outs, and what pins them."""

from __future__ import annotations

from pathlib import Path

from fut.artifacts.directory import ADJOINT, MANIFEST
from fut.errors import NotCachedError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec, possible_spec
from fut.methods.context import Context
from fut.readouts.readout import PROBE, caching_command, shortened
from storage import Manifest


def has_expansion(path: Path, part: str = ADJOINT) -> bool:
    return (path / part / MANIFEST).exists()


def read_expansion_config(path: Path, part: str = ADJOINT) -> AdjointConfig:
    identity = Manifest.read(path / part / MANIFEST).identity
    return AdjointConfig.model_validate(identity["adjoint"] | {"readouts": identity["readouts"]})


def open_expansion(context: Context, config: AdjointConfig | None = None, part: str = ADJOINT) -> Expansion:
    """The run's expansion as it is stored; with the run's own configuration where there is none yet.

    part: the directory of the run that holds it; `adjoint`, or `memorization` for that of a memorization map.
    """
    if config is None and has_expansion(context.path, part):
        config = read_expansion_config(context.path, part)
        spec = AdjointSpec(context.problem, config)
    else:
        spec = possible_spec(context.problem, config or context.config.adjoint)
    user, end = context.readouts.user, lambda: context.state(context.steps).theta
    return Expansion(context.path / part, spec, lambda: context.state(0), user, end)


def expansion_of(context: Context, readout: str, name: str) -> Expansion:
    """The run's expansion, if its adjoint pass was for the read-out; else NotCachedError, naming the commands that make it so."""
    if not has_expansion(context.path):
        command = "fut cache RUN --terms adjoint" if readout == PROBE else caching_command([PROBE, readout])
        raise NotCachedError(
            f"{name}: expected the run's expansion about its trajectory, got none; run `{command}` first"
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
