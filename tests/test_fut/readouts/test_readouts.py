"""Read-outs: their gradients, one sweep for several, what pins them, and what they are worth against retraining."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from runs import shared
from scipy.stats import spearmanr
from small import Cli, MakeRun, arguments, expand, small_config
from torch import Tensor, nn

import fut
from fut.data.text import build_dataset
from fut.errors import ModelError, NotCachedError, UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.stages import build
from fut.models import autodiff as derivatives
from fut.models.transformer import next_token_loss
from fut.readouts.readout import make_readouts, one_readout, readout_names
from fut.training.problem import build_problem
from storage import TermStore

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
SEVERAL = ["probe", "item:3", "accuracy", "norm"]
CHANGING = {"model": {"width": 16, "layers": 1, "heads": 2}, "warmup": {"steps": 40, "ramp": 5}}
"""A run whose read-outs move enough with the order to be told from rounding."""


def squared_norm(module: nn.Module) -> Tensor:
    return sum((p.square().sum() for p in module.parameters()), torch.zeros(()))


def own(run: fut.Run | Path) -> fut.Run:
    return fut.open(run if isinstance(run, Path) else run.path, device="cpu", readouts={"norm": squared_norm})


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A cached run whose expansion is swept for several read-outs; two of its items are equal. Read only."""
    config = small_config(adjoint={"readouts": SEVERAL})
    data = build_dataset(config)
    twin = fut.Dataset((*data.items[:4], data.items[1]), data.probe, data.warmup)
    path = tmp_path_factory.mktemp("several") / "run"
    run = fut.train(path, config, data=twin, device="cpu", readouts={"norm": squared_norm})
    run.cache("all")
    return run


