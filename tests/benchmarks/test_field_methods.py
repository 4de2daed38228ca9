"""The methods of others that `benchmarks/field.py` compares with, each against a slow formula or real retraining in float64."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from field_gradients import Tapped, log_odds_gradients, sequences, tapped
from field_metagradient import metagradient
from field_methods import Projected, bm25, cosines, factors, influence, projection, tracin, trak, words
from small import MakeRun, small_config
from torch import Tensor, nn

import fut
from estimators.orders.order import Order

DOUBLE: dict[str, Any] = {
    "data": {"items": 12, "per_step": 4, "batch": 1},
    "model": {"dtype": "float64"},
    "rule": {"name": "adamw", "options": {"weight_decay": 0.1}},
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


# TRAK


def test_trak_without_projection_is_the_formula() -> None:
    """Every model and every sample by itself, with the full matrix inverted."""
    models = [Projected(normal(9, 5, seed=s), normal(5, seed=s + 10), normal(9, seed=s + 20).sigmoid()) for s in (0, 1)]
    expected = []
    for i in range(9):
        tau = 0.0
        for one in models:
            kernel = sum((torch.outer(row, row) for row in one.features), torch.zeros(5, 5, dtype=torch.float64))
            kernel = kernel + 0.3 * kernel.trace() / 5 * eye(5)
            tau += (one.target @ torch.linalg.inv(kernel) @ one.features[i]).item() / 2
        expected.append(tau * (models[0].misses[i] + models[1].misses[i]).item() / 2)
    assert trak(models, 0.3).tolist() == pytest.approx(expected, rel=1e-9)


def test_trak_is_the_newton_step_of_a_logistic_model() -> None:
    """The paper's case: binary labels, an output linear in the parameters, and the read-out one output's loss. Leaving a sample
    out of a converged fit is predicted by minus its score."""
    x, z = normal(60, 3), normal(3, seed=1)
    y = (x @ normal(3, seed=2) + normal(60, seed=3) > 0).double() * 2 - 1

    def fit(kept: Tensor) -> Tensor:
        theta = torch.zeros(3, dtype=torch.float64)
        for _ in range(50):
            p = (y * (x @ theta)).sigmoid()
            hessian = (x[kept] * (p * (1 - p))[kept, None]).mT @ x[kept]
            theta = theta + torch.linalg.solve(hessian, ((1 - p) * y)[kept] @ x[kept])
        return theta

    full = torch.arange(60)
    theta = fit(full)
    p = (y * (x @ theta)).sigmoid()
    slope = -(-(z @ theta)).sigmoid() * z  # of -log sigmoid(z theta)
    weighted = Projected(x * y[:, None] * (p * (1 - p)).sqrt()[:, None], slope, ((1 - p) / p).sqrt())
    true = [(-(z @ fit(full[full != i])).sigmoid().log() + (z @ theta).sigmoid().log()).item() for i in range(60)]
    guess = (-trak([weighted], 0.0)).tolist()
    assert torch.corrcoef(torch.tensor([true, guess]))[0, 1] > 0.98
    assert sum(guess) == pytest.approx(sum(true), abs=0.1 * sum(map(abs, true)))


def test_a_projection_keeps_inner_products_on_average() -> None:
    a, b = normal(40).float(), normal(40, seed=1).float()
    found = [(a @ p) @ (b @ p) for p in (projection(40, 64, seed) for seed in range(200))]
    mean, spread = torch.stack(found).mean(), torch.stack(found).std() / math.sqrt(200)
    assert abs(mean - a @ b) < 4 * spread
    narrow = Projected(normal(6, 4), normal(4, seed=1), normal(6, seed=2)).first(2)
    assert (narrow.features.shape, narrow.target.shape, len(narrow.misses)) == ((6, 2), (2,), 6)


# gradients of log-odds, and what layers saw


def test_gradients_of_log_odds_are_those_of_a_loop(make_run: MakeRun) -> None:
    run = make_run(False, **DOUBLE)
    problem, theta = run.context.problem, run.context.state(0).theta
    tokens = sequences(problem.data.items)
    pairs = list(log_odds_gradients(problem.objective, theta, tokens))
    gradients, misses = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    for i, item in enumerate(problem.data.items):
        with problem.objective.holding(theta, item) as module:
            chances = module(item[0][:, :-1]).softmax(-1)[0]
            p = torch.stack([chances[t, token] for t, token in enumerate(item[0][0, 1:].tolist())])
            slope = torch.autograd.grad((p / (1 - p)).log().mean(), problem.objective.tensors)
        assert torch.allclose(gradients[i], problem.objective.flat(slope), atol=1e-10)
        assert misses[i].item() == pytest.approx((1 - p).mean().item(), rel=1e-10)


def test_tapped_gradients_are_the_items_own(make_run: MakeRun) -> None:
    run = make_run(False, **DOUBLE)
    problem, theta = run.context.problem, run.context.state(0).theta
    objective = problem.objective
    with objective.holding(theta, problem.data.items[0]) as module:
        seen = tapped(module, sequences(problem.data.items))
    assert set(seen) == {n for n, layer in objective.module.named_modules() if isinstance(layer, nn.Linear)}
    own = [objective.own_name(name) for name in objective.names]
    for i, row in enumerate(problem.item_gradients(theta, range(12))):
        parts = dict(zip(own, objective.parts(row), strict=True))
        for name, layer in seen.items():
            bias = [parts[f"{name}.bias"][:, None]] if f"{name}.bias" in parts else []
            expected = torch.cat([parts[f"{name}.weight"], *bias], dim=1)
            assert torch.allclose(layer.gradients[i], expected, atol=1e-12), name


# EK-FAC


def dense(seen: Tapped) -> Tensor:
    """length times the mean over sequences of the outer product of the gradients [out in, out in]."""
    flat = seen.gradients.flatten(1)
    found: Tensor = seen.slopes.shape[1] * flat.mT @ flat / len(flat)
    return found


def test_where_curvature_is_a_kronecker_product_the_inverse_is_exact() -> None:
    """Every input with every slope, one token a sequence: then the Fisher matrix is the product of the two factors."""
    a, s = normal(7, 3), normal(5, 2, seed=1)
    crossed = Tapped(a.repeat_interleave(5, 0)[:, None], s.repeat(7, 1)[:, None])
    layer, matrix, g = factors([crossed]), dense(crossed), normal(2, 3, seed=2)
    damping = 0.1 * matrix.trace() / 6
    expected = torch.linalg.solve(matrix + damping * eye(6), g.flatten()).view(2, 3)
    assert torch.allclose(layer.solve(g, 0.1), expected, atol=1e-10)


def test_elsewhere_the_curvature_is_the_diagonal_of_the_exact_one_in_the_basis() -> None:
    passes = [Tapped(normal(11, 4, 3, seed=s), normal(11, 4, 2, seed=s + 5)) for s in (0, 1)]
    layer = factors(passes)
    basis = torch.einsum("oa,ib->oiab", layer.outputs, layer.inputs).reshape(6, 6)
    matrix = (dense(passes[0]) + dense(passes[1])) / 2
    assert torch.allclose((basis.mT @ matrix @ basis).diagonal(), layer.curvature.flatten(), atol=1e-10)
    assert torch.allclose(basis @ basis.mT, eye(6), atol=1e-10)


def test_with_drawn_labels_the_curvature_is_that_of_the_gauss_newton_matrix() -> None:
    """One linear layer on fixed embeddings: sum over tokens of x x' times (diag p - p p'), a mean over tokens and sequences."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)).double()
    tokens = torch.randint(6, (5, 4), generator=torch.Generator().manual_seed(1))
    draw = torch.Generator().manual_seed(2)
    layer = factors([tapped(module, tokens, draw)["1"] for _ in range(4000)])
    x = module[0](tokens[:, :-1]).detach()
    p = module(tokens[:, :-1]).softmax(-1).detach()
    middle = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    exact = torch.einsum("nlop,nli,nlj->oipj", middle, x, x).reshape(18, 18) / 15
    basis = torch.einsum("oa,ib->oiab", layer.outputs, layer.inputs).reshape(18, 18)
    expected = (basis.mT @ exact @ basis).diagonal()
    assert torch.allclose(layer.curvature.flatten(), expected, rtol=0.1, atol=0.01 * expected.max().item())


