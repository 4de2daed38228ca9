"""A trajectory of which the runs are stored every few steps, and trained again in between: the same bits, in less room."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import shared
from small import expand, small_config

import fut
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.spec import AdjointSpec, stored_bytes
from fut.methods.expansion.trajectory import TrajectoryFiles
from fut.training.problem import segment_width

WINDOW = {"items": 5, "epochs": 2, "batch": 2, "context": 12, "probe": 4}
"""Ten steps: segments of 4, 4 and 2."""


def _trained(path: Path, storage: str, **adjoint: Any) -> fut.Run:
    settings = {"functionals": 2} | adjoint | {"storage": storage}
    return shared(path, small_config(data=WINDOW, adjoint=settings), cached=False)


def _kept(expansion: Expansion) -> dict[str, bytes]:
    """The bytes of all terms, and of what is known of the sample."""
    terms, known = expansion.terms(), expansion.sampled.read(0)
    found = {f"{s.name}/{t}": terms.read(s.name, t).tobytes() for s in terms.specs for t in range(s.shape[0])}
    return found | {name: array.tobytes() for name, array in known.arrays.items()}


@pytest.mark.parametrize(
    "adjoint",
    [
        {},
        {"trajectory": "mixture", "num_anchors": 0},
        {"coordinates": 300, "rank": 2},
        {"coordinates": 300, "control": "never", "curvature": "items", "num_runs": 3},
    ],
    ids=["whole", "mixture", "control", "sample"],
)
def test_a_trajectory_that_is_trained_again_gives_the_same_bits(tmp_path: Path, adjoint: dict[str, Any]) -> None:
    stored, again = (_trained(tmp_path / storage, storage, **adjoint) for storage in ("store", "retrain"))
    for run in (stored, again):
        expand(run.context, None)
    assert _kept(open_expansion(stored.context)) == _kept(open_expansion(again.context))
    places = {run.path: sorted(p.name for p in (run.path / "adjoint/trajectory").iterdir()) for run in (stored, again)}
    assert places[again.path] == ["pinned", "snapshots"]
    assert "centre" in places[stored.path]
    for run in (stored, again):
        run.cache(["adjoint"], readouts=["accuracy"])
    added = [open_expansion(run.context, part="adjoint-added-001") for run in (stored, again)]
    assert _kept(added[0]) == _kept(added[1]), "what is added later trains its segments again"
    assert not again.check()


def _held(trajectory: TrajectoryFiles) -> int:
    """Bytes of the arrays that its stores hold now."""
    stores = [(store, step) for store in trajectory.stores for step in store.steps()]
    return sum(a.nbytes for store, step in stores for a in store.read(step).arrays.values())


def test_what_is_stored_grows_as_the_root_of_the_window(tmp_path: Path) -> None:
    run = _trained(tmp_path / "run", "retrain")
    expansion, heights = open_expansion(run.context), list[int]()

    @contextmanager
    def watching(label: str, total: int) -> Any:
        yield lambda: heights.append(_held(expansion.trajectory))

    run.context.progress = watching
    expand(run.context, None)
    about = expansion.planned.trajectory
    assert about.scratch_bytes / 2 < max(heights) <= about.scratch_bytes
    plain = replace(about, segment=0, pinned=frozenset())
    assert about.scratch_bytes < plain.scratch_bytes

    def planned(items: int) -> list[int]:
        config = small_config(data=WINDOW | {"items": items, "epochs": 1})
        problem = replace(run.context.problem, config=config)
        specs = [AdjointSpec(problem, config.adjoint.model_copy(update={"storage": s})) for s in ("store", "retrain")]
        return [spec.trajectory.scratch_bytes for spec in specs]

    few, many = planned(100), planned(6400)
    assert many[0] > 60 * few[0], "step by step it grows as the window"
    assert many[1] < 9 * few[1], "and so as its root"
    assert [segment_width(steps) for steps in (1, 2, 4, 10, 64, 65)] == [1, 2, 2, 4, 8, 9]


class StoppedError(Exception):
    """As a key would interrupt it, but not pytest."""


def test_an_interrupted_one_goes_on_at_a_segment(tmp_path: Path) -> None:
    whole, run = (_trained(tmp_path / name, "retrain") for name in ("whole", "run"))
    expand(whole.context, None)
    stops = 0

    @contextmanager
    def interrupting(label: str, total: int) -> Any:
        def tick() -> None:
            tick.left -= 1  # type: ignore[attr-defined]
            if tick.left == 0:  # type: ignore[attr-defined]
                raise StoppedError

        tick.left = 6 if label == "trajectory" else max(1, total // 2)  # type: ignore[attr-defined]
        yield tick

    for _ in range(40):
        run = fut.open(run.path, device="cpu", progress=interrupting)
        try:
            expand(run.context, None)
            break
        except StoppedError:
            stops += 1
            if stops == 1:
                assert open_expansion(run.context).trajectory.reached == 4, "the end of the first segment"
    assert stops >= 3
    assert _kept(open_expansion(run.context)) == _kept(open_expansion(whole.context))


def test_how_it_is_stored_is_chosen_by_its_size_and_stays(tmp_path: Path) -> None:
    run = _trained(tmp_path / "run", "auto")
    problem, config = run.context.problem, run.context.config.adjoint
    spec = AdjointSpec(problem, config)
    assert not spec.retrains, "a small one is stored"
    bounded = config.model_copy(update={"scratch_bytes": stored_bytes(spec) - 1})
    assert AdjointSpec(problem, bounded).retrains
    assert not AdjointSpec(problem, config.model_copy(update={"scratch_bytes": stored_bytes(spec)})).retrains
    assert bounded.identity() == config.identity() == config.model_copy(update={"storage": "retrain"}).identity()
    expand(run.context, config.model_copy(update={"storage": "retrain"}))
    found = open_expansion(run.context)
    assert found.planned.retrains, "as it was begun, whatever is configured now"
    cost, plain = EXPANSION.cost(found.planned), EXPANSION.cost(spec)
    assert plain.gradients < cost.gradients < plain.gradients + 3 * spec.trajectory.gradients
    assert cost.kept < plain.kept
