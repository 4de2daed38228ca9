"""What every method keeps, by the registry: a new line there is under this test."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import small_config

import fut
from estimators.errors import OrderError
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.base import Method
from fut.methods.curvature_batches import pooled_size, rows
from fut.methods.pairwise.pipeline import PAIRWISE_TERMS
from fut.methods.registry import METHODS, preparations
from fut.methods.stages import Preparation, Request, parts_of
from fut.models import autodiff
from storage import FORMAT, IdentityError, TermStore, fingerprint

EACH = pytest.mark.parametrize("method", list(METHODS), ids=lambda method: method.name)
PREPARED = pytest.mark.parametrize("preparation", preparations(), ids=lambda preparation: preparation.name)
FEW = {"lowrank": {"rank": 3, "num_anchors": 2, "refresh": 2}, "adjoint": {"num_runs": 2, "functionals": 2}}
READERS = {m.preparation.name: m for m in METHODS if m.preparation is not None}
TERMS = [term for preparation in preparations() for term in preparation.terms]


def made(path: Path, **sections: dict[str, Any]) -> fut.Run:
    return fut.train(path, small_config(**(FEW | sections)), device="cpu")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """Nothing is cached."""
    return made(tmp_path_factory.mktemp("bare") / "run")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, bare: fut.Run) -> fut.Run:
    """Everything is cached."""
    path = tmp_path_factory.mktemp("cached") / "run"
    shutil.copytree(bare.path, path)
    run = fut.open(path, device="cpu")
    run.cache(TERMS)
    return fut.open(path, device="cpu")


def contents(run: fut.Run, preparation: Preparation[Any]) -> dict[str, bytes]:
    (files,) = preparation.stored(run.context)
    terms = TermStore.open(files.terms_path)
    return {f"{s.name}/{i}": terms.read(s.name, i).tobytes() for s in terms.specs for i in range(s.shape[0])}


@EACH
def test_its_names_find_it(method: Method) -> None:
    assert all(METHODS[name] is method for name in (method.name, *method.aliases))
    with pytest.raises(UsageError, match=r"expected one of reference, .*, retrain, got `nothing`"):
        assert METHODS["nothing"]


@EACH
def test_the_reference_order_has_the_reference_value(cached: fut.Run, method: Method) -> None:
    found = cached.estimate(["identity"], method.name, known=False, calibrated=False)
    assert found[0].value == cached.reference_loss


@EACH
def test_it_answers_the_orders_that_it_says_it_can(cached: fut.Run, method: Method) -> None:
    def answer(order: Any, partial: bool = False) -> float:
        checked = cached.order(order, partial=partial)
        return cached.estimate([checked], method.name, known=False, calibrated=False)[0].value

    if method.capabilities.moves_items:
        assert np.isfinite(answer("reverse"))
    else:
        with pytest.raises(OrderError):
            answer("reverse")
    if method.capabilities.empty_steps:
        assert np.isfinite(answer("without:1"))
    else:
        with pytest.raises(OrderError):
            answer("without:1")
    if method.capabilities.any_length:
        assert np.isfinite(answer([0, 1, 2], partial=True))
    else:
        with pytest.raises(OrderError):
            answer([0, 1, 2], partial=True)


@EACH
def test_it_rebuilds_parameters_if_it_says_so(cached: fut.Run, method: Method, tmp_path: Path) -> None:
    if method.capabilities.rebuilds:
        assert cached.endpoint("identity", method.name, tmp_path / "e.safetensors").evaluated_loss
    else:
        with pytest.raises(UsageError, match="rebuilds parameters"):
            cached.endpoint("identity", method.name, tmp_path / "e.safetensors")


@EACH
def test_it_names_the_command_that_it_is_missing(bare: fut.Run, method: Method) -> None:
    if method.preparation is None:
        method.open(bare.context).ready()
        return
    with pytest.raises(NotCachedError, match="fut cache RUN"):
        method.open(bare.context).ready()


@EACH
def test_an_option_that_it_does_not_take_is_refused(cached: fut.Run, method: Method) -> None:
    with pytest.raises(UsageError, match="options that"):
        cached.methods.open(f"{method.name}:nothing=1")


@EACH
def test_duplicates_of_content_are_answered_alike(tmp_path: Path, method: Method) -> None:
    config = small_config(**FEW)
    data = fut.Dataset(*fut_data(config))
    run = fut.train(tmp_path / "run", config, data=data, device="cpu")
    if method.preparation is not None:
        run.cache(list(method.preparation.terms))
    swapped = run.order("swap:0,1")  # items 0 and 1 are one content
    found = run.estimate([swapped], method.name, known=False, calibrated=False)
    assert found[0].value == run.reference_loss


def fut_data(config: Any) -> tuple[Any, Any, Any]:
    """The text's data, of which the first two items are the same."""
    from fut.data.text import build_dataset

    data = build_dataset(config)
    return (data.items[0], data.items[0], *data.items[2:]), data.probe, data.warmup


