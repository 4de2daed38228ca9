"""What is degenerate or noise says so where it is read: attributions, noisy curvature, named estimators, calibrations."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Cli
from torch import nn

import fut
from estimators.orders.order import Order
from fut.errors import FutWarning, NotCachedError
from fut.estimation.accuracy import accuracy
from fut.estimation.ranking import best, ranked, worst
from fut.orders.editing import Edit, edits_between

CPU = ("--device", "cpu")
ITEMS = 6


def cross_entropy(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(x), y)


def pairs(seed: int, count: int, dtype: torch.dtype) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    x = torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return tuple((one, (one.sum(-1) > 0).long()) for one in x)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[fut.Run, nn.Module]:
    """A run of one item a step, under plain SGD in float64, with the terms of leave-out effects; and its module."""
    torch.manual_seed(0)
    module, data = nn.Linear(6, 2).double(), pairs(1, ITEMS + 2, torch.float64)
    config = fut.load_config(
        data={"items": ITEMS},
        model={"dtype": "float64"},
        warmup={"steps": 0},
        schedule={"kind": "constant", "rate": 0.1},
        rule={"name": "sgd", "options": {}},
    )
    run = fut.train(
        tmp_path_factory.mktemp("alone") / "run",
        config,
        module=module,
        loss=cross_entropy,
        data=fut.Dataset(data[:ITEMS], data[ITEMS:]),
        device="cpu",
    )
    run.cache(["reweighting"])
    return run, module


def plainly_trained(run: fut.Run, module: nn.Module, item: int, factor: float) -> float:
    """The probe loss after training in plain torch, one item's gradient scaled."""
    module, data = copy.deepcopy(module), run.context.problem.data
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for number, pair in enumerate(data.items):
        optimizer.zero_grad()
        (cross_entropy(module, *pair) * (factor if number == item else 1.0)).backward()
        optimizer.step()
    with torch.no_grad():
        return float(np.mean([cross_entropy(module, *pair).item() for pair in data.probe]))


def test_attributions_of_one_item_a_step_are_not_zero_and_say_what_they_are(alone: tuple[fut.Run, nn.Module]) -> None:
    run, module = alone
    found, h = run.methods.attributions(), 1e-4
    assert found.shape == (ITEMS, 1)
    for item in range(ITEMS):
        up, down = (plainly_trained(run, module, item, 1 + sign * h) for sign in (1, -1))
        assert found[item, 0] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9)
    left_out = [run.retrain(f"without:{item}").loss - run.reference_loss for item in range(ITEMS)]
    assert np.corrcoef(-np.asarray(found).ravel(), left_out)[0, 1] > 0.98
    assert (found.by, found.unit) == ("gradient", "loss")
    assert "factor on each item's gradient" in found.note
    assert "leaving an item out changes the probe loss by about minus the sum" in found.note
    assert getattr(2 * found, "by", "") == "gradient", "arithmetic keeps the words"


def test_a_named_estimator_estimates_what_is_known_too(own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run, device="cpu")
    truth = run.retrain("reverse").loss
    raw = run.estimate(["reverse"], "adjoint", known=False)[0]
    named = run.estimate(["reverse"], "adjoint")[0]
    assert (named.source, named.value, named.truth) == ("estimate", raw.value, truth)
    assert named.value != truth
    assert named.interval is None
    assert raw.truth is None
    for asked in (run.estimate(["reverse"])[0], run.estimate(["reverse"], "retrain")[0]):
        assert (asked.source, asked.value, asked.truth) == ("retrained", truth, None)
    change = run.whatif("reverse", estimator="adjoint")["probe"]
    assert (change.source, change.value, change.truth) == ("estimate", raw.value, truth)
    said = cli("estimate", own_run, "--order", "reverse", "--estimator", "adjoint", *CPU)
    assert f"retrained: {truth:.5f}" in said.out
    whole = cli("whatif", own_run, "--order", "reverse", "--estimator", "adjoint", "--json", *CPU).json
    assert whole["readouts"]["probe"]["truth"] == truth
    run.calibrate(4)
    reverse, same = run.estimate(["reverse", "identity"], "adjoint")
    assert reverse.interval is not None
    assert reverse.interval[0] < reverse.interval[1]
    assert (same.value, same.source, same.truth) == (run.reference_loss, "estimate", run.reference_loss)
    assert "every estimator gives exactly" in same.note


