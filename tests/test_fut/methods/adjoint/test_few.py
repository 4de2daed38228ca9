"""Few coordinates for the replay: the formula written out, the error as stated, the fewest that are enough, all if asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from centres import written_out_table
from runs import shared
from small import expand, small_config

import fut
from estimators.adjoint import inclusion_probabilities, poisson_sample
from estimators.control_variates import Bounded
from estimators.orders.order import Order, random_orders
from fut.api import render
from fut.errors import UsageError
from fut.estimation.searching import Searching
from fut.methods.adjoint import few as few_module
from fut.methods.adjoint import sampling
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.control_variate import part_of
from fut.methods.adjoint.costs import few as few_cost
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.few import FEWEST, Few, Measured, few_facts, few_of, fewest
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.multi_readout import MultiReadout
from fut.methods.adjoint.spec import SAMPLES, UNTHINNED, thins
from fut.methods.batching import raw_estimates
from fut.methods.registry import method_of

MODEL = {"width": 16, "layers": 1, "heads": 2, "dtype": "float64"}
PLAIN = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact", "replay_error": 0.9}


CLIPPED = {"name": "adamw", "options": {"clip": 0.05}}


def expanded(path: Path, **changes: object) -> fut.Run:
    """A run of more than `UNTHINNED` parameters, expanded about."""
    run = shared(path, small_config(model=MODEL), cached=False)
    expand(run.context, AdjointConfig.model_validate(PLAIN | changes))
    assert run.context.parameters > UNTHINNED
    return run


class Thinned(NamedTuple):
    run: fut.Run
    bounded: Bounded

    @property
    def few(self) -> Few:
        found = few_of(open_expansion(self.run.context))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory) -> Thinned:
    """A run of which few coordinates are replayed, and how it takes its table."""
    seen, keep = list[Bounded](), sampling._keep_tamed

    def spy(*arguments: Any) -> Bounded:
        seen.append(keep(*arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_keep_tamed", spy)
        run = expanded(tmp_path_factory.mktemp("few") / "run")
    return Thinned(run, seen[0])


def opened(run: fut.Run, **options: Any) -> Adjoint:
    found = run.methods.open("adjoint", **options)
    assert isinstance(found, Adjoint)
    return found


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_estimate_is_its_formula(thinned: Thinned, sample: Any) -> None:
    run, few = thinned.run, thinned.few
    order, whole = run.order([4, 3, 2, 1, 0]), opened(run, replayed="all")
    parts = whole._contributions(whole.batch([order, run.reference]))
    given, own = torch.cat([found[:, 0] for _, found in parts], dim=-1)
    assert len(given) == run.context.parameters
    share, bound = thinned.bounded.share[0], thinned.bounded.bound[0]
    table = share * torch.from_numpy(written_out_table(run)).clamp(-bound, bound)
    placed: Any = sum(table[t, i] - table[t, t] for t, (i,) in enumerate(order.steps))
    held, p = part_of(few, sample)
    indices = few.indices if held is None else few.indices[held]
    assert len(indices) < 0.1 * run.context.parameters
    expected = (((given - own) - placed)[indices] / p).sum() + placed.sum()
    losses = raw_estimates(opened(run, sample=sample), [order])[0]
    assert losses[0] - run.reference_loss == pytest.approx(expected.item(), rel=1e-5)


def test_what_it_errs_by_is_as_stated(thinned: Thinned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By every order's variance, and by the share that was found on simulated orders."""
    run = thinned.run
    orders = random_orders(run.reference, 24, 1)
    true = np.array(raw_estimates(opened(run, replayed="all"), orders)[0])
    errors, stated, shares = [], [], []
    for seed in range(6):  # of the draw alone
        monkeypatch.setattr(few_module, "poisson_sample", lambda p, _, seed=seed: poisson_sample(p, seed))
        other = expanded(tmp_path / str(seed))
        found, variances = raw_estimates(opened(other), orders)
        errors.append(np.array(found) - true)
        stated.append(variances)
        facts = few_facts(open_expansion(other.context))
        assert facts is not None
        shares.append(facts["error"])
    squared = np.mean(np.square(errors))
    assert 0.3 < squared / np.mean(stated) < 3, "six samples, orders that are not independent of one another"
    assert 0.3 < squared**0.5 / (np.mean(shares) * true.std(ddof=1)) < 3


