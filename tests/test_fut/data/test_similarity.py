"""How alike pieces are, groups of like held-out samples, and the read-outs that name them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from small import Cli, MakeRun

import fut
from fut.data.dataset import Dataset
from fut.data.probe_groups import Group, group_item, item_similarity, parse_group, probe_groups
from fut.data.similarity import like_groups, number_vectors, token_vectors
from fut.errors import UsageError
from fut.readouts.readout import readout_names


def slow_cosine(pieces: list[list[list[int]]], a: int, b: int, longest: int) -> float:
    """tf-idf cosine of two pieces, with counters of tuples."""
    grams = [
        Counter(tuple(s[i : i + n]) for s in piece for n in range(1, longest + 1) for i in range(len(s) - n + 1))
        for piece in pieces
    ]
    held = Counter(g for counts in grams for g in counts)

    def weight(piece: int, gram: tuple[int, ...]) -> float:
        if not grams[piece][gram]:
            return 0.0
        return (1 + math.log(grams[piece][gram])) * (1 + math.log((1 + len(pieces)) / (1 + held[gram])))

    vectors = [np.array([weight(p, g) for g in sorted(held)]) for p in (a, b)]
    return float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))


def test_cosines_are_those_of_tf_idf_vectors() -> None:
    draw = np.random.default_rng(0)
    pieces = [draw.integers(0, 4, size=(2, 9)) for _ in range(5)]
    found = token_vectors(pieces, longest=3)
    for a in range(5):
        for b in range(5):
            assert found[a, b] == pytest.approx(slow_cosine([p.tolist() for p in pieces], a, b, 3))
    far = token_vectors([[[1, 2, 3]], [[4, 5, 6]], [[1, 2, 3]]])
    assert far[0, 1] == 0
    assert far[0, 2] == pytest.approx(1.0)


def test_n_grams_stay_within_a_sequence_and_large_ids_do_not_collide() -> None:
    assert token_vectors([[[1], [2]], [[1, 2]]], longest=2)[0, 1] < 1
    big = 2**40
    assert token_vectors([[[big, 1, big, 2]], [[big + 1, 3, big + 1, 4]]])[0, 1] == 0


def test_groups_of_like_pieces_are_even_and_find_the_kinds() -> None:
    draw = np.random.default_rng(1)
    kinds = [k for k in range(4) for _ in range(5)]
    pieces = [draw.integers(10 * k, 10 * k + 4, size=(1, 30)) for k in kinds]
    order = draw.permutation(20)
    groups = like_groups(token_vectors([pieces[i] for i in order]), 4)
    assert [len(g) for g in groups] == [5] * 4
    assert [len({kinds[order[i]] for i in g}) for g in groups] == [1] * 4
    assert sorted(i for g in like_groups(token_vectors(pieces), 3) for i in g) == list(range(20))
    assert sorted(map(len, like_groups(token_vectors(pieces), 3))) in ([6, 7, 7], [7, 7, 6])
    assert like_groups(np.ones((3, 3)), 3) != []
    with pytest.raises(ValueError, match="expected 1 to 20"):
        like_groups(np.ones((20, 20)), 21)


def test_numbers_are_compared_by_standardised_means() -> None:
    found = number_vectors([[[1.0, 0.0]], [[2.0, 0.0]], [[3.0, 0.0]]])
    assert found[0, 2] == pytest.approx(-1)
    assert found[1].tolist() == [0, 0, 0]
    x = torch.linspace(-1, 1, 24).reshape(6, 4)
    data = Dataset(tuple((row[None],) for row in x[:2]), ((x[2:4],), (x[4:],)))
    assert item_similarity(data, 2, [0, 1]).shape == (2, 2)
    assert sorted(i for g in probe_groups(data, 2) for i in g) == [0, 1, 2, 3]


def test_names_of_groups() -> None:
    assert readout_names(["probe", "groups:3", "probe:1of3"], 4) == ["probe", "probe:0of3", "probe:1of3", "probe:2of3"]
    assert parse_group("item:3") is None
    for wrong in ("probe:3of3", "probe:x", "probe:", "groups:", "groups:0", "groups:-1", "probe:1of"):
        with pytest.raises(UsageError, match="expected probe:0of8"):
            readout_names([wrong], 4)


def test_group_read_outs_are_mean_losses_whose_mean_is_the_probe_loss(small_run: fut.Run) -> None:
    values = [
        small_run.context.readouts.at_reference(small_run.context.readouts.get(f"probe:{g}of2")) for g in range(2)
    ]
    assert np.mean(values) == pytest.approx(small_run.reference_loss, rel=1e-6)
    assert values[0] != values[1]
    theta, readout = small_run.context.state(2).theta, small_run.context.readouts.get("probe:1of2")
    slope, along = readout.gradient(theta), torch.ones_like(theta) / len(theta) ** 0.5
    rise = (readout.value(theta + 1e-2 * along) - readout.value(theta - 1e-2 * along)) / 2e-2
    assert (slope @ along).item() == pytest.approx(rise, rel=2e-2, abs=1e-4)
    groups = probe_groups(small_run.context.problem.data, 2)
    rows = torch.cat([item[0] for item in small_run.context.problem.data.probe])
    assert torch.equal(group_item(small_run.context.problem.data, Group(1, 2))[0], rows[groups[1]])


def test_more_groups_than_samples_are_refused(make_run: MakeRun, cli: Cli) -> None:
    run = make_run(cached=False)
    with pytest.raises(UsageError, match="expected at most 4 groups, as many as there are probe samples, got 5"):
        run.context.readouts.get("probe:0of5")
    said = cli("estimate", run.path, "--order", "reverse", "--readout", "probe:9of9", "--estimator", "reference")
    assert said.status == 2
    assert "expected probe:0of8" in said.err


def test_orders_are_estimated_on_a_group(make_run: MakeRun) -> None:
    run = make_run(cached=False, adjoint={"readouts": ["probe", "groups:2"]})
    run.cache(["adjoint"])
    whole = run.estimate(["reverse"], "adjoint", known=False, reading="linear")[0]
    parts = [run.estimate(["reverse"], "adjoint", known=False, readout=f"probe:{g}of2")[0] for g in range(2)]
    assert np.mean([p.delta for p in parts]) == pytest.approx(whole.delta, rel=1e-2)
    truth = run.context.readouts.truth(run.context.readouts.get("probe:0of2"), run.retrain("reverse"))
    assert abs(parts[0].value - truth) < abs(
        run.context.readouts.at_reference(run.context.readouts.get("probe:0of2")) - truth
    )
