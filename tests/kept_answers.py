"""Answers of questions in the form in which those questions keep them, and the page of a run that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import fut
from fut.artifacts.archive import SCHEMA
from fut.artifacts.directory import OWNER

HOSTILE = '<img src=x onerror=alert(1)></script>&"'


SHARES = (0.61, 0.7, 0.8, 0.9, 1.0)
"""What is left at the end of an item seen at each of five steps, of the step best remembered."""


CLOSE = [[0.1161 + 0.0001 * (3 * item + group) for group in range(3)] for item in range(3)]
"""Similarities that two decimals do not tell apart."""


def memorization(steps: int = 5, items: tuple[int, ...] = (0, 2, 3)) -> dict[str, Any]:
    """A map of three items over five steps, as `fut memorize` keeps one."""
    draw, n = np.random.default_rng(1), len(items)
    effects = {k: (1e-3 * draw.normal(size=(n, steps))).tolist() for k in ("near", "far", "probe")}
    absence = {"own": [0.04, 0.05, 0.03], "near": [0.01] * n, "far": [-0.002] * n, "probe": [0.003] * n}
    effects["own"] = (np.outer(absence["own"], 1 - np.array(SHARES[:steps]))).tolist()
    measures = {"spearman": 0.97, "spearman_interval": [0.9, 0.99], "mae": 0.00021, "skill": 0.8, "coverage": 0.92}
    return {
        "question": "memorization",
        "estimator": "adjoint",
        "unit": "nats/token",
        "steps": steps,
        "items": list(items),
        "places": list(items),
        "reference_losses": {k: [2.0] * n for k in absence},
        "effects": effects,
        "absence": absence,
        "groups": [[0, 1], [2], [3]],
        "similarity": [[-0.1, 0.0, 0.2]] * n,
        "near": [2] * n,
        "far": [0] * n,
        "group_absence": [[-0.001, 0.002, 0.006]] * n,
        "note": f"intervals rest on 16 retrained cells, `fut memorize RUN --calibrate 16` {HOSTILE}",
        "checked": {
            "own": {"cells": [[0, 1], [2, 3]], "truth": [1.0, 2.0], "estimates": [1.0, 2.0]}
            | {"measures": measures | {"heatmap_error": 0.25}},
            "absent own": {"cells": [[0]], "truth": [1.0], "estimates": [1.0]}
            | {"measures": measures | {"heatmap_error": None, "spearman": None, "spearman_interval": None}},
        },
    }


def entry(name: str, delta: float, truth: float | None = None, interval: bool = True) -> dict[str, Any]:
    ends = [2.0 + delta - 0.001, 2.0 + delta + 0.001] if interval else None
    labels = name.split(">")
    return {"name": name, "labels": labels, "order": [0, 1], "value": 2.0 + delta, "delta": delta} | {
        "interval": ends,
        "note": "",
        "truth": truth,
    }


def domains() -> dict[str, Any]:
    """Orders of three domains and two placements, as `fut domains` keeps them."""
    orders = [entry("web>books>code", 0.002), entry("code>web>books", -0.004, 1.9957), entry("books>code>web", 0.001)]
    placed = [entry("code", 0.001), entry("code", -0.002, 1.998)]
    bare = [entry("item 3", 0.0, None, False), entry("item 3", 0.01, None, False)]
    late = {"delta": -0.003, "interval": [-0.0044, -0.0016], "truth": None}
    return {
        "question": "domains",
        "estimator": "adjoint",
        "readout": "probe",
        "unit": "nats/token",
        "reference_loss": 2.0,
        "labels": {"web": [0, 1], "books": [2], "code": [3, 4], HOSTILE: [5]},
        "orders": orders,
        "placements": [
            {"name": "code", "kind": "domain", "places": [0, 3], "answers": placed, "late_minus_early": late},
            {"name": "item 3", "kind": "item", "places": [0, 4], "answers": bare}
            | {"late_minus_early": {"delta": 0.01, "interval": None, "truth": 0.011}},
        ],
        "checked": {"count": 2, "measures": {"spearman": 0.9, "mae": 0.0003, "skill": 0.7}},
        "seed": 0,
        "note": "calibrated",
    }


def whatif(edits: list[str]) -> dict[str, Any]:
    """One question, as `fut whatif` keeps it."""
    change = {"value": 2.0, "reference": 2.1, "delta": -0.1, "interval": [1.9, 2.05], "delta_interval": [-0.2, -0.05]}
    change |= {"perplexity": 7.39, "perplexity_delta": -0.7771, "unit": "nats/token", "estimator": "adjoint"}
    change |= {"source": "estimate", "note": "", "truth": 2.01, "true_delta": -0.09, "error": -0.01}
    own: dict[str, Any] = {
        "value": 2.5,
        "delta": 0.4,
        "interval": None,
        "delta_interval": None,
        "perplexity_delta": None,
    }
    own |= {"unit": "", "source": "retrained"}
    return {
        "question": "whatif",
        "start": "reverse",
        "edits": edits,
        "order": [0],
        "digest": "d",
        "asked": ["probe", "mine"],
        "readouts": {"probe": change, "mine": change | own},
    }


def kept(run: fut.Run, content: dict[str, Any]) -> str:
    """The text of a file of the run that holds this: with its version, unless it has one, and whose it is."""
    return json.dumps({"schema": SCHEMA, OWNER: run.context.owner} | content)


def page_with(run: fut.Run, path: Path, *answers: dict[str, Any]) -> str:
    """The page of a run with these answers."""
    (run.path / "answers").mkdir(exist_ok=True)
    for i, answer in enumerate(answers):
        (run.path / "answers" / f"{answer['question']}-{i}.json").write_text(kept(run, answer))
    return run.report(path / "page.html", samples=0).path.read_text(encoding="utf-8")