def test_estimates_are_bitwise_the_reference_and_alike_in_any_batch(thinned: Thinned) -> None:
    """A batch of more orders than items interpolates the table before it picks, one order alone afterwards."""
    run = thinned.run
    orders = [run.reference, *random_orders(run.reference, 39, 2), run.reference.without([2])]
    for options in ({}, {"replayed": "all"}):
        estimator = opened(run, **options)
        together = raw_estimates(estimator, orders)
        alone = [raw_estimates(estimator, [order]) for order in orders]
        assert together[0] == [values[0] for values, _ in alone]
        assert together[1] == [variances[0] for _, variances in alone]
        assert together[0][0] == run.reference_loss
        assert together[1][0] == 0
    said = raw_estimates(opened(run), orders)[1]
    assert all(variance > 0 for order, variance in zip(orders, said, strict=True) if order != run.reference)


def test_a_listener_s_states_are_not_overwritten(thinned: Thinned) -> None:
    estimator, seen = opened(thinned.run), list[torch.Tensor]()
    heard = estimator.final_states([thinned.run.order("reverse")], lambda step, state: seen.append(state.theta))
    assert len(seen) == thinned.run.steps
    assert len({theta.data_ptr() for theta in seen}) == len(seen)
    assert torch.equal(heard, estimator.final_states([thinned.run.order("reverse")]))


def test_several_readouts_have_it_as_one_has(thinned: Thinned) -> None:
    run = thinned.run
    orders = [run.order("reverse"), run.order("random:3")]
    values, variances = MultiReadout(run.context, ["probe"]).changes(orders, ["probe"])
    losses, said = raw_estimates(opened(run), orders)
    assert values[:, 0].tolist() == pytest.approx([loss - run.reference_loss for loss in losses], rel=1e-9)
    assert variances[:, 0].tolist() == pytest.approx(said, rel=1e-9)


def test_the_fewest_that_are_enough_are_found() -> None:
    draw = torch.Generator().manual_seed(0)
    square = torch.rand(1, 8000, dtype=torch.float64, generator=draw) ** 8
    measured = Measured(torch.stack([square, square * 1.1]), torch.tensor([100.0], dtype=torch.float64))

    def share(count: int) -> float:
        p = inclusion_probabilities(square[0].sqrt(), count)
        return float((1.1 * square[0] * (1 - p) / p).sum().sqrt() / 100)

    for count in (FEWEST, round(FEWEST * 2**0.5), 2 * FEWEST):
        assert fewest(measured, share(count) * 1.0001) == (count, pytest.approx(share(count)))
    found, said = fewest(measured, 1e-6)
    assert found == 0
    assert said == pytest.approx(share(round(FEWEST * 2**1.5)))  # the most that are at most a quarter


def test_the_worse_of_two_readouts_decides() -> None:
    draw = torch.Generator().manual_seed(0)
    square = torch.rand(2, 8000, dtype=torch.float64, generator=draw) ** 8
    spread = torch.tensor([100.0, 60.0], dtype=torch.float64)
    both = fewest(Measured(torch.stack([square, square]), spread), 10.0)[1]
    p = inclusion_probabilities((square.sqrt() / square.sqrt().sum(-1, keepdim=True)).mean(0), FEWEST)
    each = (square * (1 - p) / p).sum(-1).sqrt() / spread
    assert both == pytest.approx(float(each.max()))
    assert each[0] < each[1]


def test_none_are_drawn_where_none_are_asked_for(tmp_path: Path) -> None:
    run = expanded(tmp_path / "run", replay_error=0)
    expansion = open_expansion(run.context)
    assert few_of(expansion) is None
    assert few_facts(expansion) is None
    assert not opened(run).sampled
    assert expansion.complete()


def test_none_are_used_where_none_are_enough(tmp_path: Path) -> None:
    run = expanded(tmp_path / "run", replay_error=1e-9)
    expansion = open_expansion(run.context)
    assert few_facts(expansion) == {"coordinates": run.context.parameters, "error": 0.0}
    assert not opened(run).sampled
    assert expansion.complete()


