"""A sample of coordinates that is drawn before the backward pass: unbiased, of known variance, nothing of whole size a step."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import MakeRun, expand, small_config
from torch import Tensor

import fut
from estimators.adjoint import poisson_sample
from fut.errors import UsageError
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.first_sample import Updates, first_probabilities, updates_of
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.spec import AdjointSpec

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
FIRST = {"coordinates": 300, "drawn": "before", "functionals": 0}
ORDER = [4, 2, 0, 3, 1]


def _opened(run: fut.Run) -> Adjoint:
    found = run.methods.open("adjoint")
    assert isinstance(found, Adjoint)
    return found


def _contributions(estimator: Adjoint) -> Tensor:
    """What every kept coordinate contributes to an order, beyond the reference order [k], float64."""
    parts = [found[0, 0] for _, found in estimator._contributions(estimator.batch([fut.Order.of(ORDER)]))]
    return (torch.cat(parts) - estimator._reference[0]).double()


def test_it_is_unbiased_and_its_variance_is_as_stated(make_run: MakeRun, tmp_path: Path) -> None:
    """Against the same sum over all coordinates: of one sample exactly, and over many draws."""
    whole = _contributions(_opened(make_run("adjoint", **FLOAT64, adjoint={"functionals": 0})))
    config = small_config(**FLOAT64, adjoint=FIRST | {"control": "never"})
    run = fut.train(tmp_path / "run", config, device="cpu")
    expand(run.context, None)
    estimator, expansion = _opened(run), open_expansion(run.context)
    kept, p_kept = expansion.indices, expansion.probabilities
    assert 0 < (p_kept < 1).sum() < len(kept) < len(whole)
    assert torch.allclose(_contributions(estimator), whole[kept], rtol=1e-9, atol=0)
    found = run.estimate([ORDER], "adjoint", known=False)[0]
    assert found.delta == pytest.approx(float((whole[kept] / p_kept).sum()), rel=1e-9)
    slopes = run.context.problem.probe_gradient(expansion.trajectory.state(run.steps).theta)
    p = first_probabilities(expansion, slopes[None])
    assert torch.equal(p[kept], p_kept)
    assert float(p.sum()) == pytest.approx(300)
    variance = float((whole.square() * (1 - p) / p).sum())
    sums, stated = [], []
    for seed in range(2000):
        drawn = poisson_sample(p, seed)
        sums.append(float((whole[drawn] / p[drawn]).sum()))
        stated.append(float((whole[drawn].square() * (1 - p[drawn]) / p[drawn].square()).sum()))
    assert abs(np.mean(sums) - float(whole.sum())) < 4 * np.sqrt(variance / len(sums))
    assert np.var(sums) == pytest.approx(variance, rel=0.15)
    assert np.mean(stated) == pytest.approx(variance, rel=0.05)
    position = estimator.final_states([fut.Order.of(ORDER)])
    assert estimator.variances(position - estimator.reference_position)[0] == pytest.approx(
        float((whole[kept].square() * (1 - p_kept) / p_kept.square()).sum()), rel=1e-9
    )


def test_its_control_variate_is_the_table_of_all_coordinates(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unbounded, it adds the whole table's sum for an order, less what the same sample makes of it: nothing on average."""
    monkeypatch.setattr("fut.methods.adjoint.first_sample.WIDE", 1e30)
    every = make_run("adjoint", **FLOAT64, adjoint={"functionals": 0})
    controls = ("never", "always")
    plain, controlled = (make_run("adjoint", **FLOAT64, adjoint=FIRST | {"control": c}) for c in controls)
    expansions = [open_expansion(run.context) for run in (plain, controlled)]
    assert torch.equal(expansions[0].indices, expansions[1].indices)
    deltas = [run.estimate([ORDER], "adjoint", known=False)[0].delta for run in (plain, controlled)]

    def looked_up(expansion: Expansion) -> float:
        table = expansion.table("positions", [0], "a table")[:, 0]
        return float(sum(table[t, i] - table[t, t] for t, i in enumerate(ORDER)))

    of_all, of_sample = looked_up(open_expansion(every.context)), looked_up(expansions[0])
    assert looked_up(expansions[1]) == pytest.approx(of_all, rel=1e-9)
    assert abs(of_all - of_sample) > 1e-6 * abs(of_all)
    assert deltas[1] - deltas[0] == pytest.approx(of_all - of_sample, rel=1e-6)
    ours, theirs = (open_expansion(run.context).terms() for run in (controlled, every))
    assert np.allclose(ours.read("positions", 1), theirs.read("positions", 1), rtol=1e-9, atol=1e-15)
    assert ours.read("left_out", 1).any()


