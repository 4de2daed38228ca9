"""`fut search` on a run: what is reported is what retraining gives, and the judge did not take part in the search."""

from __future__ import annotations

import json
import runpy
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from small import Cli, MakeRun

import fut
from estimators.adjoint import independent_halves
from estimators.errors import OrderError
from estimators.orders.order import Order, random_orders
from fut.artifacts.archive import RunArchive
from fut.errors import NotCachedError, UsageError
from fut.methods.batching import raw_estimates
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.result import Curriculum

ROOT = Path(fut.__file__).parents[1]


def test_what_is_found_is_really_retrained_beside_the_others(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(6)
    found = run.search(evaluations=60, verify=5, seed=3, finalists=2)
    order = Order.of(found.order)
    assert sorted(found.order) == list(range(run.items))
    assert found.truths.retrained_loss == run.retrain(order).loss
    assert found.truths.random_losses == [run.retrain(o).loss for o in random_orders(run.reference, 5, 3)]
    named = run.orders.named()
    assert found.truths.heuristics == {name: run.retrain(o).loss for name, o in named.items()}
    assert {"identity", "reverse"} < set(named)
    assert found.truths.retrained_loss == min(f["retrained_loss"] for f in found.truths.finalists)
    assert found.truths.retrained_loss < min(found.truths.random_losses)
    assert found.estimate.estimated_loss == pytest.approx(run.estimate([order], known=False)[0].value)
    assert found.estimate.interval == pytest.approx(run.estimate([order], known=False)[0].interval)
    again = raw_estimates(run.methods.open("replay-exact"), [order])[0][0]
    assert (found.estimate.reevaluated_by, found.estimate.reevaluated_loss) == ("replay-exact", again)
    assert found.search.evaluations <= 60
    assert found.cost.retrain_seconds is not None
    (kept,) = RunArchive(own_run, run.context.owner).read("search")
    assert kept == json.loads(json.dumps(found.as_dict()))
    assert Curriculum.from_dict(kept).as_dict() == kept
    repeated = run.search(evaluations=60, verify=5, seed=3, finalists=2)
    assert repeated.as_dict() | {"seconds": found.search.seconds} == found.as_dict(), "nothing is trained twice"
    assert len(list((own_run / "answers").glob("search-*.json"))) == 1


def test_an_estimate_outside_the_calibrated_range_says_so(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    bare = run.search(evaluations=30, verify=0)
    assert bare.estimate.interval is None
    assert "not calibrated on this run" in bare.estimate.note
    assert bare.truths.retrained_loss is None
    assert not (own_run / "retrained").exists(), "verify=0 retrains nothing"
    run.calibrate(4)
    found = run.search(evaluations=30, verify=0)
    assert found.estimate.interval is not None
    assert "outside the range of those that the interval was fitted to" in found.estimate.note
    assert "trust the retrained figure" in found.estimate.note


def test_constraints_hold_for_everything_that_is_retrained(small_run: fut.Run) -> None:
    within = Constraints.of(prefix=[2], precedence=[[4, 0]])
    found = small_run.search(evaluations=24, verify=3, constraints=within, heuristics=["reverse"], seed=1)
    assert found.search.evaluations <= 12
    orders = [found.order, *(f["order"] for f in found.truths.finalists)]
    assert all(o[0] == 2 and o.index(4) < o.index(0) for o in orders)
    repaired = small_run.retrain([2, 4, 3, 1, 0]).loss
    assert found.truths.heuristics == {"reverse": repaired}, "a named order is brought within the constraints"
    assert found.search.constraints == within.as_dict()


def test_items_of_a_step_and_several_epochs_are_arranged(make_run: MakeRun) -> None:
    run = make_run(data={"items": 6, "per_step": 2, "batch": 1, "epochs": 2})
    found = run.search(evaluations=50, verify=2, heuristics=["reverse"])
    assert sorted(i for step in found.order for i in step) == sorted([*range(6), *range(6)])
    assert all(len(step) == 2 for step in found.order)
    assert found.truths.retrained_loss == run.retrain(found.order).loss
    with pytest.raises(OrderError, match="got 1, which it holds 2 times"):
        run.search(evaluations=5, constraints=Constraints.of(prefix=[1]))


def test_the_search_does_without_an_expansion(make_run: MakeRun) -> None:
    run = make_run(cached=False, rule={"name": "sgd", "options": {}}, data={"items": 4})
    run.cache(["gradient", "norm"])
    found = run.search(evaluations=30, estimator="replay", verify=0)
    assert found.estimator == "replay"
    assert found.search.evaluations == 24, "every order there is"
    values = raw_estimates(run.methods.open("replay"), [Order.of(p) for p in permutations(range(4))])[0]
    assert found.search.history[-1][1] == min(values)
    with pytest.raises(NotCachedError, match="expected a table of positions for the method `assignment`"):
        run.search(method="assignment", estimator="replay")


def test_another_read_out_may_be_sought_and_maximized(make_run: MakeRun) -> None:
    run = make_run(adjoint={"readouts": ["probe", "accuracy"]})
    found = run.search(evaluations=40, readout="accuracy", maximize=True, verify=3, heuristics=["reverse"])
    asked = run.context.readouts.get("accuracy")
    assert found.truths.retrained_loss == run.context.readouts.truth(asked, run.retrain(found.order))
    assert found.truths.best_random_loss == max(found.truths.random_losses)
    assert found.as_dict()["perplexity"] is None
    least = run.search(evaluations=40, readout="accuracy", verify=0)
    assert least.search.history[-1][1] < run.context.readouts.at_reference(asked) < found.search.history[-1][1]


def test_other_read_outs_of_the_retrained_orders_are_told(small_run: fut.Run, cli: Cli) -> None:
    found = small_run.search(evaluations=10, verify=2, heuristics=[], also=["item:2", "accuracy"])
    for name in ("item:2", "accuracy"):
        asked, told = small_run.context.readouts.get(name), found.truths.also[name]
        assert told["found"] == small_run.context.readouts.truth(asked, small_run.retrain(found.order))
        assert told["reference"] == small_run.context.readouts.at_reference(asked)
        randoms = [small_run.retrain(o) for o in random_orders(small_run.reference, 2, 0)]
        assert told["random"] == [small_run.context.readouts.truth(asked, r) for r in randoms]
    assert found.truths.also["accuracy"]["unit"] != "nats/token"
    assert {row.get("read-out") for row in found.rows()} == {None, "item:2", "accuracy"}
    asked_for = ["--evaluations", 10, "--verify", 2, "--heuristics", "none", "--also", "item:2"]
    assert "item:2, which was not sought: found " in cli("search", small_run.path, *asked_for).out


def test_a_search_begins_where_it_is_told(small_run: fut.Run) -> None:
    start = small_run.order("reverse").replace(0, 1)
    found = small_run.search(evaluations=3, start=start, method="genetic", verify=2)
    assert sorted(found.order) == [1, 1, 2, 3, 4], "it arranges the start's items"
    assert found.search.start == start.tolist()
    assert found.search.history[0][1] == pytest.approx(raw_estimates(small_run.methods.open("adjoint"), [start])[0][0])
    assert found.truths.heuristics == {}, "named orders hold other items"
    with pytest.raises(UsageError, match="hold the start's items in steps of the same lengths, got identity"):
        small_run.search(evaluations=3, start=start, verify=2, heuristics=["identity"])


# --- a sample of coordinates


def test_halves_are_independent_poisson_samples() -> None:
    draws, p = 4000, torch.tensor([1.0, 0.9, 0.5, 0.1, 0.02], dtype=torch.float64)
    kept = torch.rand(draws, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) < p
    held = torch.zeros(2, draws, 5, dtype=torch.float64)
    for i in range(draws):
        first, second, either = independent_halves(p[kept[i]], seed=i)
        assert bool((first | second).all()), "nothing is lost"
        held[0, i, kept[i]], held[1, i, kept[i]] = first.double(), second.double()
    either = independent_halves(p, 0)[2]
    assert either[0] == 1.0
    for half in held:
        assert torch.allclose(half.mean(0), either, atol=4 * 0.5 / draws**0.5)
    both = (held[0] * held[1]).mean(0)
    assert torch.allclose(both, either.square(), atol=4 * 0.5 / draws**0.5)


def test_where_coordinates_are_sampled_the_other_half_judges(make_run: MakeRun) -> None:
    run = make_run(adjoint={"coordinates": 300, "seed": 3})
    order = [run.order("reverse"), *random_orders(run.reference, 15, 0)]
    whole, first, second = (run.methods.open("adjoint", **o) for o in ({}, {"sample": "first"}, {"sample": "second"}))
    values = [raw_estimates(e, order) for e in (whole, first, second)]
    assert len({v[0][0] for v in values}) == 3
    known = [np.mean(variances) for _, variances in values]  # each is known from a few sums with random signs alone
    assert min(known[1:]) > known[0] > 0, "a half knows less"
    for found, _ in values[1:]:
        assert np.mean(np.subtract(found, values[0][0]) ** 2) < 5 * (known[0] + max(known[1:]))
    reference = raw_estimates(first, [run.reference])[0][0]
    assert reference == run.reference_loss
    best = run.search(evaluations=40, verify=0)
    searched, judged = (raw_estimates(e, [Order.of(best.order)])[0][0] for e in (first, second))
    assert best.search.history[-1][1] == searched
    assert best.estimate.estimated_loss == judged != searched
    assert "half of the sampled coordinates that the search did not ask" in best.estimate.note
    assert "its sampling error over coordinates alone" in best.estimate.note


def test_a_half_of_everything_is_everything(small_run: fut.Run) -> None:
    orders = random_orders(small_run.reference, 3, 0)
    whole, half = (small_run.methods.open("adjoint", **o) for o in ({}, {"sample": "first"}))
    assert raw_estimates(whole, orders) == raw_estimates(half, orders)
    with pytest.raises(UsageError, match="expected one of first, second, got `third`"):
        small_run.methods.open("adjoint", sample="third")


# --- the command line


def test_the_command_answers_in_json_and_in_text(cli: Cli, own_run: Path) -> None:
    said = cli("search", own_run, "--evaluations", 40, "--verify", 2, "--heuristics", "reverse", "--json")
    assert said.status == 0, said.err
    wanted = {"order", "estimated_loss", "interval", "retrained_loss", "best_random_loss", "mean_random_loss"}
    wanted |= {
        "heuristics",
        "evaluations",
        "seconds",
        "history",
        "method",
        "seed",
        "reevaluated_loss",
        "gain",
        "question",
    }
    assert wanted <= set(said.json)
    assert said.err == ""
    text = cli("search", own_run, "--budget", 0.2, "--verify", 2, "--heuristics", "none", "--before", "4,0")
    assert text.status == 0, text.err
    assert "at most 6 orders" in text.err
    assert "best of 2 random orders" in text.out
    assert "re-evaluated by replay-exact" in text.out
    bare = cli("search", own_run, "--evaluations", 5, "--verify", 0, "--block", "0,3", "--block", "1,2")
    assert "nothing was retrained" in bare.out
    assert bare.err == ""


BAD = {
    "budget": (["--budget", "0"], "a budget of more than 0 seconds, got 0"),
    "evaluations": (["--evaluations", "0"], "at least 1 for --evaluations, got 0"),
    "verify": (["--verify", "-1"], "0 or more for --verify, got -1"),
    "method": (["--method", "annealing"], "one of local, genetic, assignment, got `annealing`"),
    "items": (["--prefix", "a,b"], "--prefix: expected item numbers like 3,1,2, got `a,b`"),
    "pair": (["--before", "1"], r"two items, the earlier first, got [1]"),
    "circle": (["--before", "0,1", "--before", "1,0"], "a circle, 1 before 0 before 1"),
    "unknown item": (["--suffix", "9"], "got 9, which it holds 0 times"),
    "estimator": (["--estimator", "retrain"], "an estimator that tells orders apart without training, got `retrain`"),
    "in place": (["--estimator", "reweighting"], "search: expected estimators of orders that move items"),
    "start": (["--start", "drop:1"], "expected a start order of 5 steps, the length of the window, got 4"),
    "weights": (["--start", "without:1"], "a start order without weights"),
    "read-out": (["--readout", "item:3"], "got one for probe"),
    "also": (["--also", "item:2", "--verify", "0"], "expected --verify 1 or more with --also, got 0"),
    "heuristic": (["--heuristics", "sideways"], "or one of identity, reverse"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained(cli: Cli, small_run: fut.Run, case: str) -> None:
    arguments, message = BAD[case]
    said = cli("search", small_run.path, *arguments)
    assert said.status in (1, 2)
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_store_without_the_terms_names_the_command(make_run: MakeRun) -> None:
    run = make_run(cached=False)
    with pytest.raises(NotCachedError, match=r"run `fut cache RUN --terms adjoint` .* first"):
        run.search(evaluations=5)


def test_the_script_writes_an_order_that_can_be_used(
    own_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main = runpy.run_path(str(ROOT / "scripts" / "curriculum_search.py"))["main"]
    assert main([str(own_run), "--evaluations", "60", "--verify", "2"]) == 0
    said = capsys.readouterr()
    (tmp_path / "order.json").write_text(said.out)
    run = fut.open(own_run, device="cpu")
    loss = run.estimate([tmp_path / "order.json"])[0]
    assert loss.source == "retrained"
    assert f"retrained {loss.value:.5f} nats/token" in said.err
    assert np.isfinite(loss.value)