def test_what_is_lost_is_drawn_again_the_same(tmp_path: Path, thinned: Thinned) -> None:
    path = tmp_path / "run"
    shutil.copytree(thinned.run.path, path)
    file = path / "adjoint" / "few" / "step-000000.h5"
    before = file.read_bytes()
    file.unlink()
    assert not open_expansion(fut.open(path).context).complete()
    expand(fut.open(path).context)
    assert file.read_bytes() == before
    assert not (path / "adjoint" / "scratch").exists()


def test_a_damaged_file_is_found_and_mended(tmp_path: Path, thinned: Thinned) -> None:
    path = tmp_path / "run"
    shutil.copytree(thinned.run.path, path)
    file = path / "adjoint" / "few" / "step-000000.h5"
    before = bytearray(file.read_bytes())
    before[len(before) // 2] ^= 1
    file.write_bytes(before)
    run = fut.open(path)
    assert any("few" in damage.path for damage in run.check())
    assert run.methods.repair()
    run.cache(["adjoint"])
    assert not run.check()
    assert few_of(open_expansion(run.context)) is not None


def test_all_judge_what_few_have_found(thinned: Thinned) -> None:
    searching = Searching(thinned.run.context, "adjoint", "probe")
    assert isinstance(searching._guide, Adjoint)
    assert isinstance(searching._judge, Adjoint)
    assert searching._guide.few is not None
    assert searching._judge.few is None


def test_a_calibration_is_of_few_or_of_all(thinned: Thinned, tmp_path: Path) -> None:
    said = method_of("adjoint").fingerprint(thinned.run.context, "probe")
    assert said["few"] == len(thinned.few.indices)
    assert "few" not in method_of("positions").fingerprint(thinned.run.context, "probe")
    path = tmp_path / "run"
    shutil.copytree(thinned.run.path, path)
    shutil.rmtree(path / "adjoint" / "few")
    before = method_of("adjoint").fingerprint(fut.open(path).context, "probe")  # as of an expansion from before
    assert dict(said) == dict(before) | {"few": said["few"]}


def test_it_takes_no_more_room_than_is_planned(thinned: Thinned) -> None:
    expansion = open_expansion(thinned.run.context)
    held = sum(file.stat().st_size for file in (expansion.directory / "few").rglob("*") if file.is_file())
    assert held < few_cost(expansion.spec).kept


def test_another_word_for_all_is_refused(thinned: Thinned) -> None:
    with pytest.raises(UsageError, match="replayed: expected one of all"):
        opened(thinned.run, replayed="some")


def test_a_rule_without_coordinates_of_its_own_is_replayed_on_all(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(model=MODEL, rule=CLIPPED), cached=False)
    assert thins(open_expansion(run.context).spec), "an item's own norm is known"
    several = small_config(model=MODEL, rule=CLIPPED, data={"items": 6, "per_step": 2})
    run = fut.train(tmp_path / "several", several, device="cpu")
    assert not thins(open_expansion(run.context).spec)


def test_a_clipped_order_is_replayed_alike(tmp_path: Path) -> None:
    """Norms are of all coordinates: few of them could not tell."""
    run = shared(tmp_path / "run", small_config(model=MODEL, rule=CLIPPED), cached=False)
    expand(run.context, AdjointConfig.model_validate(PLAIN))
    orders = [Order.of([4, 3, 2, 1, 0]), *random_orders(run.reference, 12, 3)]
    few, every = (np.array(raw_estimates(opened(run, replayed=way), orders)[0]) for way in (None, "all"))
    said = np.sqrt(raw_estimates(opened(run), orders)[1])
    assert np.all(np.abs(few - every) < 5 * said)


def test_info_says_how_many_are_replayed(thinned: Thinned) -> None:
    facts = thinned.run.info()
    assert facts["adjoint_few"] == few_facts(open_expansion(thinned.run.context))
    assert f"replayed: {len(thinned.few.indices)} of {thinned.run.context.parameters:,} coordinates" in render.info(
        facts
    )


def test_maps_are_replayed_on_all(thinned: Thinned) -> None:
    """Their items' own steps differ by far less than random orders do."""
    assert not thins(open_expansion(thinned.run.context, part="memorization").spec)
