"""The adjoint's control variate on a run: the formula written out, the error as stated, and less of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from centres import written_out_table
from runs import shared
from small import MakeRun, expand, small_config

import fut
from estimators.adjoint import poisson_sample
from estimators.control_variates import Bounded
from estimators.orders.order import random_orders
from fut.errors import NotCachedError
from fut.methods.adjoint import sampling
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.control_variate import part_of
from fut.methods.adjoint.costs import anchors
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.multi_readout import MultiReadout
from fut.methods.adjoint.spec import SAMPLES
from fut.methods.batching import raw_estimates

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
PLAIN = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact"}


def sampled(path: Path, **changes: object) -> fut.Run:
    run = shared(path, small_config(**FLOAT64), cached=False)
    expand(run.context, AdjointConfig.model_validate(PLAIN | changes))
    return run


class Few(NamedTuple):
    run: fut.Run
    bounded: Bounded


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Few:
    """A run of which 600 coordinates are kept, and how it takes its table."""
    seen, keep = list[Bounded](), sampling._keep_tamed

    def spy(*arguments: Any) -> Bounded:
        seen.append(keep(*arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_keep_tamed", spy)
        run = sampled(tmp_path_factory.mktemp("few") / "run", coordinates=600)
    return Few(run, seen[0])


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_estimate_is_its_formula(few: Few, make_run: MakeRun, sample: Any) -> None:
    plain = make_run("adjoint", **FLOAT64, adjoint=PLAIN)
    order = plain.order([4, 3, 2, 1, 0])
    whole = plain.methods.open("adjoint")
    assert isinstance(whole, Adjoint)
    parts = whole._contributions(whole.batch([order, plain.reference]))
    given, own = torch.cat([found[:, 0] for _, found in parts], dim=-1)
    share, bound = few.bounded.share[0], few.bounded.bound[0]
    table = share * torch.from_numpy(written_out_table(plain)).clamp(-bound, bound)
    assert 0.5 < share[bound > 1e-6].mean() < 1
    placed: Any = sum(table[t, i] - table[t, t] for t, (i,) in enumerate(order.steps))
    expansion = open_expansion(few.run.context)
    held, p = part_of(expansion, sample)
    indices = expansion.indices if held is None else expansion.indices[held]
    assert len(indices) < (700 if sample is None else 500)
    expected = (((given - own) - placed)[indices] / p).sum() + placed.sum()
    losses = raw_estimates(few.run.methods.open("adjoint", sample=sample), [order])[0]
    assert losses[0] - few.run.reference_loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("warmup", "most"), [(4, 1.0), (40, 0.6)])
def test_it_takes_sampling_error_away_and_states_the_rest(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, warmup: int, most: float
) -> None:
    """Also where memory is cold, so that the table is no guide to a few coordinates."""
    exact = make_run("adjoint", **FLOAT64, adjoint=PLAIN, warmup={"steps": warmup})
    orders = random_orders(exact.reference, 8, 1)
    true = np.array(raw_estimates(exact.methods.open("adjoint"), orders)[0])
    errors, stated, plain = [], [], []
    for seed in range(6):  # of the sample: the trajectory and the sweep are those of seed 0
        run = shared(tmp_path / str(seed), small_config(**FLOAT64, warmup={"steps": warmup}), cached=False)
        monkeypatch.setattr(
            "fut.methods.adjoint.sampling.poisson_sample", lambda p, _, seed=seed: poisson_sample(p, seed)
        )
        expand(run.context, AdjointConfig.model_validate(PLAIN | {"coordinates": 300}))
        found, variances = raw_estimates(run.methods.open("adjoint"), orders)
        errors.append(np.array(found) - true)
        stated.append(variances)
        without = Adjoint(run.context)
        without.control = None
        plain.append(np.array(raw_estimates(without, orders)[0]) - true)
    squared, said = np.mean(np.square(errors)), np.mean(stated)
    assert 0.3 < squared / said < 3, "six samples, orders that are not independent of one another"
    assert squared < most * np.mean(np.square(plain))


def test_several_readouts_have_it_as_one_has(few: Few) -> None:
    several = MultiReadout(few.run.context, ["probe"])
    orders = [few.run.order("reverse"), few.run.order("random:3")]
    values, variances = several.changes(orders, ["probe"])
    losses, said = raw_estimates(few.run.methods.open("adjoint"), orders)
    assert values[:, 0].tolist() == pytest.approx([loss - few.run.reference_loss for loss in losses], rel=1e-9)
    assert variances[:, 0].tolist() == pytest.approx(said, rel=1e-9)
    assert min(said) > 0


def test_estimates_are_bitwise_the_reference_and_alike_in_any_batch(few: Few) -> None:
    orders = [few.run.order(spec) for spec in ("identity", "reverse", "random:3")]
    estimator = few.run.methods.open("adjoint")
    together = raw_estimates(estimator, orders)
    assert together[0][0] == few.run.reference_loss
    assert together[1][0] == 0
    alone = [raw_estimates(estimator, [order]) for order in orders]
    assert together == ([a[0][0] for a in alone], [a[1][0] for a in alone])


@pytest.mark.parametrize(
    ("control", "entries", "there"), [("auto", 25, True), ("auto", 24, False), ("always", 0, True)]
)
def test_large_tables_are_no_control_variates_unless_asked_for(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, control: str, entries: int, there: bool
) -> None:
    monkeypatch.setattr("fut.methods.adjoint.spec.ENTRIES", entries)
    expansion = open_expansion(make_run(adjoint={"coordinates": 600, "control": control}, cached=False).context)
    assert expansion.spec.controlled == there
    assert (anchors(expansion.spec).scratch > 0) == there
    assert not open_expansion(make_run(adjoint={"control": "always"}, cached=False).context).spec.controlled, (
        "all coordinates are kept"
    )


@pytest.mark.parametrize("name", ["controlled_positions", "sampled_positions"])
def test_a_damaged_control_variate_is_not_done_without(few: Few, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(few.run.path, tmp_path / "own"))
    run = fut.open(path, device="cpu")
    expected = run.estimate(["reverse"], known=False)[0].value
    chunk = next(p for p in (path / f"adjoint/terms/arrays/{name}/c").rglob("*") if p.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    run = fut.open(path, device="cpu")
    assert run.methods.repair() == 1
    with pytest.raises(NotCachedError, match="control variate, got 1 blocks missing"):
        run.estimate(["reverse"], known=False)
    run.cache(["adjoint"])
    assert run.estimate(["reverse"], known=False)[0].value == expected
