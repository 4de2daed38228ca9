"""`trust`: three trained orders against formulas taken from the endpoints themselves, and what is said of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from small import MakeRun

import fut
from estimators.orders.order import shuffled_halves
from fut.errors import UsageError
from fut.estimation.interactions import HalvesTrained, Interaction, compared
from fut.questions.trust import render
from fut.questions.trust.ask import SEED, TrustRequest
from fut.questions.trust.expected import LEAST, POWER, SCALE, SPREAD, expected
from fut.questions.trust.result import OwnRuns, Trust


def test_effects_that_add_up_have_no_interaction_and_others_have_theirs() -> None:
    start, reference, a, b = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = compared(9, start, reference, reference + a, reference + b, reference + a + b)
    root = float((a @ a + b @ b).sqrt())
    assert sums.interaction == pytest.approx(0, abs=1e-12)
    assert sums.effect == pytest.approx(root / float((reference - start).norm()))
    lost = compared(9, start, reference, reference + a, reference + b, reference)
    assert lost.interaction == pytest.approx(float((a + b).norm()) / root)
    assert compared(9, start, start, start, start, start) == Interaction(9, 0.0, 0.0)


def test_four_ends_that_have_nothing_in_common_give_about_one() -> None:
    ends = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert compared(1, torch.zeros(20_000), *ends).interaction == pytest.approx(1, abs=0.02)


def test_the_answer_is_of_really_retrained_orders(small_run: fut.Run) -> None:
    found = small_run.trust(2)
    steps, context = small_run.steps, small_run.context
    assert found.gradients == 6 * context.config.consumed
    assert [one.step for one in found.over] == [steps // 4, steps // 2, 3 * steps // 4, steps]
    ratios = []
    for trial in range(2):
        halves = shuffled_halves(small_run.reference, SEED, trial)
        ends = [small_run.retrain(order) for order in halves]
        first, second, both = (end.theta.double() for end in ends)
        reference = context.state(steps).theta.double()
        effect = ((first - reference).square().sum() + (second - reference).square().sum()).sqrt()
        ratios.append(float((both - first - second + reference).norm() / effect))
        changes = [end.loss - small_run.reference_loss for end in ends]
        assert found.trials[trial].changes == pytest.approx(changes, rel=1e-12)
    assert found.over[-1].interaction == pytest.approx(math.sqrt(np.mean(np.square(ratios))), rel=1e-6)
    assert found.interaction == pytest.approx(found.over[-1].interaction * found.over[-1].effect)


def test_it_is_kept_and_read_again(small_run: fut.Run) -> None:
    found = small_run.trust()
    kept = [json.loads(path.read_text()) for path in Path(small_run.path, "answers").rglob("trust*.json")]
    assert kept
    assert Trust.from_dict(found.as_dict()).as_dict() == found.as_dict()
    assert "expect Spearman" in render.text(found)


def trusted(interaction: float, trials: int = 1, own: OwnRuns | None = None, first: float = 0.0, **more: Any) -> Trust:
    over = [Interaction(4, 1.0, first), Interaction(16, 1.0, interaction)]
    changes = more.get("changes", (1.0, 1.0, 2.0))
    return Trust([HalvesTrained(over, changes)] * trials, own, "adjoint", "probe", "nats/token", 3 * trials)


def test_the_more_interaction_the_less_is_expected_and_the_verdict_follows() -> None:
    guesses = [expected(of) for of in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 3.0)]
    values = [guess.spearman for guess in guesses]
    assert values == sorted(values, reverse=True)
    assert guesses[0] == expected(LEAST), "no more is promised than was measured"
    assert guesses[0].low < values[0] < 1
    assert all(guess.low <= guess.spearman <= guess.high <= 1 for guess in guesses)
    assert guesses[0].verdict == "smooth"
    assert guesses[-1].verdict == "do not trust"
    assert "replay-exact" in render.text(trusted(3.0))


def test_advice_says_where_it_arises() -> None:
    early, late = (render.text(trusted(0.5, first=first)) for first in (0.48, 0.2))
    assert ["more warm-up steps" in said for said in (early, late)] == [True, False]
    assert ["learning rate" in said for said in (early, late)] == [False, True]
    noisy = render.text(trusted(0.05, own=OwnRuns(0.8, 1.0)))
    assert "take more runs" in noisy
    assert "take more runs" not in render.text(trusted(0.05, own=OwnRuns(0.05, 1.0)))


def test_the_share_of_interactions_is_that_of_a_model_with_known_shares() -> None:
    """Main effects and pairwise interactions of random placements, of known variances; a thousand trials."""
    draw, steps, trials = np.random.default_rng(0), 12, 1000
    main, pairs = draw.normal(size=(steps, 40)), draw.normal(size=(steps, steps, 40, 40)) * 0.3
    places = np.arange(steps)

    def value(items: np.ndarray) -> float:
        pair = pairs[places[:, None], places[None], items[:, None], items[None]]
        return float(main[places, items].sum() + np.triu(pair, 1).sum())

    made = []
    for _ in range(trials):
        reference, other = draw.integers(40, size=(2, steps))
        half = np.isin(places, draw.permutation(steps)[: steps // 2])
        first, second = np.where(half, other, reference), np.where(half, reference, other)
        changes = tuple(value(items) - value(reference) for items in (first, second, other))
        made.append(HalvesTrained([Interaction(1, 1.0, 1.0)], changes))  # type: ignore[arg-type]
    found = Trust(made, None, "adjoint", "probe", "", 0)
    apart = np.array([value(draw.integers(40, size=steps)) for _ in range(20_000)]).var()
    second = 0.09 * steps * (steps - 1) / 2
    assert found.share is not None
    assert found.ceiling is not None
    assert found.share == pytest.approx(second / apart, rel=0.12)
    assert found.ceiling == pytest.approx(math.sqrt(1 - found.share))
    assert found.ceiling_interval is not None
    low, high = found.ceiling_interval
    assert low < found.ceiling < high < low + 0.1
    assert trusted(0.1, trials=3).share is None
    assert trusted(0.1, trials=3).ceiling_interval is None
    few = Trust(made[:8], None, "adjoint", "probe", "", 0).ceiling_interval
    assert few is not None
    assert few[1] - few[0] > 3 * (high - low)


def test_what_cannot_be_meant_is_refused(small_run: fut.Run) -> None:
    with pytest.raises(UsageError, match="expected at least 1 trial, got 0"):
        TrustRequest(trials=0)
    with pytest.raises(UsageError, match="whole number"):
        TrustRequest(trials=1.5)  # type: ignore[arg-type]


def test_the_law_is_the_records_and_the_record_ranks_settings_as_its_page_says() -> None:
    root = Path(fut.__file__).parents[1] / "benchmarks"
    rows = json.loads((root / "records" / "trust.json").read_text())["results"]
    beyond = [row["over"][-1]["interaction"] * row["over"][-1]["effect"] for row in rows]
    real = np.array([row["spearman"] for row in rows])
    lost = np.log(-np.log(real))
    power, constant = np.polyfit(np.log(beyond), lost, 1)
    left = lost - power * np.log(beyond) - constant
    assert min(beyond) == pytest.approx(LEAST, abs=1e-4)
    assert (pytest.approx(np.exp(constant), abs=0.01), pytest.approx(power, abs=0.005)) == (SCALE, POWER)
    assert pytest.approx(left.std(ddof=2), abs=0.005) == SPREAD
    assert spearmanr(beyond, -real).statistic == pytest.approx(0.90, abs=0.005)
    guesses = [expected(of) for of in beyond]
    inside = sum(guess.low <= true <= guess.high for guess, true in zip(guesses, real, strict=True))
    page = (root / "pages" / "trust.md").read_text()
    assert f"in {inside} of the {len(rows)}" in page
    for verdict in ("smooth", "usable", "rough", "do not trust"):
        of = sorted(true for guess, true in zip(guesses, real, strict=True) if guess.verdict == verdict)
        line = f"| {verdict} | {len(of)} |"
        assert (f"{line} {of[0]:.3f}, {of[len(of) // 2]:.3f}, {of[-1]:.3f} |" in page) if of else line not in page


def test_the_report_has_the_verdict_and_the_table(own_run: Path, tmp_path: Path) -> None:
    run = fut.open(own_run, device="cpu")
    run.report(tmp_path / "before.html", samples=0)
    assert "how smooth the window is" in (tmp_path / "before.html").read_text()
    found = run.trust()
    run.report(tmp_path / "after.html", samples=0)
    page = (tmp_path / "after.html").read_text()
    assert f"{found.expected.verdict}: expect Spearman" in page
    assert f"{found.over[-1].interaction:.3f}" in page


def test_a_method_that_there_is_not_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(UsageError, match="foo"):
        TrustRequest(estimator="foo")


def test_orders_that_change_nothing_are_no_smooth_window(make_run: MakeRun) -> None:
    run = make_run(cached=False, schedule={"kind": "constant", "rate": 1e-30})
    with pytest.raises(UsageError, match="got 3 that change nothing"):
        run.trust()


def test_a_half_that_changes_nothing_is_refused_before_anything_is_trained(make_run: MakeRun) -> None:
    """The reference order in place of a half would have no interaction with the other, and look smooth."""
    run = make_run(cached=False, data={"items": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run.context.problem), "canonical", lambda self, order: run.reference)
        with pytest.raises(UsageError, match="got a half whose order changes nothing"):
            run.trust()
    for seed in range(40):
        halves = shuffled_halves(run.reference, seed)
        assert run.reference not in halves[:2]
