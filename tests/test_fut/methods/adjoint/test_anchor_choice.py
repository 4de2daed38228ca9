"""The number of anchors where it is chosen: by the error that is stated, counted, resumed, and said."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from centres import written_out_table
from runs import shared
from small import Cli, MakeRun, expand, small_config

import fut
from fut.methods.adjoint import anchors as choosing
from fut.methods.adjoint import memory
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.footprint import Footprint
from fut.methods.lowrank.terms import open_low_rank
from fut.methods.stages import build
from fut.models import autodiff as derivatives
from storage import CheckpointStore

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
EXACT: dict[str, Any] = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact"}
FEW = {"functionals": 2}
LOOSE, TIGHT = {"num_anchors": 0, "anchor_error": 1e3}, {"num_anchors": 0, "anchor_error": 1e-9}


def all_terms(expansion: Expansion) -> dict[str, np.ndarray]:
    terms = expansion.terms()
    return {f"{s.name}/{t}": terms.read(s.name, t) for s in terms.specs for t in range(s.shape[0])}


@pytest.mark.parametrize("pilots", [8, 3])
def test_the_error_is_that_of_the_table_between_anchors(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, pilots: int
) -> None:
    monkeypatch.setattr(choosing, "PILOTS", pilots)
    data = {"items": 7, "batch": 2, "context": 12, "probe": 4}
    run = make_run("adjoint", **FLOAT64, data=data, adjoint=EXACT | TIGHT | {"seed": pilots})
    expansion, wrong, spread = open_expansion(run.context), 0.0, 0.0
    anchors, true = expansion.spec.spread(3), written_out_table(run, range(run.steps)).sum(-1)
    guessed, items = written_out_table(run, anchors).sum(-1), choosing.pilot_items(expansion.spec)
    assert len(items) == min(pilots, 7)
    middles = choosing.between(expansion.spec, 3)
    assert len(middles) == 2
    for step in middles:
        width = anchors[1] - anchors[0] if step < anchors[1] else anchors[2] - anchors[1]
        wrong += width * (guessed - true)[step, items].var()
        spread += width * true[step, items].var()
    assert expansion.spec.choice is not None
    assert expansion.spec.choice.errors[3] == pytest.approx((wrong / spread) ** 0.5, rel=1e-6)
    assert expansion.spec.choice.errors[3] > 1e-5, "there is something to interpolate"


@pytest.mark.parametrize("kept", [{}, {"coordinates": 600}, {"coordinates": 600, "control": "never"}])
@pytest.mark.parametrize(("asked", "count"), [(LOOSE, 3), (TIGHT, 5)])
def test_what_is_chosen_is_what_could_have_been_configured(
    tmp_path: Path, kept: dict[str, Any], asked: dict[str, Any], count: int
) -> None:
    run, same = (shared(tmp_path / name, small_config(), cached=False) for name in ("run", "same"))
    expand(run.context, AdjointConfig.model_validate(FEW | kept | asked))
    expand(same.context, AdjointConfig.model_validate(FEW | kept | {"num_anchors": count}))
    assert (
        open_expansion(run.context).spec.anchors
        == open_expansion(same.context).spec.anchors
        == open_expansion(run.context).spec.spread(count)
    )
    ours, theirs = all_terms(open_expansion(run.context)), all_terms(open_expansion(same.context))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert run.estimate(["reverse"], known=False)[0].value == same.estimate(["reverse"], known=False)[0].value


def test_a_window_too_short_for_a_step_between_takes_no_error(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(data={"items": 2}), cached=False)
    expand(run.context, AdjointConfig.model_validate(TIGHT))
    choice = open_expansion(run.context).spec.choice
    assert choice is not None
    assert (choice.anchors, choice.errors) == ([0, 1], {3: 0.0})


def test_choosing_is_counted_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expansion, calls, one = (
        open_expansion(run.context, AdjointConfig.model_validate(LOOSE)),
        list[float](),
        derivatives.gradient,
    )
    most, plan = EXPANSION.cost(expansion.spec).gradients, run.plan(adjoint=expansion.spec.config)
    assert sum(s.gradients for s in plan.stages if s.stage.startswith("adjoint:")) == most
    assert any(f"anchors: planned for {len(expansion.spec.anchors)}, the most" in note for note in plan.notes)
    scratch, spared = EXPANSION.cost(expansion.spec).scratch, len(expansion.spec.anchors) - 3

    def count(item: Any) -> None:
        calls.append(min(1.0, len(item[0]) / run.context.config.data.batch))  # a probe chunk counts one

    both, exact = derivatives.gradient_and_loss, derivatives.hessian_vector
    monkeypatch.setattr(derivatives, "hessian_vector", lambda o, t, i, u: (count(i), count(i), exact(o, t, i, u))[2])
    monkeypatch.setattr(derivatives, "gradient", lambda o, theta, item: (count(item), one(o, theta, item))[1])
    monkeypatch.setattr(
        derivatives, "gradient_and_loss", lambda o, theta, item, *more: (count(item), both(o, theta, item, *more))[1]
    )
    build(EXPANSION, expansion)
    assert spared > 0
    assert sum(calls) == EXPANSION.cost(expansion.spec).gradients == most - spared * 5, (
        "anchors that there could have been"
    )
    assert scratch >= EXPANSION.cost(expansion.spec).scratch
    tables = [
        memory.tables(AdjointSpec(run.context.problem, c), Footprint(run.context.problem))
        for c in (
            expansion.spec.resolved,
            expansion.spec.config.model_copy(update={"num_anchors": 3}),
            expansion.spec.config,
        )
    ]
    assert tables[0] == tables[1] < tables[2], "what is read is of the anchors that were chosen"


@pytest.mark.parametrize(
    ("kept", "part"),
    [
        ({}, None),
        ({"coordinates": 600}, None),
        ({"coordinates": 600}, "scratch/pilots"),
        ({"coordinates": 600}, "anchors"),
    ],
)
def test_killed_or_damaged_it_chooses_the_same_again(tmp_path: Path, kept: dict[str, Any], part: str | None) -> None:
    config = AdjointConfig.model_validate(FEW | kept | TIGHT)
    whole = shared(tmp_path / "whole", small_config(), cached=False)
    expand(whole.context, config)
    run, stages = shared(tmp_path / "run", small_config(), cached=False), set[str]()

    @contextmanager
    def stopping(label: str, total: int) -> Any:
        if total and label not in stages:  # half of every stage, once
            stages.add(label)
            left = [max(1, total // 2)]

            def tick() -> None:
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

            yield tick
        else:
            yield lambda: None

    run.context.progress = stopping
    while not open_expansion(run.context, config).complete():
        try:
            expand(run.context, config)
        except KeyboardInterrupt:
            store = CheckpointStore(tmp_path / "run/adjoint" / (part or "none"))
            if part and store.steps():
                path = store.path(store.steps()[0])
                path.write_bytes(path.read_bytes()[:-40])
                assert str(path) in [d.path for d in run.check()]
                run.methods.repair()
            run = fut.open(tmp_path / "run", device="cpu", progress=stopping)
    assert "anchors: how many" in stages
    assert run.check() == []
    assert open_expansion(run.context).spec.choice == open_expansion(whole.context).spec.choice
    ours, theirs = all_terms(open_expansion(run.context)), all_terms(open_expansion(whole.context))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_lost_choice_is_made_again_without_touching_the_terms(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expand(run.context, AdjointConfig.model_validate(TIGHT))
    choice, before = open_expansion(run.context).spec.choice, all_terms(open_expansion(run.context))
    open_expansion(run.context).chosen.remove(0)
    run = fut.open(tmp_path / "run", device="cpu")
    assert not open_expansion(run.context).complete()
    expand(run.context, None)
    after = all_terms(open_expansion(run.context))
    assert open_expansion(run.context).spec.choice == choice
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_info_says_what_was_chosen_and_why(tmp_path: Path, cli: Cli) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    chosen = ["--set", "adjoint.num_anchors=0", "--set", "adjoint.anchor_error=1e-9"]
    assert cli("cache", tmp_path / "run", "--terms", "adjoint", *chosen).status == 0
    found = run.info()["adjoint_anchor_choice"]
    assert (found["anchors"], [t["anchors"] for t in found["tried"]]) == (
        len(open_expansion(run.context).spec.anchors),
        [3, 5],
    )
    assert found["tried"][0]["error"] > found["tried"][1]["error"]
    said = cli("info", tmp_path / "run").out
    assert f"anchors: {found['anchors']} chosen; half-way between two" in said
    assert f"{100 * found['tried'][0]['error']:.2g} % between 3" in said


def test_the_curved_estimator_takes_three(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(adjoint=TIGHT, lowrank={"rank": 2, "num_anchors": 1}), cached=False)
    run.cache(["lowrank"])
    assert open_low_rank(run.context).spec.anchors == [0, 2, 4]
    assert run.endpoint("identity", estimator="lowrank").evaluated_loss == run.reference_loss
