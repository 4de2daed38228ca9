"""The ablations' workbench: variants differ from the default in what they say, and share what they have in common."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import shared
from small import small_config

from fut.methods.batching import raw_estimates

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Variants of one run; a sample of one seed, and fewer steps of differences than the record has."""
    path, cache = tmp_path_factory.mktemp("ablations"), {"sketch": "identity", "products": "difference"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        made = importlib.import_module("ablation_variants")
        patch.setattr(made, "SEEDS", (0,))
        patch.setattr(made, "DIFFERENCE_STEPS", (1e-2, 3e-4))
        run = shared(path / "run", small_config(data={"items": 8}, cache=cache), cached=False)
        yield made.Workbench(run, path / "variants")


def test_variants_differ_and_share_what_they_have_in_common(
    workbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool makes a difference where steps have products of the mean injection, as in windows with settled second moments."""
    monkeypatch.setattr("estimators.adjoint.UNLIKE", math.inf)
    workbench = type(workbench)(workbench.run, tmp_path)
    orders = [workbench.run.order("reverse")]

    def asked(**changes: Any) -> float:
        return raw_estimates(workbench.build(workbench.expansion(**changes)), orders)[0][0]

    default = asked()
    assert asked(num_anchors=3) == default, "the same, written out"
    changed = [
        asked(num_runs=2),
        asked(trajectory="ensemble"),
        asked(pool=1),
        asked(num_anchors=2),
        asked(about_reference=True, num_runs=1),
    ]
    assert len({default, *changed}) == 1 + len(changed)
    centres = {path.name for path in (workbench.directory / "shared").glob("centre-*") if "pooled" not in path.name}
    assert centres == {"centre-4", "centre-2", "centre-4-ensemble", "centre-reference"}


def test_the_step_of_differences_is_the_one_that_is_named(workbench: Any) -> None:
    coarse, usual = workbench.expansion(relative=1e-2), workbench.expansion()
    assert (coarse.relative, usual.relative) == (1e-2, 3e-4)
    assert not usual.about_reference
    assert workbench.expansion(about_reference=True, num_runs=1).spec.trajectory.groups == list(
        workbench.run.reference.steps
    )


GROUPS = ("centre", "ensemble", "anchors", "coordinates", "curvature", "precompute", "products", "order", "moments")


def test_every_variant_is_named_once(workbench: Any) -> None:
    groups = importlib.import_module("ablations").GROUPS
    names = [(variant.group, variant.value) for variant in workbench.variants(list(groups))]
    assert len(names) == len(set(names)) > 40
    assert {group for group, _ in names} == {"default", *groups}
    assert groups == GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_every_variant_can_be_asked(workbench: Any, group: str) -> None:
    orders = [workbench.run.order(spec) for spec in ("reverse", "random:1")]
    for variant in workbench.variants([group]):
        estimator = variant.make()
        estimator.ready()
        losses = raw_estimates(estimator, orders)[0]
        assert np.isfinite(losses).all(), (variant.group, variant.value)
        assert losses[0] != losses[1], (variant.group, variant.value)
        assert variant.runs() >= 0
