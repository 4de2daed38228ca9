"""The small runs that are frozen, and what is asked of them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A small run: settings over `SMALL`, and whether it is asked everything."""

    settings: dict[str, Any] = field(default_factory=dict)
    whole: bool = False


SMALL: dict[str, Any] = {
    "data.vocabulary": 128,
    "data.items": 8,
    "data.batch": 2,
    "data.context": 12,
    "data.probe": 8,
    "model.width": 8,
    "model.layers": 1,
    "model.heads": 2,
    "warmup.steps": 4,
    "warmup.ramp": 2,
    "cache.size": 96,
    "cache.item_block": 3,
    "lowrank.rank": 4,
    "lowrank.refresh": 3,
}
FOUR = {"data.items": 24, "data.per_step": 4, "data.batch": 1}
FEW = {"adjoint.coordinates": 600, "reweighting.coordinates": 600}
CASES = {
    "main": Case(
        {"model.dtype": "float64"}, whole=True
    ),  # so that another CPU's last bits do not reach the digits compared
    "single": Case({"adjoint.products": "exact", "cache.products": "exact", "reweighting.products": "exact"}),
    "few": Case(FEW | {"adjoint.control": "always", "cache.sketch": "gaussian"}),
    "few-plain": Case(FEW | {"adjoint.control": "never", "data.heterogeneous": True, "cache.coordinates": 500}),
    "four": Case(FOUR | {"lowrank.dtype": "bfloat16", "cache.derivative": "secant", "adjoint.curvature": "items"}),
    "four-few": Case(
        FOUR | FEW | {"data.heterogeneous": True, "adjoint.num_anchors": 0, "adjoint.draw": "independent"}
    ),
    "mixture": Case(
        {
            "data.items": 4,
            "data.epochs": 2,
            "data.heterogeneous": True,
            "rule.name": "momentum",
            "schedule.kind": "linear",
            "schedule.rate": 0.05,
            "adjoint.trajectory": "mixture",
            "adjoint.rank": 3,
            "adjoint.curvatures": 2,
            "adjoint.spacing": "steps",
            "cache.sketch": "rademacher",
        }
    ),
}
"""Runs by name: mixed and heterogeneous items, one and four in a step, all coordinates and few, with and without control."""

READOUTS = "probe,item:1,accuracy,groups:2,freeze_hook:norm"
HOOK = '''"""A read-out of the user's own."""


def norm(module):
    return sum((p**2).sum() for p in module.parameters()).sqrt()
'''
ORDERS = (
    *("reverse", "random:7", "random-steps:3", "swap:1,3", "repeat:1,2", "drop:2", "without:2,3", "folding:loss:2"),
    *("identity", "move:0,2", "replace:2,0", "sort:gradient-norm:desc", "zigzag:loss:2", "segment:loss:2"),
    *("stair:loss:2", "saw:perplexity-drop:2", "sort:length"),
)
ASKED = 8
"""How many of these orders every estimator is asked about."""
FREE = (
    *(
        "reference",
        "taylor1",
        "taylor2",
        "taylor1:moments=replayed",
        "replay",
        "replay-exact",
        "adjoint",
        "positions",
        "lowrank",
    ),
    *("lowrank:refresh=0", "adjoint:sample=first", "adjoint:reading=linear", "retrain"),
)
"""Estimators of orders that move items, with some of their options."""
IN_PLACE = ("without:3", "without:2,3", "without:0")
SCORES = ("length", "loss", "gradient-norm", "perplexity-drop")
QUERIES = (
    "random:7",
    '{"id": "a", "edits": [["swap", 0, 3]], "readouts": ["probe", "accuracy", "item:1"]}',
    '{"id": 2, "order": "reverse", "edits": [["sort", "loss"], ["without", 1]]}',
    '{"id": "wrong", "order": "random:x"}',
)


def write_inputs(where: Path) -> None:
    """The same text every time, in three files of different words, so that zones of it differ; and a read-out's module."""
    draw = random.Random(20)
    (where / "text").mkdir(exist_ok=True)
    for topic in range(3):
        words = [
            "".join(draw.choices("abcdefghijklmnopqrstuvwxyz"[5 * topic : 5 * topic + 12], k=4)) for _ in range(20)
        ]
        lines = [" ".join(draw.choices(words, k=8)).capitalize() + ".\n" for _ in range(100)]
        (where / "text" / f"topic-{topic}.txt").write_text("".join(lines), encoding="utf-8")
    (where / "freeze_hook.py").write_text(HOOK, encoding="utf-8")
    (where / "labels.json").write_text(json.dumps({"a": [0, 3, 5], "b": [1, 2, 4, 6, 7]}), encoding="utf-8")
    (where / "queries.jsonl").write_text("\n".join(QUERIES) + "\n", encoding="utf-8")