def taken(run: fut.Run, preparation: Preparation[Any], monkeypatch: pytest.MonkeyPatch) -> float:
    """Gradients of what is prepared, counted where they are computed: a sample's share of an item, a probe chunk as one."""
    calls, batch = list[float](), run.context.config.data.batch
    assert run.context.problem

    def count(item: Any) -> None:
        chunk = any(item[0] is probe[0] for probe in run.context.problem.data.probe)
        calls.append(1.0 if chunk else len(item[0]) / batch)

    one, both, product = autodiff.gradient, autodiff.gradient_and_loss, autodiff.hessian_vector
    monkeypatch.setattr("fut.methods.build.require_stages", lambda *given: None)  # which measures a gradient's memory
    monkeypatch.setattr(autodiff, "hessian_vector", lambda o, t, i, u: (count(i), count(i), product(o, t, i, u))[2])
    monkeypatch.setattr(autodiff, "gradient", lambda o, theta, item: (count(item), one(o, theta, item))[1])
    monkeypatch.setattr(autodiff, "gradient_and_loss", lambda o, t, i, *more: (count(i), both(o, t, i, *more))[1])
    run.cache(list(preparation.terms))
    return sum(calls)


@PREPARED
def test_what_is_planned_is_what_is_taken(
    bare: fut.Run, tmp_path: Path, preparation: Preparation[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pairwise terms the plan leaves out the reference step's own gradient, which a block of items with products takes once.

    The adjoint's plan is of a window with settled second moments; see below for others.
    """
    monkeypatch.setattr("estimators.adjoint.UNLIKE", math.inf)
    path = tmp_path / "run"
    shutil.copytree(bare.path, path)
    run = fut.open(path, device="cpu")
    planned = preparation.cost(preparation.open(run.context, Request(list(preparation.terms))).spec).gradients
    beside = run.steps * -(-run.items // run.context.config.cache.item_block) if preparation is PAIRWISE_TERMS else 0
    assert planned == pytest.approx(taken(run, preparation, monkeypatch) - beside)
    stages = [s for s in run.plan().stages if s.stage.startswith(f"{preparation.name}:")]
    assert not stages or sum(row.gradients for row in stages) == planned


def test_a_step_of_unlike_injections_takes_a_gradient_of_every_item_in_place_of_the_pool(
    bare: fut.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps but the first, which never has products of the items' own."""
    monkeypatch.setattr("estimators.adjoint.UNLIKE", -1.0)
    path = tmp_path / "run"
    shutil.copytree(bare.path, path)
    run = fut.open(path, device="cpu")
    spec = EXPANSION.open(run.context, Request(list(EXPANSION.terms))).spec
    size = pooled_size(spec.problem, spec.config, spec.trajectory.places_count)
    pooled = 2 * spec.trajectory.places_count * size / rows(spec.problem)
    own = spec.config.num_runs * run.context.config.data.per_step
    changed = spec.fine * (run.steps - 1) * (own - pooled)
    assert changed
    assert EXPANSION.cost(spec).gradients + changed == pytest.approx(taken(run, EXPANSION, monkeypatch))


@PREPARED
def test_killed_in_every_stage_it_ends_the_same(
    bare: fut.Run, cached: fut.Run, tmp_path: Path, preparation: Preparation[Any]
) -> None:
    path, stopped = tmp_path / "run", set[str]()
    shutil.copytree(bare.path, path)

    @contextmanager
    def stopping(label: str, total: int) -> Iterator[Any]:
        left = [max(1, total // 2) if label not in stopped else -1]
        stopped.add(label)

        def tick() -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        yield tick

    for _ in range(20):
        run = fut.open(path, device="cpu", progress=stopping)
        try:
            run.cache(list(preparation.terms))
            break
        except KeyboardInterrupt:
            assert run.check() == []
    (files,) = preparation.stored(run.context)
    assert files.complete()
    assert contents(run, preparation) == contents(cached, preparation)
    taken = {stage.name for stage in parts_of(preparation.stages, files.spec) if stage.cost(files.spec).gradients}
    assert stopped >= taken, "every stage was stopped once"


def test_a_method_that_lends_a_calibration_says_what_it_is_made_from(cached: fut.Run) -> None:
    prints = {method.name: dict(method.fingerprint(cached.context, "probe")) for method in METHODS}
    assert all(bool(found) == (METHODS[name].preparation is not None) for name, found in prints.items())


@PREPARED
def test_what_an_older_format_made_is_refused_by_name(
    cached: fut.Run, tmp_path: Path, preparation: Preparation[Any]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(cached.path, path)
    manifest = path / preparation.name / "manifest.json"
    content = json.loads(manifest.read_text()) | {"format": FORMAT - 1}
    del content["digest"]
    manifest.write_text(json.dumps(content | {"digest": fingerprint(content)}))
    said = rf"expected manifest format {FORMAT} in .*{preparation.name}.*; it has format {FORMAT - 1}; .*make the artefact again"
    with pytest.raises(IdentityError, match=said):
        READERS[preparation.name].open(fut.open(path, device="cpu").context)
