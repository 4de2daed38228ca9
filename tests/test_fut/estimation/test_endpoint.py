"""Endpoints: files that load back into the model and are worth what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import MakeRun, small_config
from torch import Tensor, nn

import fut
from fut.data.dataset import Dataset
from fut.models.transformer import Transformer

NAMES = ("reference", "taylor1", "taylor2", "replay", "replay-exact")


def probe_loss(run: fut.Run, module: nn.Module, loss: Any = fut.next_token_loss) -> float:
    with torch.no_grad():
        return float(
            sum(loss(module, *item).double() for item in run.context.problem.data.probe)
            / len(run.context.problem.data.probe)
        )


def built_in(run: fut.Run) -> Transformer:
    c = run.context.config
    return Transformer(c.data.vocabulary, c.data.context, c.model.width, c.model.layers, c.model.heads)


@pytest.mark.parametrize("name", [*NAMES, "retrain"])
def test_an_endpoint_loads_back_and_gives_the_evaluated_loss(small_run: fut.Run, tmp_path: Path, name: str) -> None:
    found = small_run.endpoint("swap:0,4", name, tmp_path / "deep/er/model.safetensors")
    module = built_in(small_run)
    module.load_state_dict(load_file(found.path), strict=True)
    assert probe_loss(small_run, module) == pytest.approx(found.evaluated_loss, abs=1e-6)
    if name in ("replay", "replay-exact", "retrain"):
        assert found.estimated_loss == found.evaluated_loss


def test_the_retrained_endpoint_is_what_training_gives(small_run: fut.Run, tmp_path: Path) -> None:
    found = small_run.endpoint("reverse", "retrain", tmp_path / "m.safetensors")
    truth = small_run.retrain("reverse")
    module = built_in(small_run)
    module.load_state_dict(load_file(found.path), strict=True)
    assert torch.equal(nn.utils.parameters_to_vector(module.parameters()), truth.theta)
    assert found.evaluated_loss == truth.loss


def test_an_endpoint_says_what_it_is(small_run: fut.Run, tmp_path: Path) -> None:
    found = small_run.endpoint("reverse", "replay", tmp_path / "m.safetensors")
    with safe_open(found.path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["fut.estimator"] == "replay"
    assert metadata["fut.order"] == small_run.order("reverse").digest == found.order
    assert float(metadata["fut.estimated_loss"]) == found.estimated_loss
    assert float(metadata["fut.evaluated_loss"]) == found.evaluated_loss


def test_without_a_path_the_endpoint_lies_in_the_run(own_run: Path) -> None:
    found = fut.open(own_run, device="cpu").endpoint("reverse", "replay-exact")
    assert found.path.is_relative_to(own_run)
    assert found.path.exists()


def test_a_sketched_endpoint_reports_an_error_near_theory(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(cache={"sketch": "gaussian", "size": 96})
    found = run.endpoint("reverse", "taylor1", tmp_path / "m.safetensors")
    assert found.sketch_error_theory == pytest.approx((run.context.parameters / 96) ** 0.5, rel=0.02)
    assert found.sketch_error == pytest.approx(found.sketch_error_theory, rel=0.2)


def test_an_unsketched_endpoint_reports_no_error(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(cache={"sketch": "identity"})
    assert run.endpoint("reverse", "taylor1", tmp_path / "m.safetensors").sketch_error == 0.0
    assert run.endpoint("reverse", "replay", tmp_path / "m.safetensors").sketch_error is None


def test_replay_of_sampled_coordinates_refuses_an_endpoint_with_advice(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(cache={"sketch": "gaussian", "coordinates": 700})
    with pytest.raises(fut.UsageError, match=r"a sample of 700; set cache\.coordinates=0 and cache again"):
        run.endpoint("reverse", "replay", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


# the user's own module: tied weights, buffers, a frozen part


class Tied(nn.Module):
    scale: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner, self.bias = nn.Linear(6, 6, bias=False), nn.Parameter(torch.zeros(6))
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.inner.weight
        self.frozen = nn.Parameter(torch.linspace(0.5, 1.5, 6), requires_grad=False)
        self.register_buffer("scale", torch.tensor([0.5]))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.inner(x * self.frozen)) * self.scale) + self.bias


def squared_error(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (module(x) - y).square().mean()


def regression(dtype: torch.dtype = torch.float32) -> Dataset:
    draw = torch.Generator().manual_seed(1)
    items = [tuple(torch.randn(4, 6, generator=draw, dtype=dtype) for _ in range(2)) for _ in range(6)]
    return Dataset(tuple(items[:5]), (items[5],))


@pytest.fixture
def tied(tmp_path: Path) -> tuple[fut.Run, Tied]:
    module = Tied()
    config = small_config(warmup={"steps": 0}, cache={"size": 20})
    return fut.train(
        tmp_path / "run", config, module=module, loss=squared_error, data=regression(), device="cpu"
    ), module


def test_a_module_with_tied_weights_and_buffers_round_trips(tied: tuple[fut.Run, Tied], tmp_path: Path) -> None:
    run, module = tied
    run.cache("all")
    assert run.context.parameters == 42, "36 tied weights once, and 6 biases; what is frozen is not trained"
    for name in (*NAMES, "retrain"):
        found = run.endpoint("swap:0,4", name, tmp_path / f"{name}.safetensors")
        loaded = Tied()
        loaded.load_state_dict(load_file(found.path), strict=True)
        assert torch.equal(loaded.inner.weight, loaded.again.weight), name
        assert (loaded.count.item(), loaded.scale.item()) == (7, 0.5), name
        assert torch.equal(loaded.frozen, module.frozen), name
        assert not torch.equal(loaded.inner.weight, module.inner.weight), name
        assert probe_loss(run, loaded, squared_error) == pytest.approx(found.evaluated_loss, abs=1e-6), name


def test_the_users_module_is_copied_and_never_changed(tmp_path: Path) -> None:
    module = Tied()
    config = small_config(warmup={"steps": 0}, model={"dtype": "float64"})
    data = regression(torch.float64)
    run = fut.train(tmp_path / "run", config, module=module, loss=squared_error, data=data, device="cpu")
    assert {t.dtype for t in module.state_dict().values()} == {torch.float32, torch.int64}
    with torch.no_grad():
        module.scale.fill_(9.0)
    assert run.retrain("identity").loss == run.reference_loss, "later changes of the module do not reach the run"


def test_a_run_of_a_users_module_is_opened_with_it_and_refuses_another(tied: tuple[fut.Run, Tied]) -> None:
    run, module = tied
    again = fut.open(run.path, module=Tied(), loss=squared_error)
    assert again.estimate(["identity"], "replay-exact")[0].value == run.reference_loss
    other = Tied()
    with torch.no_grad():
        other.bias.fill_(1.0)
    started = fut.open(run.path, module=other, loss=squared_error)  # the run's own starting values are put into it
    assert started.retrain("reverse").loss == run.retrain("reverse").loss
    with pytest.raises(fut.ModelError, match=r"expected the probe loss .* got"):
        fut.open(run.path, module=module, loss=lambda m, x, y: 2 * squared_error(m, x, y)).estimate(["reverse"])