def test_updates_are_what_a_steps_gradients_move_coordinates_apart(make_run: MakeRun) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint=FIRST)
    expansion, problem = open_expansion(run.context), run.context.problem
    moved = []
    for t in range(run.steps):
        z = expansion.trajectory.state(t)
        each = [problem.rule.step(z, g, problem.rate(t))[0].theta for g in expansion.trajectory.gradients_of(t)]
        moved.append(torch.stack(each) - torch.stack(each).mean(0))
    expected = Updates(sum(m.square().mean(0) for m in moved), torch.stack(moved).abs().amax((0, 1)))  # type: ignore[arg-type]
    for found, right in zip(updates_of(expansion), expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-9, atol=1e-14)


def test_every_tensor_has_its_share(make_run: MakeRun) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint=FIRST)
    expansion, sizes = open_expansion(run.context), [np.prod(s) for s in run.context.problem.objective.layout.shapes]
    slopes = torch.zeros(1, run.context.parameters, dtype=torch.float64)
    slopes[0, 0] = 1.0
    p = first_probabilities(expansion, slopes)
    expected = [min(float(size), 300 * 0.05 * 0.9 / len(sizes)) for size in sizes]
    for part, least in zip(p.split([int(size) for size in sizes]), expected, strict=True):
        assert part.sum() >= 0.99 * least


class StoppedError(Exception):
    """As a key would interrupt it, but not pytest."""


def test_it_resumes_to_the_same_numbers_and_stores_little_a_step(tmp_path: Path) -> None:
    config = small_config(adjoint=FIRST | {"functionals": 2, "storage": "retrain", "control": "always"})
    whole, run = (fut.train(tmp_path / name, config, device="cpu") for name in ("whole", "run"))
    expand(whole.context, None)
    stops = 0

    @contextmanager
    def interrupting(label: str, total: int) -> Any:
        def tick() -> None:
            tick.left -= 1  # type: ignore[attr-defined]
            if tick.left == 0:  # type: ignore[attr-defined]
                raise StoppedError

        tick.left = min(total, 3)  # type: ignore[attr-defined]  # a segment at least
        yield tick

    expansion, most = open_expansion(run.context), 0
    for _ in range(40):
        run = fut.open(run.path, device="cpu", progress=interrupting)
        try:
            expand(run.context, None)
            break
        except StoppedError:
            stops += 1
            swept = expansion.sweep.swept
            found = [swept.read(step).arrays for step in swept.steps()]
            most = max([most, *(a.shape[-1] for arrays in found for a in arrays.values())])
    assert stops >= 5
    assert 0 < most < 400, "numbers of the sample alone"
    names = [s.name for s in open_expansion(whole.context).terms().specs]
    for name in names:
        ours, theirs = (open_expansion(r.context).terms() for r in (run, whole))
        steps = next(s.shape[0] for s in ours.specs if s.name == name)
        assert all(ours.read(name, t).tobytes() == theirs.read(name, t).tobytes() for t in range(steps)), name
    assert whole.estimate(["reverse"], known=False)[0].value != whole.reference_loss


def test_its_scratch_does_not_grow_with_the_model_times_the_window(make_run: MakeRun) -> None:
    problem = make_run().context.problem
    config = small_config(adjoint=FIRST | {"control": "never"}).adjoint
    after = AdjointSpec(problem, config.model_copy(update={"drawn": "after"}))
    first = AdjointSpec(problem, config)
    share = first.expected_coordinates / problem.objective.size
    assert first.swept_bytes < 2 * share * after.swept_bytes + 20 * first.vector_bytes


def test_anchors_that_a_backward_pass_would_choose_are_refused(make_run: MakeRun) -> None:
    run = make_run(cached=False)
    with pytest.raises(
        UsageError, match=r'adjoint.num_anchors: expected a number beside adjoint.drawn = "before", got 0'
    ):
        expand(run.context, run.context.config.adjoint.model_copy(update=FIRST | {"num_anchors": 0}))
