"""The files of a run directory: names, and reading and writing of the small ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from estimators.errors import OrderError
from estimators.order import Order
from storage import (
    FORMAT,
    CheckpointStore,
    DamagedError,
    ExistsError,
    IdentityError,
    Manifest,
    MissingError,
    TermStore,
    read_json,
    remove_parts,
    require_free,
    require_same,
    write_bytes,
    write_json,
)

from .base import DIRECTORY as BASE
from .claiming import claim
from .config import AdjointConfig, Config, load_config, parse_config
from .data import Dataset
from .expansion import Expansion
from .models import Item
from .problem import Problem
from .readouts import readout_names, shortened
from .sensitivity import DIRECTORY, Sensitivities
from .terms import TermLayout

MANIFEST, CONFIG, SUMMARY, ORDER = "manifest.json", "config.toml", "summary.json", "order.json"
DATA, CHECKPOINTS, WARMUP, TERMS, ADJOINT = "data", "checkpoints", "warmup", "terms", "adjoint"
RETRAINED, ENDPOINTS, VERIFICATION = "retrained", "endpoints", "verification"
DIFFICULTY, MEMORIZATION, ANSWERS = "difficulty", "memorization", "answers"
SWEPT = (ADJOINT, DIRECTORY, MEMORIZATION)
PINS = "readout_values"
BITWISE = ("torch", "device", "threads", "machine")
"""Fields of the environment that bitwise replay depends on."""


def create(path: Path, problem: Problem, environment: dict[str, Any]) -> bool:
    """Lay down a new run directory, or accept an interrupted one of the same identity; True if anything is left to do."""
    if (path / MANIFEST).exists():
        found = read_manifest(path)
        if (path / SUMMARY).exists():
            raise ExistsError(
                f"run: expected a new directory, got {path}, which holds a finished run; choose another --out"
            )
        _require_same_run(found, problem, path)
        require_same_environment(found, environment, path)
    elif path.exists() and (not path.is_dir() or any(p.suffix != ".part" for p in path.iterdir())):
        raise ExistsError(f"run: expected a new or empty directory, got {path}; choose another --out")
    require_free(path.parent if not path.exists() else path, checkpoint_bytes(problem), "the checkpoints")
    path.mkdir(parents=True, exist_ok=True)
    if not (path / CONFIG).exists():
        text = problem.config.toml().encode()
        Manifest("run", FORMAT, problem.identity, environment | {CONFIG: _sha256(text)}).write(path / MANIFEST)
        write_bytes(path / CONFIG, text)
    write_json(path / ORDER, {"order": problem.reference.tolist(), "digest": problem.reference.digest})
    if not CheckpointStore(path / DATA).has(0):
        write_dataset(path, problem.data)
    return True


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _require_same_run(found: Manifest, problem: Problem, path: Path) -> None:
    try:
        require_same(found.identity, problem.identity, f"run {path}")
    except IdentityError as error:
        raise IdentityError(f"{error}; it holds an interrupted run of another kind, choose another --out") from error


def checkpoint_bytes(problem: Problem) -> int:
    """Bytes of all checkpoints: parameters and memory, before every step and after the last."""
    state = problem.rule.init(problem.objective.start())
    width = (1 + len(state.memory)) * state.theta.numel() * state.theta.element_size()
    return width * (problem.config.steps + 1)


def require_same_environment(manifest: Manifest, now: dict[str, Any], path: Path) -> None:
    """IdentityError if what is about to be computed could not fit what is there, bit for bit."""
    differing = [f for f in BITWISE if manifest.environment.get(f) != now[f]]
    if differing:
        fields = "; ".join(f"{f}: expected {manifest.environment.get(f)}, got {now[f]}" for f in differing)
        raise IdentityError(
            f"run {path}: continuing it elsewhere would mix numbers of different machines ({fields}); "
            "go on where it was made, or set --device / OMP_NUM_THREADS to match, or train anew"
        )


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


def directory_bytes(path: Path) -> int:
    """Bytes of all files under a directory; 0 where there is none."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.exists() else 0


def sweep(path: Path) -> None:
    """Remove what killed calls left half-written in the term stores."""
    built = (path / part / "terms" for part in (*SWEPT, BASE))
    for store in (path / TERMS, *built):
        for directory in (store, *store.glob("arrays/*"), *store.glob("ledger/*")):
            remove_parts(directory)


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