def test_influence_is_the_derivative_of_a_linear_fit_by_a_samples_weight() -> None:
    """Least squares, whose curvature is exact: against a difference of real fits."""
    x, y = normal(8, 3), normal(8, 1, seed=1)
    z = normal(3, seed=2)

    def fit(weights: Tensor) -> Tensor:
        weighted: Tensor = x * weights[:, None]
        solved: Tensor = torch.linalg.solve(weighted.mT @ x, weighted.mT @ y)
        return solved[:, 0]

    ones = torch.ones(8, dtype=torch.float64)
    theta = fit(ones)
    residual = x @ theta - y[:, 0]
    samples = (residual[:, None] * x)[:, None]  # of half the squared residual
    fisher = factors([Tapped(x[:, None], torch.ones(8, 1, 1, dtype=torch.float64))])  # x'x / n, exact in its own basis
    found = influence({"only": fisher}, {"only": z[None]}, {"only": samples}, 0.0)
    step = 1e-6
    for i in range(8):
        apart = torch.zeros_like(ones).index_fill(0, torch.tensor([i]), step)
        slope = (z @ fit(ones + apart) - z @ fit(ones - apart)) / (2 * step)
        assert found[i].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


# dot products and words


def test_tracin_and_cosines_are_their_sums() -> None:
    gradients, target = [normal(6, 4, seed=s) for s in range(3)], [normal(4, seed=s + 3) for s in range(3)]
    rates = [0.3, 0.2, 0.1]
    found = tracin([(r, g @ t) for r, g, t in zip(rates, gradients, target, strict=True)], 2)
    for i in range(6):
        products = [
            sum(a * b for a, b in zip(g[i].tolist(), t.tolist(), strict=True))
            for g, t in zip(gradients, target, strict=True)
        ]
        assert found[i].item() == pytest.approx(-sum(r * p / 2 for r, p in zip(rates, products, strict=True)))
        lengths = gradients[0][i].norm() * target[0].norm()
        assert cosines(gradients[0], target[0])[i].item() == pytest.approx(-products[0] / lengths.item())


