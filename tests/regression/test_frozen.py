"""The main small run says today what it said before the refactoring: numbers of every answer, whatever machine this is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from regression import comparing, freeze

FROZEN = Path(__file__).parent / "frozen"
RTOL, ATOL = 1e-4, 1e-7
"""Relative, and for values that are differences of losses (nats/token; those of orders differ by some 1e-3) absolute."""
OTHERWISE = re.compile("/stores/|/manifest/|bytes|memory|/(lowrank|curved)/endpoint_error")
"""What another machine may say otherwise: content hashes, sizes on disk and in memory, and the distance of a rebuilt endpoint,
which leaves the tolerance where the processor's vector instructions are other ones (by 2e-4, the losses there by 1e-8)."""


def numbers(frozen: dict[str, Any]) -> dict[str, Any]:
    """The numbers of frozen runs by path, without those that another machine changes."""
    return {path: v for path, v in comparing.flat(frozen) if comparing.number(v) and not OTHERWISE.search(path)}


def renamed() -> dict[str, str]:
    """What the refactoring has renamed since, as `--rename` takes it."""
    file = FROZEN / "renamed.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    return numbers({"main": freeze.read(FROZEN / "today.json")["main"]})


def moved(old: dict[str, Any], new: dict[str, Any]) -> comparing.Difference:
    return comparing.compare(old, new, RTOL, ATOL, renamed())


@pytest.mark.slow
def test_no_number_of_the_main_run_has_moved(tmp_path: Path, frozen: dict[str, Any]) -> None:
    found = numbers(freeze.freeze(tmp_path, ["main"]))
    assert len(found) > 1000, "most of what is asked has an answer"
    difference = moved(frozen, found)
    assert not difference, "\n".join(difference.lines())


def test_a_number_that_moves_is_seen(frozen: dict[str, Any]) -> None:
    path = "main/python/reference_loss"
    now = {comparing.new_path(p, renamed()): v for p, v in frozen.items()}
    assert list(moved(frozen, now | {path: now[path] * (1 + 2 * RTOL)}).changed) == [path]
    assert list(moved(frozen, {p: v for p, v in now.items() if p != path}).removed) == [path]
    assert list(moved(frozen, now | {"new": 1.0}).added) == ["new"]
    assert not moved(frozen, now)


def test_a_renamed_path_is_no_difference() -> None:
    old, new = {"adjoint": {"loss": 1.0}}, {"expansion": {"loss": 1.0}}
    assert list(comparing.compare(old, new).removed) == ["adjoint/loss"]
    assert not comparing.compare(old, new, rename={"^adjoint/": "expansion/"})
    with pytest.raises(ValueError, match="two old paths become"):
        comparing.compare({"a": 1, "b": 2}, {"c": 1}, rename={"[ab]": "c"})
