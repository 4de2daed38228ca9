"""What the table and the searches of arXiv 2505.22042 are made of, and the page that shows them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import downstream
import numpy as np
import paper_search
import paper_table
import pytest
import simulators
import torch
from documents import ROOT
from torch import Tensor, nn
from torch.nn.functional import log_softmax

import fut
from estimators.orders.order import random_orders
from fut.methods.batching import raw_estimates

PAGE = (ROOT / "benchmarks" / "pages" / "paper-table.md").read_text(encoding="utf-8")
TABLES = {
    "paper-table": paper_table.table,
    "paper-search": paper_search.table_of,
    "simulators": simulators.table,
    "downstream": downstream.table,
}


@pytest.fixture
def run(own_run: Path) -> fut.Run:
    return fut.open(own_run)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_tables_of_its_records(name: str) -> None:
    rows = json.loads((ROOT / "benchmarks" / "records" / f"{name}.json").read_text(encoding="utf-8"))["results"]
    lines = [line for line in TABLES[name](rows).splitlines() if line]
    assert len(lines) > 3
    assert not [line for line in lines if line not in PAGE.splitlines()]


def test_columns_are_those_of_their_methods_though_a_record_sorts_its_names() -> None:
    row: dict[str, Any] = {"steps": 8, "batch": 4, "seed": 0, "reference_perplexity": 9.0, "true_sd_perplexity": 0.5}
    row["reference"] = {"absdiff": 0.4, "standard_error": 0.1}
    found = {"adjoint": 0.1, "taylor1": 0.2, "taylor2": 0.3}
    row["methods"] = {n: {"absdiff": v, "standard_error": 0.0, "spearman": v} for n, v in found.items()}
    row["true_losses"] = [1.0 + 0.1 * place for place in range(12)]
    for of in row["methods"].values():
        of["estimated_losses"] = row["true_losses"]
    line = paper_table.table([row]).splitlines()[2]
    assert line.endswith("| 0.2000 ± 0.0000 / 0.20 | 0.3000 ± 0.0000 / 0.30 | 0.1000 ± 0.0000 / 0.10 |")


def test_a_calibration_takes_a_line_away_and_is_judged_on_other_orders() -> None:
    draw = np.random.default_rng(0)
    true = 2 + 0.01 * draw.standard_normal(24)
    assert paper_table.calibrated(true, 5 + 0.3 * true) == pytest.approx(0, abs=1e-6)
    noise = paper_table.calibrated(true, true + 0.003 * draw.standard_normal(24))
    mean = paper_table.calibrated(true, np.zeros(24))
    assert 0 < noise < 0.5 * mean
    spread = np.exp(2) * 0.01 * np.sqrt(2 / np.pi)  # of a normal law, about the truth's mean
    assert mean == pytest.approx(spread * np.sqrt(1 + 1 / 8), rel=0.25)
    assert np.isnan(paper_table.calibrated(true, [None, *true[1:]]))


@pytest.mark.parametrize("name", paper_table.METHODS)
def test_absdiff_is_the_mean_error_in_perplexity(run: fut.Run, name: str) -> None:
    orders = random_orders(run.reference, 6, 3)
    truths = [run.retrain(order).loss for order in orders]
    found = paper_table.judged(run, name, orders, truths)
    estimated = [raw_estimates(run.methods.open(name), [order])[0][0] for order in orders]
    errors = [abs(math.exp(a) - math.exp(b)) for a, b in zip(estimated, truths, strict=True)]
    mean = sum(errors) / 6
    assert found["absdiff"] == pytest.approx(mean, rel=1e-3, abs=1e-6)
    variance = sum((error - mean) ** 2 for error in errors) / 5
    assert found["standard_error"] == pytest.approx(math.sqrt(variance / 6), rel=1e-3, abs=1e-6)
    base = paper_table.baseline(truths, run.reference_loss)
    assert base["absdiff"] == pytest.approx(sum(abs(math.exp(t) - math.exp(run.reference_loss)) for t in truths) / 6)
    assert found["better_than_baseline"]["absdiff"] == pytest.approx(base["absdiff"] - mean, rel=1e-3, abs=1e-6)


def test_an_estimate_that_is_not_finite_has_no_standard_error(run: fut.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = random_orders(run.reference, 4, 3)
    truths = [run.retrain(order).loss for order in orders]
    monkeypatch.setattr(paper_table, "raw_estimates", lambda *_: ([2.0, float("nan"), 2.1, 1e6], []))
    found = paper_table.judged(run, "adjoint", orders, truths)
    assert (found["diverged"], found["standard_error"]) == (2, None)
    assert found["estimated_losses"][1] is None
    assert math.isfinite(found["absdiff"])


def test_every_search_keeps_to_the_budget_and_is_retrained(run: fut.Run) -> None:
    table, spent = run.orders.positions(), {}
    for method, name in paper_search.SEARCHES:
        found = paper_search.searched(run, method, name, table, 20)
        order = fut.Order.of(found["order"])
        assert sorted(found["order"]) == list(range(run.items))
        assert found["retrained_loss"] == run.retrain(order).loss
        again = raw_estimates(run.methods.open(name), [order])[0][0]
        assert found["estimated_loss"] == pytest.approx(again, rel=1e-6)
        spent[method, name] = found["evaluations"]
    assert spent.pop(("assignment", "adjoint")) == 1
    assert set(spent.values()) == {20}


def test_the_random_search_takes_the_least_estimate(run: fut.Run) -> None:
    found = paper_search.searched(run, "random", "adjoint", run.orders.positions(), 20)
    orders = random_orders(run.reference, 20, paper_search.DRAW)
    guesses = raw_estimates(run.methods.open("adjoint"), orders)[0]
    assert found["estimated_loss"] == pytest.approx(min(guesses))
    assert found["order"] == orders[int(np.argmin(guesses))].tolist()


class Bigrams(nn.Module):
    """Logits of the next token from the last."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)))

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


