"""Which expansion a directory holds: its configuration, its read-outs, and what pins them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fut.artifacts.directory import ADJOINT, MANIFEST, MEMORIZATION, TERMS
from fut.artifacts.identity import claim
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.lowrank.terms import DIRECTORY as BASE
from fut.methods.reweighting.terms import DIRECTORY, Sensitivities
from fut.methods.settings import Config, parse_config
from fut.readouts.readout import readout_names, shortened
from storage import IdentityError, Manifest, remove_parts

SWEPT = (ADJOINT, DIRECTORY, MEMORIZATION)
PINS = "readout_values"


def has_expansion(path: Path, part: str = ADJOINT) -> bool:
    return (path / part / MANIFEST).exists()


def read_expansion_config(path: Path, part: str = ADJOINT) -> AdjointConfig:
    identity = Manifest.read(path / part / MANIFEST).identity
    return AdjointConfig.stored(identity["adjoint"] | {"readouts": identity["readouts"]})


def readout_config(
    path: Path, config: Config, readouts: Sequence[str] | None, chosen: AdjointConfig | None = None
) -> AdjointConfig:
    """The expansion's configuration, swept for these read-outs if any are named; the stored one where it has them all.

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
        f"expansion {path / ADJOINT}: expected one swept for {shortened(wanted)}, got one swept for {shortened(held)}; all "
        "read-outs share one sample of coordinates and one sweep: remove the directory to compute it anew, for all of them"
    )


def read_pins(path: Path) -> dict[str, float]:
    """Values at the reference endpoint of those read-outs that the run's expansions were swept for and nothing else pins."""
    held = [Manifest.read(f).environment for part in SWEPT if (f := path / part / MANIFEST).exists()]
    return {name: value for environment in held for name, value in environment.get(PINS, {}).items()}


def claim_expansion(path: Path, expansion: Expansion | Sensitivities, pins: dict[str, float]) -> None:
    """Pin what an expansion is made of before its first number; IdentityError if the directory holds another one.

    pins: values that recognise the users' own read-outs, kept as they were when the directory was first claimed.
    """
    pins = pins | read_pins(path)
    claim(expansion.directory, "expansion", expansion.identity(), {PINS: pins} if pins else {})


def sweep(path: Path) -> None:
    """Remove what killed calls left half-written in the term stores."""
    built = (path / part / "terms" for part in (*SWEPT, BASE))
    for store in (path / TERMS, *built):
        for directory in (store, *store.glob("arrays/*"), *store.glob("ledger/*")):
            remove_parts(directory)
