"""Domain orders: labels and blocks on plain orders, answers of an `estimate(orders)` callable, and questions to a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from runs import shared
from small import Cli, MakeRun, small_config

import fut
from estimators.orders.distance import Distance
from estimators.orders.order import Order
from fut.api.questions import question_context
from fut.data.labels import checked_labels, quantile_labels
from fut.errors import UsageError
from fut.estimation.facts import ContextFacts
from fut.orders.scores import Difficulty
from fut.questions.domains.ask import labels_of
from fut.questions.domains.blocks import arrangements, domain_order, placed_block, placements
from fut.questions.domains.estimates import DomainEstimates
from fut.questions.domains.result import Answer, Domains, Entry, asked_orders, compare, difference, domains
from fut.questions.outliers import outlier_note
from storage import read_json

LABELS = {"web": [0, 3], "books": [1, 4, 5], "code": [2]}
REFERENCE = Order.of(range(6))


def loss_of(order: Order) -> float:
    return sum((step + 1) * item**2 for step, (item,) in enumerate(order.steps))


def estimate(orders: Sequence[Order]) -> list[Answer]:
    """Off by a half, with an interval that holds the truth."""
    reference = loss_of(REFERENCE)
    found = [loss_of(o) + 0.5 * (o != REFERENCE) for o in orders]
    return [Answer(value, value - reference, (value - 1, value + 1), "made") for value in found]


def test_labels_as_a_mapping_or_a_list() -> None:
    assert checked_labels(LABELS, 6) == LABELS
    assert checked_labels(["web", "books", "code", "web", "books", "books"], 6) == LABELS
    assert list(checked_labels({"b": [1], "a": [0]}, 2)) == ["b", "a"], "labels keep their order"
    assert checked_labels([1, 1, 2], 3) == {"1": [0, 1], "2": [2]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": [0, 6], "b": [1]}, r"expected items 0\.\.5, got 6 under `a`"),
        ({"a": [0, -1], "b": [1]}, "got -1 under `a`"),
        ({"a": [0, True]}, "got True under `a`"),
        ({"a": [0, 1], "b": [1]}, "got item 1 under `a` and `b`"),
        ({"a": [0, 0], "b": [1]}, "got item 0 under `a` and `a`"),
        ({"a": [0, 1], "b": [2]}, "got none for item 3, 4, 5; add them"),
        ({"a": list(range(6))}, "expected at least two labels, got `a` alone"),
        ({"a": 3}, "expected a list of items under `a`, got 3"),
        (["a"] * 5, "expected one label for each of 6 items, got 5"),
        (7, "got int"),
    ],
)
def test_labels_that_are_no_partition_are_refused(given: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked_labels(given, 6)


def test_labels_by_score_are_even_parts_from_low_to_high() -> None:
    assert quantile_labels("loss", [3, 1, 2, 5, 4, 6, 7], 3) == {
        "loss-low": [0, 1, 2],
        "loss-middle": [3, 4],
        "loss-high": [5, 6],
    }
    assert list(quantile_labels("length", [3, 1, 2, 5], 4)) == [
        "length-1of4",
        "length-2of4",
        "length-3of4",
        "length-4of4",
    ]
    with pytest.raises(UsageError, match="expected 2 to 3 parts of loss, got 4"):
        quantile_labels("loss", [1, 2, 3], 4)
    with pytest.raises(UsageError, match="items that differ in length, got 5 for all"):
        quantile_labels("length", [5, 5, 5], 2)


def test_a_domain_order_keeps_each_domains_sequence_and_the_steps_lengths() -> None:
    assert domain_order(REFERENCE, LABELS, ["code", "web", "books"]).tolist() == [2, 0, 3, 1, 4, 5]
    batches = Order.of([[5, 4], [3, 2], [1, 0]])
    assert domain_order(batches, LABELS, ["web", "code", "books"]).tolist() == [[3, 0], [2, 5], [4, 1]]
    twice = Order.of([0, 1, 2, 0, 1, 2])
    assert domain_order(twice, {"a": [1], "b": [0, 2]}, ["a", "b"]).tolist() == [1, 1, 0, 2, 0, 2]
    for wrong in (["web", "books"], ["web", "books", "code", "code"], ["web", "books", "x"]):
        with pytest.raises(UsageError, match="expected every label once"):
            domain_order(REFERENCE, LABELS, wrong)


def test_a_block_moves_among_all_others() -> None:
    assert placed_block(REFERENCE, [1, 4], 0).tolist() == [1, 4, 0, 2, 3, 5]
    assert placed_block(REFERENCE, [1, 4], 2).tolist() == [0, 2, 1, 4, 3, 5]
    assert placed_block(REFERENCE, [4, 1], 4).tolist() == [0, 2, 3, 5, 1, 4]


def test_all_orders_of_a_few_labels_and_a_sample_of_many() -> None:
    assert len(set(arrangements("abcd", 24, 0))) == 24
    found = arrangements("abcde", 24, 0)
    assert found[:2] == [tuple("abcde"), tuple("edcba")]
    assert len(set(found)) == 24
    assert arrangements("abcde", 24, 0) == found != arrangements("abcde", 24, 1)


def test_every_question_is_asked_in_its_place() -> None:
    truths = {domain_order(REFERENCE, LABELS, ["code", "web", "books"]): 100.0}
    asked: list[int] = []

    def far(orders: Sequence[Order]) -> list[Answer]:
        asked.append(len(orders))
        return estimate(orders)

    sequences = [("web", "books", "code"), ("code", "web", "books")]
    arranged = [(sequence, domain_order(REFERENCE, LABELS, sequence)) for sequence in sequences]
    entries, placed = domains(far, estimate, truths.get, arranged, placements(REFERENCE, LABELS, [2], 3))
    assert asked == [2 + 9], "one call for all orders that move domains"
    assert [e.name for e in entries] == ["web>books>code", "code>web>books"]
    assert entries[1].order == [2, 0, 3, 1, 4, 5]
    assert entries[1].value == loss_of(Order.of([2, 0, 3, 1, 4, 5])) + 0.5
    assert [e.truth for e in entries] == [None, 100.0]
    assert [(p.name, p.kind, p.places) for p in placed] == [
        ("web", "domain", [0, 2, 4]),
        ("books", "domain", [0, 2, 3]),
        ("code", "domain", [0, 2, 5]),
        ("item 2", "item", [0, 1, 2, 3, 4, 5]),
    ]
    assert placed[0].answers[2].order == [1, 2, 4, 5, 0, 3]
    assert placed[3].answers[2].delta == 0
    late, early = placed[1].answers[-1], placed[1].answers[0]
    assert placed[1].late_minus_early.delta == late.value - early.value
    assert placed[1].late_minus_early.interval == pytest.approx(
        (late.value - early.value - 2**0.5, late.value - early.value + 2**0.5)
    )


def entry(loss: float, interval: tuple[float, float] | None = None, truth: float | None = None) -> Entry:
    return Entry("x", [], [int(loss)], loss, loss - 1.0, interval, "", truth)


def test_a_difference_needs_both_intervals_and_both_truths() -> None:
    found = difference(entry(3.0, (2.0, 4.0), 3.5), entry(2.0, (1.0, 2.5), 2.0))
    assert found.delta == 1.0
    assert found.interval == pytest.approx((1.25 - np.hypot(1, 0.75), 1.25 + np.hypot(1, 0.75)))
    assert found.truth == 1.5
    assert difference(entry(3.0, None, 3.5), entry(2.0, (1.0, 2.5))) == type(found)(1.0, None, None)


def test_the_comparison_counts_every_retrained_order_once() -> None:
    known = [entry(v, (v - 1, v + 1), v + 0.1) for v in (2.0, 3.0, 5.0)]
    seen = entry(7.0, None, 9.0)
    found = compare([*known, known[0], entry(4.0), entry(1.0, None, 1.0), seen], 1.0, lambda o: o.steps == ((7,),))
    assert found is not None
    assert found["count"] == 3
    assert found["measures"]["mae"] == pytest.approx(0.1)
    assert found["measures"]["coverage"] == 1
    assert compare(known[:2], 1.0) is None


@pytest.fixture
def asked(make_run: MakeRun, tmp_path: Path) -> fut.Run:
    run = make_run(cached=False, data={"items": 6})
    run.cache(["adjoint"])
    kept = shutil.ignore_patterns("retrained", "calibration", "answers")
    return fut.open(shutil.copytree(run.path, tmp_path / "own", ignore=kept), device="cpu")


def test_a_run_answers_about_its_domains(asked: fut.Run, tmp_path: Path) -> None:
    plain = asked.domains(LABELS, items=[1])
    assert all(e.interval is None for e in plain.orders if e.delta)
    assert "fut calibrate RUN" in plain.note
    assert plain.checked is None
    own = next(p for p in plain.placements if p.kind == "item").answers[1]
    assert (own.delta, own.truth) == (0.0, asked.reference_loss)
    assert plain.orders[0].value == asked.estimate([plain.orders[0].order], "adjoint")[0].value
    asked.calibrate(4)
    found = asked.domains(LABELS, items=[1], verify=6, seed=1)
    assert found.checked is not None
    assert found.checked["count"] == 9, "six that move domains, three that move the item"
    known = [e for e in found.orders if e.truth is not None]
    for e in known:
        assert e.truth == asked.retrain(e.order).loss
    assert all(e.interval for e in found.orders)
    assert found.best.value <= found.worst.value
    (path,) = (asked.path / "answers").glob("domains-*.json")
    assert Domains.from_dict(read_json(path)).as_dict() == found.as_dict()
    assert found.as_dict()["question"] == "domains"
    assert "books&gt;code&gt;web" in found._repr_html_()
    assert {row["kind"] for row in found.rows()} == {"order", "domain", "item"}


def test_domain_orders_are_fitted_to_a_few_of_themselves(asked: fut.Run) -> None:
    plain = asked.domains(LABELS, places=4)
    asked.calibrate(4)
    assert "random orders are what it was calibrated on" in asked.domains(LABELS, places=4).note
    found = asked.domains(LABELS, places=4, calibrate=6, verify=100, seed=2)
    assert found.note == "calibrated on 6 retrained orders of domains; interval of level 0.9"
    entries = {str(e.order): e for e in (*found.orders, *(a for p in found.placements for a in p.answers))}
    own = entries.pop(str(asked.reference.tolist()))
    assert (own.delta, own.interval, own.truth) == (0.0, (own.value, own.value), asked.reference_loss)
    assert found.checked is not None
    assert found.checked["count"] == len(entries) - 6, "all others are compared, and none that was fitted to"
    raw = {str(e.order): e for e in (*plain.orders, *(a for p in plain.placements for a in p.answers))}
    pairs = sorted((raw[key].value, entries[key].value) for key in entries)
    slopes = np.diff([b for _, b in pairs]) / np.diff([a for a, _ in pairs])
    assert slopes == pytest.approx(np.full(len(slopes), slopes[0]), rel=1e-3), "one affine map of the plain estimates"
    widths = [e.interval[1] - e.interval[0] for e in entries.values() if e.interval]
    assert len(widths) == len(entries)


def test_one_items_curve_has_little_of_the_shift_that_random_orders_taught(asked: fut.Run) -> None:
    def curve() -> list[Entry]:
        found = asked.domains(LABELS, items=[1]).placements[-1]
        assert found.kind == "item"
        return found.answers

    plain = curve()
    fit, reference, distance = asked.calibrate(4).fit, asked.reference_loss, Distance(asked.reference)
    wide, shift = curve(), fit.correct(reference) - reference
    assert fit.slope == 1.0, "of four orders"
    for a, b in zip(wide, plain, strict=True):
        share = distance.share(asked.order(a.order))
        assert a.value == pytest.approx(b.value + share * shift, rel=1e-12)
        assert a.interval == pytest.approx(fit.nearer(reference, share).interval(b.value), rel=1e-12)
    assert "--edit move" in wide[0].note
    asked.calibrate(8, edit="move")
    narrow = curve()
    assert "one `move` away" in narrow[0].note
    assert [a.value for a in narrow] != [b.value for b in wide]


def test_an_outlier_is_warned_of(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(cached=False, data={"items": 6})
    assert outlier_note(ContextFacts(run.context), range(6), "adjoint") == "", (
        "at the start of training every text is as odd as any other"
    )
    monkeypatch.setattr(
        "fut.estimation.facts.difficulty", lambda *_: Difficulty("gradient-norm", "", [1, 1, 1, 1, 9, 1])
    )
    assert "the gradient of item 4 is up to 9.0 times the median item's" in outlier_note(
        ContextFacts(run.context), [4, 0], "adjoint"
    )
    assert outlier_note(ContextFacts(run.context), [0, 1], "adjoint") == ""
    assert (
        outlier_note(ContextFacts(run.context), [], "adjoint")
        == outlier_note(ContextFacts(run.context), [4], "replay-exact")
        == ""
    )


def test_items_are_labelled_by_what_the_run_says_of_them(asked: fut.Run, tmp_path: Path) -> None:
    scores = asked.orders.difficulty("loss").scores
    found = labels_of(ContextFacts(asked.context), "loss:2")
    assert max(scores[i] for i in found["loss-low"]) <= min(scores[i] for i in found["loss-high"])
    assert list(labels_of(ContextFacts(asked.context), "perplexity-drop")) == [
        f"perplexity-drop-{w}" for w in ("low", "middle", "high")
    ]
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(LABELS))
    assert labels_of(ContextFacts(asked.context), file) == LABELS
    file.write_text("[")
    with pytest.raises(UsageError, match="expected JSON"):
        labels_of(ContextFacts(asked.context), str(file))
    with pytest.raises(UsageError, match="expected a readable JSON file or one of source, length:3"):
        labels_of(ContextFacts(asked.context), "nowhere.json")
    with pytest.raises(UsageError, match="expected a number of parts, got `loss:x`"):
        labels_of(ContextFacts(asked.context), "loss:x")
    with pytest.raises(UsageError, match="differ in length"):
        labels_of(ContextFacts(asked.context), "length:2")


def library(folder: Path) -> Path:
    """Two files, one after the other, of which the first fills a little less than the first half."""
    folder.mkdir()
    (folder / "a.txt").write_text("".join(f"A tale of {i * i} sailors. " for i in range(120)))
    (folder / "b.txt").write_text("".join(f"Zahlen: {i * 37 % 101}, {i}! " for i in range(200)))
    return folder


def test_items_of_a_text_directory_know_their_file(tmp_path: Path) -> None:
    text = library(tmp_path / "library")
    data = {"text": str(text), "heterogeneous": True, "items": 6}
    run = shared(tmp_path / "run", small_config(data=data), cached=False)
    found = labels_of(ContextFacts(run.context), "source")
    assert list(found) == ["a.txt", "b.txt"]
    texts = {name: (text / name).read_text() for name in found}
    for name, items in found.items():
        for item in items:
            rows = [bytes(row).decode() for row in run.context.problem.data.items[item][0].tolist()]
            assert any(row in texts[name] for row in rows)
    shutil.rmtree(text)
    assert labels_of(ContextFacts(fut.open(run.path, device="cpu").context), "source") == found


def test_files_of_items_are_refused_where_they_are_not_known(asked: fut.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got CPython's language reference"):
        labels_of(ContextFacts(asked.context), "source")
    text = library(tmp_path / "library")
    mixed = fut.train(tmp_path / "mixed", small_config(data={"text": str(text), "batch": 4}), device="cpu")
    with pytest.raises(UsageError, match=r"expected items of one file .* train with data.heterogeneous=true"):
        labels_of(ContextFacts(mixed.context), "source")
    single = fut.train(tmp_path / "single", small_config(data={"text": str(text / "b.txt"), "batch": 1}), device="cpu")
    with pytest.raises(UsageError, match="expected a directory of several files"):
        labels_of(ContextFacts(single.context), "source")


def test_the_command_tells_and_draws(asked: fut.Run, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(LABELS))
    said = cli("domains", asked.path, "--labels", file, "--items", "2", "--verify", 3, "--device", "cpu")
    assert said.status == 0, said.err
    assert "retraining at most 4 orders of 6 steps" in said.err
    assert "late minus early" in said.out
    assert "code>books>web" in said.out
    assert "retrained: Spearman" in said.out
    assert (asked.path / "answers" / "domains.png").stat().st_size > 1000
    orders = ("--orders", "web, books, code", "--orders", "code,books,web")
    found = cli("domains", asked.path, "--labels", file, *orders, "--json").json
    assert [o["name"] for o in found["orders"]] == ["web>books>code", "code>books>web"]
    assert found["question"] == "domains"
    for wrong, message in [
        (("--orders", "web,books"), "expected every label once"),
        (("--places", 1), "at least 2 places"),
        (("--verify", 2), "at least 3 orders"),
        (("--calibrate", 1), "at least 3 orders"),
        (("--items", "6"), "expected different items of 0..5"),
        (("--estimator", "reweighting"), "orders that move items"),
        (("--readout", "item:0"), "fut cache RUN"),
    ]:
        refused = cli("domains", asked.path, "--labels", file, *wrong)
        assert refused.status in (1, 2)
        assert message in refused.err, refused.err
    assert cli("domains", asked.path).status == 2


def test_estimates_train_nothing_and_what_trains_says_so(asked: fut.Run) -> None:
    sequences = arrangements(list(LABELS), 6, 0)
    arranged = [(sequence, domain_order(asked.reference, LABELS, sequence)) for sequence in sequences]
    far, close = asked_orders(arranged, placements(asked.reference, LABELS, [1], 3))
    trained = lambda: len(list((asked.path / "retrained").glob("*/*.h5")))  # noqa: E731
    asking = DomainEstimates(question_context(asked.context), "adjoint", "probe", 3)
    plain = [a.value for a in asking.estimate(far)]
    assert asking.estimate_close(close)
    assert trained() == 0
    asking.retrain_to_fit(far, 3)
    assert trained() == 3
    fitted = [a.value for a in asking.estimate(far)]
    assert (trained(), fitted == plain) == (3, False)
    asking.retrain_to_verify(far, close, 4)
    assert trained() == 3 + 4 + 2
    assert [a.value for a in asking.estimate(far)] == fitted, "verification changes no estimate"