def test_an_estimator_that_is_not_cached_is_refused_by_name_whatever_is_known(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    run.retrain("reverse")
    for order in ("reverse", "identity"):
        with pytest.raises(NotCachedError, match="fut cache"):
            run.estimate([order], "reweighting")
    assert run.estimate(["reverse"])[0].source == "retrained"


def test_curvature_that_is_rounding_is_said_with_every_answer(own_run: Path, monkeypatch: Any, cli: Cli) -> None:
    monkeypatch.setattr("fut.methods.curvature_batches.NOISE", 1e-12)
    run, word = fut.open(own_run, device="cpu"), "its curvature is mostly rounding"
    for name in ("adjoint", "positions"):
        assert word in run.estimate(["reverse"], name, known=False)[0].note
    run.calibrate(3)
    assert word in run.estimate(["reverse"], known=False)[0].note
    assert word in cli("estimate", own_run, "--order", "reverse", "--no-known", *CPU).out
    checked = run.verify(3, 5, ["adjoint", "replay-exact"])
    assert word in checked.estimators["adjoint"]["caution"]
    assert "caution" not in checked.estimators["replay-exact"]
    assert any(note.startswith(f"adjoint: {word}") for note in checked.notes())
    assert word in cli("verify", own_run, "--orders", 3, "--seed", 5, "--estimators", "adjoint", *CPU).out
    assert word in run.search(evaluations=3, verify=0).estimate.note
    with pytest.warns(FutWarning, match=word):
        remembered = run.memorize(items=[0], groups=2)
    assert word in remembered.note
    assert word in run.domains({"a": [0, 1], "b": [2, 3, 4]}).note


def test_a_forward_pass_in_bfloat16_is_noticed(tmp_path: Path) -> None:
    def halved(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = module(x)
        return nn.functional.cross_entropy(found.float(), y)

    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    data = pairs(2, 8, torch.float32)
    config = fut.load_config(data={"items": 6}, warmup={"steps": 0}, adjoint={"functionals": 0})
    for loss, warned in ((halved, True), (cross_entropy, False)):
        path = tmp_path / loss.__name__
        run = fut.train(path, config, module=module, loss=loss, data=fut.Dataset(data[:6], data[6:]), device="cpu")
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            run.cache(["adjoint", "reweighting"])
        assert any("its curvature is mostly rounding" in str(w.message) for w in heard) == warned
        for order, name in (("reverse", "adjoint"), ("without:2", "reweighting")):
            note = run.estimate([order], name)[0].note
            assert ("is mostly rounding" in note) == warned, (loss.__name__, name)
            assert ('products = "exact"' in note) == warned


def test_verify_calibrates_as_estimate_does(own_run: Path, monkeypatch: Any) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(6)
    drawn = [run.order(name) for name in ("swap:0,1", "move:1,2", "reverse", "random:3")]
    monkeypatch.setattr("fut.questions.accuracy.ask.fresh_orders", lambda *arguments: drawn)
    found = run.verify(4, 3, ["adjoint"])
    answers = run.estimate(found.orders, "adjoint")
    assert any("close to the reference order" in answer.note for answer in answers), "a share of the offset is in play"
    assert found.estimated_losses["adjoint"] == pytest.approx([answer.value for answer in answers], rel=1e-12)
    ends = [answer.interval for answer in answers]
    inside = [low <= true <= high for (low, high), true in zip(ends, found.true_losses, strict=True)]  # type: ignore[misc]
    assert found.estimators["adjoint"]["coverage"] == pytest.approx(np.mean(inside))


def test_few_orders_have_a_number_and_no_interval(own_run: Path, cli: Cli) -> None:
    values = list(np.arange(11.0))
    assert accuracy(values, values, 0.0).spearman == 1.0
    assert accuracy(values, values, 0.0).spearman_interval is None
    assert accuracy([*values, 11.0], [*values, 12.0], 0.0).spearman_interval == (1.0, 1.0)
    found = cli("verify", own_run, "--orders", 4, "--estimators", "adjoint", "--json", *CPU).json
    assert found["estimators"]["adjoint"]["orders"] == 4
    assert found["estimators"]["adjoint"]["spearman_interval"] is None
    assert "Spearman of 4 orders has no interval" in fut.open(own_run, device="cpu").verify(4).notes()[-1]


def test_info_knows_calibrations(own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run, device="cpu")
    assert run.info()["calibrations"] == []
    run.calibrate(4)
    run.calibrate(3, edit="swap")
    first, second = run.info()["calibrations"]
    assert (first["estimator"], first["kind"], first["orders"], first["holds"]) == ("adjoint", "swap", 3, True)
    assert (second["kind"], second["orders"], second["unit"]) == ("random", 4, "nats/token")
    assert "adjoint: calibrated on 4 random orders" in cli("info", own_run).out


def test_python_and_the_command_line_use_the_same_calibration_of_edits(own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(4)
    edits: tuple[Any, ...] = ("replace:1,3", run.reference.replace(1, 3), [0, 3, 2, 3, 4])
    assert all("`fut calibrate RUN --edit re" in answer.note for answer in run.estimate(edits, known=False))
    run.calibrate(3, edit="replace")
    answers = run.estimate(edits, known=False)
    assert ["each one `replace`" in answer.note for answer in answers] == [True] * 3
    assert len({answer.interval for answer in answers}) == 1
    said = cli("estimate", own_run, "--order", "0,3,2,3,4", "--no-known", "--json", *CPU).json
    assert tuple(said["interval"]) == answers[0].interval


@pytest.mark.parametrize(
    ("edit", "kinds"),
    [
        ("swap:0,3", ["swap"]),
        ("move:0,3", ["move"]),
        ("repeat:2,4", ["repeat", "replace"]),
        ("replace:1,3", ["repeat", "replace"]),
        ("without:2", ["without"]),
        ("without:1,2", []),
    ],
)
def test_an_edit_is_known_by_what_it_did(edit: str, kinds: list[str]) -> None:
    reference = Order.of(range(6))
    edited = Edit.of(edit).apply(reference, lambda order, key: order)
    assert edits_between(reference.canonical(), edited.canonical()) == kinds
    batches = Order.of([[0, 1], [2, 3], [4, 5]])
    assert edits_between(batches, batches.replace(1, 4).canonical()) == ["replace"]
    twice = Order.of([0, 1, 2, 0, 1, 2])
    assert edits_between(twice, twice.repeat(2, 4)) == ["repeat"]
    assert edits_between(twice, twice.without([2]).canonical()) == ["without"]
    assert edits_between(twice, Order.of([0, 1, 5, 0, 1, 2])) == [], "an item that the reference order does not hold"


def test_what_is_not_finite_ranks_last() -> None:
    values = [3.0, float("nan"), 1.0, float("-inf"), None, 2.0, float("inf")]
    assert ranked(values)[:3] == [2, 5, 0]
    assert ranked(values, maximize=True)[:3] == [0, 5, 2]
    assert (best(values), worst(values), best(values, maximize=True)) == (2, 0, 0)
    assert best([float("nan"), None]) == 0


def test_an_estimate_that_no_training_could_come_to_says_so(
    small_run: fut.Run, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of LoRA four steps after a cold start, 2 of 24 estimates were off by hundreds of nats/token (pretrained.json)."""
    from fut.methods.adjoint.estimator import Adjoint

    [sound] = small_run.estimate(["random:41"], "adjoint")
    assert "broken down" not in sound.note
    values = Adjoint.values
    monkeypatch.setattr(Adjoint, "values", lambda self, states, steps: [v + 700 for v in values(self, states, steps)])
    [broken] = small_run.estimate(["random:41"], "adjoint")
    assert "the estimate has broken down, do not use it; retrain the order" in broken.note
    assert "broken down" in cli("estimate", small_run.path, "--order", "random:41", "--estimator", "adjoint", *CPU).out


def test_nothing_is_fitted_to_estimates_that_have_broken_down(
    small_run: fut.Run, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor retrained for it; a comparison says how many there are."""
    from fut.estimation.plausible import BrokenDownError
    from fut.methods.adjoint.estimator import Adjoint

    values = Adjoint.values

    def one_in_two(self: Adjoint, states: Any, steps: int) -> list[float]:
        return [v + 700 * (i % 2) for i, v in enumerate(values(self, states, steps))]

    monkeypatch.setattr(Adjoint, "values", one_in_two)
    known = small_run.context.retrained.count()
    with pytest.raises(
        BrokenDownError, match=r"3 of 6 estimates have broken down.*steps before the window or a lower rate"
    ):
        small_run.calibrate(orders=6, seed=9, estimator="adjoint")
    assert small_run.context.retrained.count() == known
    said = cli("calibrate", small_run.path, "--orders", "6", "--seed", "9", "--estimator", "adjoint", *CPU)
    assert said.status == 1
    assert "have broken down" in said.err
    found = small_run.verify(4, 0, ["adjoint"])
    assert "2 of 4 estimates have broken down" in found.estimators["adjoint"]["caution"]
