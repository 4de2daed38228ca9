"""What is wrong at the Python door is said in one message that leads on: data, read-outs, weights, and mappings everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_torch import config
from torch import Tensor, nn

import fut
from fut.data.text import REFERENCE
from fut.errors import FutWarning
from fut.methods.adjoint.identity import open_expansion
from fut.methods.registry import open_estimator

X = torch.randn(14, 4, 6, generator=torch.Generator().manual_seed(0))
ITEMS, PROBE = [(x,) for x in X[:8]], [(x,) for x in X[8:12]]


def squared(module: nn.Module, x: Tensor) -> Tensor:
    return (module(x) - x).square().mean()


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 6)


def trained(path: Path, **more: Any) -> fut.Run:
    given: dict[str, Any] = {"module": linear(), "loss": squared, "data": fut.Dataset(ITEMS, PROBE), **more}
    chosen = given.pop("config", config(8, "sgd"))
    return fut.train(path / "run", chosen, device="cpu", **given)


# --- a module without data


def test_a_module_without_data_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(fut.UsageError, match="expected data for the module Linear, got none; give data=") as caught:
        trained(tmp_path, data=None)
    assert REFERENCE in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_built_in_text_can_be_asked_for_by_name(tmp_path: Path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 256))

    small: dict[str, Any] = {"items": 4, "batch": 2, "context": 12, "probe": 4}
    chosen = fut.load_config(data=small | {"text": REFERENCE}, warmup={"steps": 0})
    run = fut.train(tmp_path / "run", chosen, module=model(), loss=fut.next_token_loss, device="cpu")
    usual = fut.load_config(data=small, warmup={"steps": 0})
    same = fut.train(tmp_path / "same", usual, module=fut.Transformer(256, 12), device="cpu")
    for own, other in zip(run.context.problem.data.items, same.context.problem.data.items, strict=True):
        assert torch.equal(own[0], other[0])
    assert run.info()["unit"] == "nats/token"


# --- a read-out without a gradient


def hits(module: nn.Module) -> Tensor:
    return (module(X[12]).argmax(-1) == 0).float().mean()


def test_a_read_out_without_a_gradient_leads_to_what_answers_it(tmp_path: Path) -> None:
    run = trained(tmp_path, readouts={"hits": hits})
    run.cache()
    with pytest.raises(
        fut.NotCachedError, match=r"readouts=\['hits'\]\)`, which adds it; or use estimator=\"replay-exact\""
    ):
        run.estimate(["reverse"], readout="hits")
    with pytest.raises(fut.ModelError, match='answered by estimator="replay-exact", which needs no `fut cache`'):
        run.cache(readouts=["hits"])
    (answer,) = run.estimate(["reverse"], "replay-exact", readout="hits")
    assert answer.value == run.estimate(["reverse"], "retrain", readout="hits")[0].value
    assert run.verify(3, readout="hits").readout == "hits"


def test_a_small_model_is_verified_by_every_estimator(tmp_path: Path) -> None:
    """Whose parameters are fewer than the numbers that a sketch of them would have."""
    run = trained(tmp_path)
    run.cache("all")
    found = run.verify(4)
    assert {"replay", "taylor1"} <= set(found.estimators)
    assert run.check() == []


# --- weights


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([-1] + [1] * 7, "a finite number above 0 for every item, got -1 of item 0;"),
        ([1] * 7 + [float("nan")], "got nan of item 7;"),
        ([0] * 8, "got 0 of item 0, and of 7 others; leave an item out of an order instead"),
        ([float("inf")] * 8, "got inf of item 0, and of 7 others"),
        ([True] * 8, "got True of item 0"),
        ([1, "x"] + [1] * 6, "got 'x' of item 1"),
        ("abc", "input should be a valid list, got 'abc'"),
        (np.array([1, -2.0] + [1] * 6), "got -2.0 of item 1"),
        ([1] * 7, "expected a number for each of 8 items, got 7; give as many"),
    ],
)
def test_weights_that_are_none_are_refused_in_a_line(tmp_path: Path, weights: Any, said: str) -> None:
    with pytest.raises(fut.UsageError) as caught:
        trained(tmp_path, config=config(8, "sgd", data={"per_step": 2, "weights": weights}))
    assert said in str(caught.value)
    assert "data.weights" in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("made", [list, np.array, torch.tensor])
def test_weights_of_any_array_are_taken(made: Any) -> None:
    assert fut.load_config(data={"items": 4, "weights": made([1.0, 2, 3, 4])}).data.weights == [1, 2, 3, 4]


# --- items that are mappings


def by_name(module: nn.Module, item: dict[str, Tensor]) -> Tensor:
    return (module(item["x"]) - item["y"]).square().mean()


def test_items_that_are_mappings_are_served_at_every_door(tmp_path: Path) -> None:
    names = [{"x": x, "y": x} for x in X[:12]]
    given: dict[str, Any] = {"module": linear(), "loss": by_name}
    run = trained(tmp_path, data=fut.Dataset(names[:8], names[8:]), **given)
    plain = trained(tmp_path / "plain")
    assert run.reference_loss == plain.reference_loss
    run.cache(readouts=["probe", "item:3"])
    run.calibrate(4)
    assert run.estimate(["reverse"], readout="item:3")[0].value > 0
    assert run.memorize(items=[0, 1], groups=2).items == [0, 1]
    assert run.domains([0, 0, 0, 0, 1, 1, 1, 1]).labels.keys() == {"0", "1"}
    assert run.search(evaluations=10, verify=1).truths.retrained_loss is not None
    assert run.whatif(edits=["swap:0,1"], verify=True).changes[0].truth is not None
    assert run.orders.difficulty("loss").scores
    assert run.endpoint("reverse", estimator="retrain").evaluated_loss == run.retrain("reverse").loss
    assert "<html" in run.report(samples=2).path.read_text()
    again = fut.open(run.path, **given, device="cpu")
    assert again.retrain("reverse").loss == plain.retrain("reverse").loss
    assert fut.plan(config(8, "sgd"), **given, data=fut.Dataset(names[:8], names[8:]), device="cpu").parameters == 42


# --- what is worse than nothing, and what an item alone is to blame for


def triplets(module: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.triplet_margin_loss(module(x), module(x.roll(1, 0)), module(-x))


def test_estimates_that_are_worse_than_none_on_their_own_runs_say_so(tmp_path: Path) -> None:
    """A loss with kinks, across which differences of gradients are no curvature."""
    given: dict[str, Any] = {"loss": triplets, "data": fut.Dataset(ITEMS, PROBE)}
    run = trained(tmp_path, module=nn.Linear(6, 4), config=config(8), **given)
    with pytest.warns(FutWarning, match="taken whole"):
        run.cache()
    (answer,) = run.estimate(["reverse"], known=False)
    own, spread = run.info()["adjoint_own_error"], open_expansion(run.context).own_values.std(ddof=1)
    assert ("estimates are worse than the reference order's value" in answer.note) == (own > 2 * spread)
    monstrous = open_estimator(run.context, "adjoint")
    monstrous.__dict__["_own_error"] = 3 * float(spread)
    assert 'set adjoint.products = "exact"' in monstrous.caution()
    sound = open_estimator(run.context, "adjoint")
    sound.__dict__["_own_error"] = 1.9 * float(spread)
    assert "worse than" not in sound.caution()


@pytest.mark.parametrize(("place", "said"), [(3, "item 3"), (7, "the last item"), (9, "probe chunk 1")])
def test_labels_that_are_none_are_refused_by_item(tmp_path: Path, place: int, said: str) -> None:
    rows = [(x, (x.sum(-1) > 0).long() + (5 if k == place else 0)) for k, x in enumerate(X[:12])]

    def loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(module(x), y)

    with pytest.raises(fut.DataError, match=f"{said}: expected a loss, as the first item has, got IndexError: Target"):
        trained(tmp_path, module=nn.Linear(6, 2), loss=loss, data=fut.Dataset(rows[:8], rows[8:]))