def test_bm25_is_its_formula_word_by_word() -> None:
    documents = ["the cat sat on the mat", "a dog; the dog!", "nothing here", "cat and dog and cat"]
    queries = ["the cat", "dog dog cat", "absent"]
    mean = sum(len(words(d)) for d in documents) / 4
    for i, found in enumerate(bm25(documents, queries).tolist()):
        total = 0.0
        for query in queries:
            for word in words(query):
                holding = sum(word in words(d) for d in documents)
                often = Counter(words(documents[i]))[word]
                rarity = math.log(1 + (4 - holding + 0.5) / (holding + 0.5))
                total += rarity * often * 2.5 / (often + 1.5 * (0.25 + 0.75 * len(words(documents[i])) / mean))
        assert found == pytest.approx(-total / 3)


# the metagradient


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_metagradient_is_the_slope_of_real_retraining(make_run: MakeRun, epochs: int) -> None:
    sections = DOUBLE | {"data": DOUBLE["data"] | {"epochs": epochs}}
    run = make_run(False, **sections)
    found = metagradient(run.context.problem, run.context.state)
    assert found.error < 1e-9
    apart = 1e-4
    for t, place in ((0, 1), (1, 3), (run.steps - 1, 0)):
        sides = []
        for sign in (1, -1):
            steps: list[Any] = [{"items": list(s), "weights": [1.0] * 4} for s in run.reference.steps]
            steps[t]["weights"][place] += sign * apart
            sides.append(run.retrain(Order.of(steps)).loss)
        assert found.weights[t, place].item() == pytest.approx((sides[0] - sides[1]) / (2 * apart), rel=1e-5, abs=1e-9)
    by_item = found.by_item(run.reference.steps, run.items)
    for item in (0, 7):
        places = [found.weights[t, s.index(item)].item() for t, s in enumerate(run.reference.steps) if item in s]
        assert len(places) == epochs
        assert by_item[item].item() == pytest.approx(sum(places))


def test_the_metagradient_is_what_reweighting_attributes(tmp_path: Path) -> None:
    """Two ways to one number: autograd through the steps, and `fut`'s own pass with exact products."""
    config = small_config(**DOUBLE, reweighting={"products": "exact"})
    run = fut.train(tmp_path / "run", config)
    run.cache(["reweighting"])
    exact = metagradient(run.context.problem, run.context.state).weights.numpy()
    assert run.methods.attributions() == pytest.approx(exact, rel=1e-6, abs=1e-10)


def test_a_rule_that_is_not_written_here_is_refused(make_run: MakeRun) -> None:
    run = make_run(False, data=DOUBLE["data"], rule={"name": "sgd"})
    with pytest.raises(TypeError, match="expected adam or adamw"):
        metagradient(run.context.problem, run.context.state)
