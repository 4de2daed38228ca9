"""The ablations' workbench: variants differ from the default in what they say, and share what they have in common."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import small_config

import fut
from fut.methods.batching import raw_estimates

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def workbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    cache = {"sketch": "identity", "products": "difference"}
    run = fut.train(tmp_path / "run", small_config(data={"items": 8}, cache=cache), device="cpu")
    return importlib.import_module("ablation_variants").Workbench(run, tmp_path / "variants")


def test_variants_differ_and_share_what_they_have_in_common(workbench: Any) -> None:
    orders = [workbench.run.order("reverse")]

    def asked(**changes: Any) -> float:
        return raw_estimates(workbench.build(workbench.expansion(**changes)), orders)[0][0]

    default = asked()
    assert asked(anchors=3) == default, "the same, written out"
    changed = [asked(mixture=2), asked(centre="ensemble"), asked(pool=1), asked(about_reference=True, mixture=1)]
    assert len({default, *changed}) == 1 + len(changed)
    centres = {path.name for path in (workbench.directory / "shared").glob("centre-*") if "pooled" not in path.name}
    assert centres == {"centre-4", "centre-2", "centre-4-ensemble", "centre-reference"}


def test_the_step_of_differences_is_the_one_that_is_named(workbench: Any) -> None:
    coarse, usual = workbench.expansion(relative=1e-2), workbench.expansion()
    assert (coarse.relative, usual.relative) == (1e-2, 3e-4)
    assert not usual.about_reference
    assert workbench.expansion(about_reference=True, mixture=1).spec.trajectory.groups == list(
        workbench.run.reference.steps
    )


def test_every_variant_can_be_asked(workbench: Any) -> None:
    orders, names = [workbench.run.order(spec) for spec in ("reverse", "random:1")], set()
    groups = importlib.import_module("ablations").GROUPS
    for variant in workbench.variants(list(groups)):
        estimator = variant.make()
        estimator.ready()
        losses = raw_estimates(estimator, orders)[0]
        assert np.isfinite(losses).all(), (variant.group, variant.value)
        assert losses[0] != losses[1], (variant.group, variant.value)
        assert variant.runs() >= 0
        names.add((variant.group, variant.value, variant.seed))
    assert len(names) > 50
    assert {group for group, *_ in names} == {"default", *groups}
