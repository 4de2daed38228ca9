"""A configuration of a few thousand parameters: the real trainer, cacher and text, in a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fut
from fut.data.text import build_dataset
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.build import prepare
from fut.methods.context import Context
from fut.methods.lowrank.config import LowRankConfig
from fut.methods.lowrank.pipeline import LOW_RANK_TERMS
from fut.methods.settings import Config, load_config
from fut.methods.stages import Request
from fut.questions.whatif.stream import Queries
from storage import CheckpointStore, TermStore

MakeRun = Callable[..., fut.Run]


def whatifs(run: fut.Run, queries: Any, start: Any = "identity", **fields: Any) -> Iterator[dict[str, Any]]:
    """An answer per query, in their order."""
    return run.ask(Queries(queries=queries, order=start, **fields))


ASKED = shutil.ignore_patterns(
    "retrained", "verification", "endpoints", "answers", "calibration", "difficulty", "memorization", "report.html"
)
"""What tests that share a run may have asked of it: left out where it is copied."""

SMALL: dict[str, dict[str, Any]] = {
    "data": {"items": 5, "batch": 2, "context": 12, "probe": 4},
    "model": {"width": 8, "layers": 1, "heads": 2},
    "warmup": {"steps": 4, "ramp": 2},
    "cache": {"size": 96, "item_block": 2},
    "adjoint": {"functionals": 2},
}


def small_config(**sections: dict[str, Any]) -> Config:
    """The small configuration with some keys changed."""
    merged: dict[str, Any] = {name: SMALL.get(name, {}) | sections.get(name, {}) for name in {*SMALL, *sections}}
    return load_config(None, (), **merged)


def uneven_run(path: Path) -> fut.Run:
    """A run whose items differ in length, so that their samples cannot stand in one batch."""
    config = small_config()
    data = build_dataset(config)
    short = tuple((item[0][:, : 8 + i],) for i, item in enumerate(data.items))
    return fut.train(path, config, data=fut.Dataset(short, data.probe, data.warmup), device="cpu")


def contents(run: Path) -> dict[str, Any]:
    """Everything that a run directory says, by file: what two equal runs have in common, wherever they lie."""
    found: dict[str, Any] = {}
    for part in ("checkpoints", "data", "warmup"):
        store = CheckpointStore(run / part)
        for step in store.steps():
            saved = store.read(step)
            arrays = {n: (str(a.dtype), a.shape, a.tobytes()) for n, a in saved.arrays.items()}
            found[f"{part}/{step}"] = (arrays, saved.attributes)
    for name in ("order.json", "summary.json", "config.toml", "manifest.json"):
        if (run / name).exists():
            found[name] = (run / name).read_text()
    return found | term_contents(run)


def term_contents(run: Path) -> dict[str, Any]:
    """The bytes of every complete term, by name and step."""
    if not (run / "terms").exists():
        return {}
    store = TermStore.open(run / "terms")
    return {f"{s.name}/{t}": store.read(s.name, t).tobytes() for s in store.specs for t in range(s.shape[0])}


def flip(path: Path, position: int, mask: int = 0x10) -> None:
    """Flip bits of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def arguments(**sections: dict[str, Any]) -> list[str]:
    """The small configuration as `--set` arguments."""
    merged: dict[str, Any] = {name: SMALL.get(name, {}) | sections.get(name, {}) for name in {*SMALL, *sections}}
    pairs = [(f"{s}.{k}", v) for s, keys in sorted(merged.items()) for k, v in sorted(keys.items())]
    return [word for key, value in pairs for word in ("--set", f"{key}={json.dumps(value)}")]


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict), f"expected one JSON object, got {type(value).__name__}"
        return value


Cli = Callable[..., Said]


def expand(context: Context, config: AdjointConfig | None = None) -> None:
    """Compute what the adjoint methods read."""
    prepare(context, EXPANSION, EXPANSION.open(context, Request(adjoint=config)))


def curve(context: Context, config: LowRankConfig | None = None) -> None:
    """Compute what the low-rank method reads."""
    prepare(context, LOW_RANK_TERMS, LOW_RANK_TERMS.open(context, Request(lowrank=config)))