def read_manifest(path: Path) -> Manifest:
    if not (path / MANIFEST).exists():
        raise MissingError(
            f"run: expected a run directory with {MANIFEST}, got {path}; make one with `fut train --out {path}`"
        )
    manifest = Manifest.read(path / MANIFEST)
    if manifest.format != FORMAT or manifest.kind != "run":
        raise IdentityError(
            f"run {path}: expected kind=run, format={FORMAT}, got kind={manifest.kind}, format={manifest.format}; "
            "open it with the version of fut that made it"
        )
    return manifest


def read_config(path: Path) -> Config:
    """The run's configuration, byte for byte as the manifest pins it."""
    file = path / CONFIG
    found = _sha256(file.read_bytes()) if file.exists() else "no file"
    expected = read_manifest(path).environment[CONFIG]
    if found != expected:
        raise DamagedError(
            f"{file}: expected the bytes that the manifest pins (sha256 {expected[:12]}…), got {found[:12]}; undo the edit: a "
            "run's configuration is fixed, train another run for another one"
        )
    return load_config(file)


def check_order(path: Path) -> None:
    """DamagedError unless `order.json` holds the order that the manifest pins."""
    expected = read_manifest(path).identity["order"]
    try:
        content = read_json(path / ORDER)
        found = {content["digest"], Order.of(content["order"]).digest}
    except (OrderError, KeyError, TypeError) as error:
        raise DamagedError(f"{path / ORDER}: expected the reference order, got {error}; restore the file") from error
    if found != {expected}:
        raise DamagedError(
            f"{path / ORDER}: expected the order {expected[:12]}… of the manifest, got another; restore the file"
        )


def read_summary(path: Path) -> dict[str, Any]:
    if not (path / SUMMARY).exists():
        raise MissingError(
            f"run {path}: expected a finished reference run, got an interrupted one; repeat the `fut train` command to finish it"
        )
    return Manifest.read(path / SUMMARY).identity


def write_dataset(path: Path, data: Dataset) -> None:
    """Every tensor of every part, by part and number, in one checksummed file."""
    arrays = {
        f"{part}/{i:06d}/{j}": tensor.cpu().numpy()
        for part in ("items", "probe", "warmup")
        for i, item in enumerate(getattr(data, part))
        for j, tensor in enumerate(item)
    }
    CheckpointStore(path / DATA).write(0, arrays, {"source": data.source})


def read_dataset(path: Path) -> Dataset:
    stored = CheckpointStore(path / DATA).read(0)
    parts: dict[str, dict[str, list[torch.Tensor]]] = {"items": {}, "probe": {}, "warmup": {}}
    for name in sorted(stored.arrays, key=lambda n: (n.split("/")[:2], int(n.split("/")[2]))):
        part, number, _ = name.split("/")
        parts[part].setdefault(number, []).append(torch.from_numpy(stored.arrays[name]))

    def items(part: str) -> tuple[Item, ...]:
        return tuple(tuple(tensors) for _, tensors in sorted(parts[part].items()))

    return Dataset(items("items"), items("probe"), items("warmup"), str(stored.attributes["source"]))


def read_order(path: Path) -> list[Any]:
    """A JSON list of item numbers, or of lists of item numbers; `{"order": [...]}` as `order.json` has it too."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OrderError(
            f"order: expected a readable JSON file, got {path} ({error.strerror}); check the path"
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or no possible path
        raise OrderError(
            f"order: expected a JSON list like [3, 1, 2, 0], got {path}: {error}; mend the file"
        ) from error
    found = content.get("order", content) if isinstance(content, dict) else content
    if not isinstance(found, list):
        raise OrderError(
            f"order: expected a JSON list like [3, 1, 2, 0], got {type(found).__name__} in {path}; mend the file"
        )
    return found


def listed_order(spec: str | Path) -> list[Any] | None:
    """The list behind an inline list or a JSON file; None where the specification is a name like `random:7`."""
    path = Path(spec)
    if isinstance(spec, Path) or path.suffix == ".json":
        return read_order(path)
    text = spec.strip().removeprefix("[").removesuffix("]")
    inline = bool(text) and all(c in "0123456789,- " for c in text)
    if os.path.isfile(spec):  # not Path.is_file, which raises for a list longer than a file name may be
        return read_order(path)
    return _parsed(text) if inline else None


def _parsed(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OrderError(f"order: expected whole numbers like 3,1,2,0, got `{text}`; correct the list") from error


def finish(path: Path, summary: dict[str, Any]) -> None:
    """Mark the reference run as whole."""
    shutil.rmtree(path / WARMUP, ignore_errors=True)
    Manifest("summary", FORMAT, summary, {}).write(path / SUMMARY)