def test_margin_probability_and_accuracy_are_those_of_a_loop() -> None:
    rows = torch.randint(5, (7, 6), generator=torch.Generator().manual_seed(1))
    questions, module = downstream.Questions.of(rows, 3, 2), Bigrams()
    margins, shares, hits = [], [], []
    for place, row in enumerate(rows):
        losses = []
        for shift in range(3):
            text = [*row[:4].tolist(), *rows[(place - shift) % 7, 4:].tolist()]
            chances = log_softmax(module.table.detach(), -1)
            losses.append(-(chances[text[3], text[4]] + chances[text[4], text[5]]).item() / 2)
        margins.append(min(losses[1:]) - losses[0])
        likelihoods = [math.exp(-2 * loss) for loss in losses]
        shares.append(likelihoods[0] / sum(likelihoods))
        hits.append(losses[0] <= min(losses[1:]))
    assert questions.margin(module).item() == pytest.approx(np.mean(margins), abs=1e-6)
    assert questions.probability(module).item() == pytest.approx(np.mean(shares), abs=1e-6)
    assert questions.accuracy(module).item() == pytest.approx(np.mean(hits))
    assert 0 < np.mean(hits) < 1


def test_accuracy_is_refused_by_the_adjoint_and_answered_by_an_exact_replay(own_run: Path) -> None:
    rows = torch.randint(256, (9, 12), generator=torch.Generator().manual_seed(1))
    named: dict[str, Any] = downstream.readouts({"mine": downstream.Questions.of(rows, 3, 4)})
    run = fut.open(own_run, readouts=named)
    run.cache(readouts=["mine-margin", "mine-probability"])
    found = downstream.judged(run, random_orders(run.reference, 3, 1), "mine", 9)
    assert "differentiable" in found["refusal"]
    assert "replay-exact" in found["refusal"]
    assert found["accuracy"]["by"] == "replay-exact"
    for kind in downstream.SMOOTH:
        errors = np.abs(np.subtract(found[kind]["true"], found[kind]["estimated"]))
        assert errors.max() < 0.3 * np.abs(np.subtract(found[kind]["true"], found[kind]["reference"])).max()