@pytest.mark.parametrize("name", ["probe", "item:0", "item:4", "accuracy", "norm"])
def test_gradients_are_those_of_a_finite_difference(make_run: MakeRun, name: str) -> None:
    problem = make_run(**FLOAT64).context.problem
    (readout,) = make_readouts(problem, [name], {"norm": squared_norm})
    theta = problem.objective.start() + 0.01
    slope = readout.gradient(theta)
    for seed in range(3):
        u = torch.randn(len(theta), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        h = 1e-5
        difference = (readout.value(theta + h * u) - readout.value(theta - h * u)) / (2 * h)
        assert (slope @ u).item() == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_items_are_judged_in_evaluation_mode() -> None:
    config = small_config()

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.drop = fut.Transformer(256, 12, 8, 1, 2), nn.Dropout(0.5)

        def forward(self, ids: Tensor) -> Tensor:
            return self.drop(self.inner(ids))

    torch.manual_seed(0)
    problem = build_problem(config, torch.device("cpu"), module=Dropping())
    theta = problem.objective.start()
    plain = build_problem(config, torch.device("cpu"), module=Dropping().inner)
    for name in ("item:2", "accuracy"):
        (judged,), (without,) = (make_readouts(p, [name], {}) for p in (problem, plain))
        assert judged.value(theta) == pytest.approx(without.value(theta), rel=1e-6)
    assert judged.value(theta) == judged.value(theta)


def test_a_probability_is_what_the_name_says(make_run: MakeRun) -> None:
    problem = make_run(**FLOAT64).context.problem
    theta = problem.objective.start()
    (readout,) = make_readouts(problem, ["accuracy"], {})
    module = fut.Transformer(256, 12, 8, 1, 2).double()
    module.load_state_dict(problem.objective.state_dict(theta))
    given = []
    for (tokens,) in problem.data.probe:
        probabilities = module(tokens[:, :-1]).softmax(-1)
        given += [probabilities[n, t, tokens[n, t + 1]].item() for n in range(len(tokens)) for t in range(12)]
    assert readout.value(theta) == pytest.approx(np.mean(given), rel=1e-12)


@pytest.mark.parametrize("readout", SEVERAL)
@pytest.mark.parametrize("name", ["reference", "taylor1", "taylor2", "replay", "replay-exact", "adjoint", "positions"])
def test_the_reference_order_gives_its_value_bitwise(several: fut.Run, name: str, readout: str) -> None:
    value = several.context.readouts.get(readout).value(several.context.state(several.steps).theta)
    same, twins, other = several.estimate(["identity", "swap:1,4", "reverse"], name, known=False, readout=readout)
    assert (same.value, same.delta) == (value, 0.0)
    assert (other.delta != 0.0) == (name != "reference")
    assert (same.readout, same.unit) == (readout, {"accuracy": "probability", "norm": ""}.get(readout, "nats/token"))
    assert (same.perplexity is None) == (readout in ("accuracy", "norm"))
    if name != "replay-exact":  # its products about one order see which of the equal items stands where
        assert twins.delta == 0.0


def test_one_sweep_for_several_is_a_sweep_for_each(tmp_path: Path) -> None:
    names = ["probe", "item:3", "accuracy"]
    for sections in (FLOAT64, FLOAT64 | {"rule": {"name": "adamw", "options": {"betas": [0.9, 0.95], "clip": 0.5}}}):
        for curvature in ("pooled", "items"):
            path = tmp_path / f"{curvature}-{len(sections)}"
            run = shared(path, small_config(**sections), cached=False)
            expand(run.context, AdjointConfig(readouts=names, curvature=curvature, functionals=2))
            together = TermStore.open(shutil.copytree(path / "adjoint", path / "kept") / "terms")
            for row, name in enumerate(names):
                shutil.rmtree(path / "adjoint")
                expand(run.context, AdjointConfig(readouts=[name], curvature=curvature, functionals=2))
                alone = open_expansion(run.context).terms()
                for term in ("weight", "positions"):
                    for t in range(run.steps):
                        expected = alone.read(term, t)[0]
                        found = together.read(term, t)[row]
                        scale = np.abs(expected).max()
                        assert scale > 0
                        assert np.abs(found - expected).max() <= 1e-12 * scale, (curvature, name, term, t)


@pytest.mark.parametrize("sections", [{}, {"epochs": 2, "items": 4}])
def test_estimates_follow_retraining_and_beat_the_baseline(tmp_path: Path, sections: dict[str, Any]) -> None:
    """A window of 8 steps, in one pass or in two."""
    data = {"items": 8, "batch": 4, "context": 24, "probe": 16} | sections
    config = small_config(data=data, adjoint={"readouts": ["probe", "item:0", "item:3", "accuracy"]}, **CHANGING)
    run = fut.train(tmp_path / "run", config, device="cpu")
    run.cache(["adjoint"])
    assert run.steps == 8
    for readout in ("probe", "item:0", "item:3", "accuracy"):
        found = run.verify(8, 1, ["adjoint"], readout=readout)
        asked = run.context.readouts.get(readout)
        truths = [asked.value(run.retrain(fut.Order.of(o)).theta) for o in found.orders]
        assert found.true_losses == pytest.approx(truths, rel=1e-12)
        assert spearmanr(truths, found.estimated_losses["adjoint"]).statistic > 0.8, readout
        assert found.estimators["adjoint"]["skill"] > 0.5, readout


def test_large_units_do_not_win_the_sample(tmp_path: Path) -> None:
    run = fut.train(
        tmp_path / "run", small_config(model={"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}), device="cpu"
    )
    chosen = []
    for scale in (1.0, 1e6):
        functions = {"norm": lambda module, scale=scale: scale * squared_norm(module)}
        opened = fut.open(tmp_path / "run", device="cpu", readouts=functions)
        expand(opened.context, AdjointConfig(readouts=["probe", "norm"], coordinates=800))
        chosen.append(open_expansion(opened.context).probabilities)
        shutil.rmtree(tmp_path / "run" / "adjoint")
    expand(run.context, AdjointConfig(coordinates=800))
    assert torch.allclose(chosen[0], chosen[1], rtol=1e-3)
    assert chosen[0].shape != open_expansion(run.context).probabilities.shape, (
        "the other read-out should have had a say"
    )


@pytest.mark.parametrize(
    ("curvature", "functionals", "rank"),
    [("pooled", 0, 0), ("items", 0, 0), ("pooled", 3, 0), ("items", 3, 0), ("pooled", 0, 2), ("items", 3, 1)],
)
def test_costs_are_counted_for_every_readout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curvature: Literal["items", "pooled"], functionals: int, rank: int
) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    config = AdjointConfig(
        readouts=["probe", "items"],
        curvature=curvature,
        pool=1,
        functionals=functionals,
        rank=rank,
    )
    expansion, calls, one = open_expansion(run.context, config), [], derivatives.gradient

    def count(item: tuple[Tensor, ...]) -> None:
        calls.append(min(1.0, len(item[0]) / run.context.config.data.batch))  # a probe chunk counts one

    both = derivatives.gradient_and_loss
    exact = derivatives.hessian_vector
    monkeypatch.setattr(derivatives, "hessian_vector", lambda o, t, i, u: (count(i), count(i), exact(o, t, i, u))[2])
    monkeypatch.setattr(derivatives, "gradient", lambda o, theta, item: (count(item), one(o, theta, item))[1])
    monkeypatch.setattr(
        derivatives, "gradient_and_loss", lambda o, theta, item, *more: (count(item), both(o, theta, item, *more))[1]
    )
    build(EXPANSION, expansion)
    assert sum(calls) == EXPANSION.cost(expansion.spec).gradients
    kept = sum(float(np.prod(s.shape)) * (8 if s.dtype == "float64" else 4) for s in expansion.terms().specs)
    kept += expansion.spec.trajectory.scratch_bytes  # which stays too
    assert EXPANSION.cost(expansion.spec).kept == pytest.approx(kept, rel=0.2)


# --- a user's own functions


def test_a_hook_and_a_registered_function_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "norm_of_a_user.py").write_text(
        "import torch\ndef norm(module):\n    return sum((p.square().sum() for p in module.parameters()), torch.zeros(()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = small_config(adjoint={"readouts": ["norm_of_a_user:norm", "norm"], "functionals": 0})
    run = fut.train(tmp_path / "run", config, device="cpu", readouts={"norm": squared_norm})
    run.cache(["adjoint"])
    hooked, registered = (run.estimate(["reverse"], known=False, readout=r)[0] for r in ("norm_of_a_user:norm", "norm"))
    assert hooked.value == registered.value != run.context.readouts.at_reference(run.context.readouts.get("norm"))
    assert (
        fut.open(tmp_path / "run", device="cpu").estimate(["reverse"], known=False, readout="norm_of_a_user:norm")[0]
        == hooked
    )


def test_a_changed_function_is_refused(several: fut.Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(several.path, tmp_path / "own"))
    changed = fut.open(path, device="cpu", readouts={"norm": lambda module: 1.01 * squared_norm(module)})
    with pytest.raises(ModelError, match=r"expected the read-out `norm` to be .* it is another function now"):
        changed.estimate(["reverse"], known=False, readout="norm")
    assert own(path).estimate(["reverse"], known=False, readout="norm")[0].source == "estimate"
    shutil.rmtree(path / "adjoint")
    own(path).calibrate(3, estimator="replay", readout="norm")
    with pytest.raises(ModelError, match=r"calibration.*another function now"):
        changed.estimate(["reverse"], "replay", known=False, readout="norm")


def test_a_function_changed_in_mid_expansion_is_refused(tmp_path: Path) -> None:
    shared(tmp_path / "run", small_config(), cached=False)
    run = own(tmp_path / "run")
    config = AdjointConfig(readouts=["norm"])
    EXPANSION.pin_identity(open_expansion(run.context, config), run.context.readouts.pins(["norm"]), run.path)
    changed = fut.open(run.path, device="cpu", readouts={"norm": lambda module: 2 * squared_norm(module)})
    with pytest.raises(ModelError, match="another function now"):
        expand(changed.context, None)
    expand(run.context, None)
    fut.open(run.path, device="cpu").cache(["adjoint"])  # nothing is left to do, so the function is not needed
    with pytest.raises(UsageError, match=r"readouts=\{'norm': function\}"):
        fut.open(run.path, device="cpu").estimate(["reverse"], readout="norm")


BAD: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "vector": (
        lambda module: next(module.parameters()).sum(0),
        "tensor holding one number, got torch.float32 of shape",
    ),
    "number": (lambda module: 3.0, "tensor holding one number, got float"),
    "detached": (lambda module: next(module.parameters()).detach().sum(), "got one detached from them"),
    "infinite": (lambda module: next(module.parameters()).sum() / 0, "expected a finite value"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_readout_is_refused(make_run: MakeRun, kind: str) -> None:
    function, message = BAD[kind]
    run = fut.open(make_run().path, device="cpu", readouts={kind: function})
    with pytest.raises(ModelError, match=message):
        run.estimate(["reverse"], "taylor1", known=False, readout=kind)


# --- names


def test_names_are_expanded_each_once() -> None:
    assert readout_names(["item:2", "items", "probe"], 3) == ["item:2", "item:0", "item:1", "probe"]
    assert one_readout("item:02", 3) == "item:2"


@pytest.mark.parametrize("spec", ["item:5", "item:-1", "item:x", "items", "nothing", "no_such_module:f"])
def test_unknown_readouts_are_refused(make_run: MakeRun, spec: str) -> None:
    with pytest.raises(UsageError, match="readout: expected"):
        make_run().estimate(["reverse"], known=False, readout=spec)


@pytest.mark.parametrize("name", ["probe", "items", "item:1", "a,b", ""])
def test_reserved_names_cannot_be_registered(make_run: MakeRun, name: str) -> None:
    with pytest.raises(UsageError, match="readouts: expected names"):
        fut.open(make_run().path, device="cpu", readouts={name: squared_norm})


@pytest.mark.parametrize("value", [[], ["probe", "probe"], ["probe", ""], "probe", [3]])
def test_the_configured_list_is_strict(value: Any) -> None:
    with pytest.raises(UsageError, match=r"adjoint\.readouts"):
        small_config(adjoint={"readouts": value})


def test_accuracy_needs_the_built_in_loss(make_run: MakeRun) -> None:
    path = make_run().path
    run = fut.open(path, device="cpu", loss=lambda module, tokens: next_token_loss(module, tokens))
    with pytest.raises(UsageError, match="built-in next-token loss"):
        run.estimate(["reverse"], "replay", known=False, readout="accuracy")


# --- stores and commands


def test_a_readout_the_expansion_lacks_names_the_commands_that_help(
    make_run: MakeRun, cli: Cli, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(make_run().path, tmp_path / "own"))
    with pytest.raises(
        NotCachedError, match=r"got one for probe; run `.* --terms adjoint --readouts item:3` .*, which adds"
    ):
        fut.open(path, device="cpu").estimate(["reverse"], known=False, readout="item:3")
    with pytest.raises(NotCachedError, match=r"cache\(\[\"adjoint\"\], readouts=\['norm'\]\)"):
        own(path).estimate(["reverse"], known=False, readout="norm")
    assert cli("cache", path, "--terms", "adjoint", "--readouts", "probe,item:3", "--json").json["readouts"] == [
        "probe",
        "item:3",
    ]
    assert cli("cache", path, "--terms", "adjoint", "--readouts", "item:3").status == 0, "it has that one already"
    assert fut.open(path, device="cpu").estimate(["reverse"], known=False, readout="item:3")[0].delta != 0


def test_commands_take_a_readout(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "run"
    assert cli("train", "--out", path, "--device", "cpu", *arguments(), "--json").status == 0
    assert cli("cache", path, "--terms", "adjoint", "--readouts", "probe,item:1,accuracy").status == 0
    asked = ("--readout", "item:1")
    found = cli("estimate", path, "--order", "reverse", "--no-known", *asked, "--json").json
    assert (found["readout"], found["unit"], found["interval"]) == ("item:1", "nats/token", None)
    fitted = cli("calibrate", path, "--orders", "3", *asked, "--json").json
    assert (fitted["readout"], fitted["unit"]) == ("item:1", "nats/token")
    assert [p.name for p in (path / "calibration").iterdir()] == ["adjoint-readout-item+1.json"]
    assert cli("estimate", path, "--order", "reverse", *asked, "--no-known", "--json").json["interval"] is not None
    assert cli("estimate", path, "--order", "reverse", "--no-known", "--json").json["interval"] is None
    share = cli("estimate", path, "--order", "reverse", "--no-known", "--readout", "accuracy", "--json").json
    assert (share["unit"], share["perplexity"]) == ("probability", None)
    assert (
        "probability against the reference order"
        in cli("estimate", path, "--order", "reverse", "--readout", "accuracy").out
    )
    checked = cli("verify", path, "--orders", "3", *asked, "--json").json
    assert (checked["readout"], checked["reference_loss"]) == ("item:1", pytest.approx(found["value"] - found["delta"]))
    assert (path / "verification" / "orders-3-seed-0-readout-item+1.json").exists()
    assert "read-out item:1" in cli("verify", path, "--orders", "3", *asked).out


def test_an_order_that_was_trained_is_answered_by_its_truth(several: fut.Run, tmp_path: Path) -> None:
    run = own(Path(shutil.copytree(several.path, tmp_path / "own")))
    truth = run.context.readouts.get("norm").value(run.retrain("reverse").theta)
    found = run.estimate(["reverse"], readout="norm")[0]
    assert (found.value, found.source) == (truth, "retrained")
    assert run.estimate(["reverse"], "retrain", readout="norm")[0].value == truth


def test_a_readout_without_a_finite_gradient_is_refused_before_anything_is_computed(make_run: MakeRun) -> None:
    run = make_run(cached=False)

    def odd(module: torch.nn.Module) -> Tensor:
        first = next(module.parameters())
        return torch.sqrt((first - first.detach()).square().sum()) + 1.0

    asked = fut.open(run.path, device="cpu", readouts={"odd": odd})
    with pytest.raises(fut.ModelError, match="read-out `odd`: expected a finite gradient"):
        asked.cache(["adjoint"], readouts=["probe", "odd"])
    assert not (run.path / "adjoint").exists()
