"""Model adapters: any module as a function of one flat vector, with noise that belongs to the item."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small import small_config
from torch import Tensor, nn

import fut
from fut.data.text import build_dataset
from fut.errors import ModelError, UsageError
from fut.models.autodiff import evaluate, gradient
from fut.models.factory import build_module, load_hook
from fut.models.objective import Objective
from fut.models.transformer import Transformer, next_token_loss

ITEMS = build_dataset(small_config()).items


def small_module(seed: int = 0) -> Transformer:
    return build_module(small_config(model={"seed": seed}).model, 256, 12)  # type: ignore[return-value]


def scalar(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().mean()


def test_the_loss_is_the_modules_own() -> None:
    module = small_module()
    objective = Objective(module)
    for item in ITEMS:
        assert objective.loss(objective.start(), item) == next_token_loss(module, *item)


def test_the_flat_vector_holds_the_parameters_in_the_modules_order() -> None:
    module = small_module()
    objective = Objective(module)
    assert torch.equal(objective.start(), nn.utils.parameters_to_vector(module.parameters()))
    assert [n.removeprefix("module.") for n in objective.names] == [n for n, _ in module.named_parameters()]
    theta = torch.arange(objective.size, dtype=torch.float32)
    nn.utils.vector_to_parameters(theta, module.parameters())
    found = objective.state_dict(theta)
    assert list(found) == list(module.state_dict())
    assert all(torch.equal(found[n], t) for n, t in module.state_dict().items())


def test_the_seed_decides_the_starting_values_and_leaves_the_callers_random_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (Objective(small_module(seed)).start() for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(3), expected)


def test_a_later_token_never_changes_an_earlier_prediction() -> None:
    module, ids = small_module(), ITEMS[0][0][:, :-1]
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    before, after = module(ids), module(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


class Noisy(nn.Module):
    """Two kinds of dropout: a layer's, and a function's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.ones(64))
        self.layer = nn.Dropout(0.5 if kind == "layer" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * x
        return self.layer(y) if self.kind == "layer" else nn.functional.dropout(y, 0.5, self.training)


@pytest.mark.parametrize("kind", ["layer", "function"])
def test_dropout_is_keyed_by_the_items_content(kind: str) -> None:
    objective = Objective(Noisy(kind), lambda m, x: m(x).sum())
    theta, one, other = objective.start(), (torch.ones(64),), (torch.ones(64) * 2,)
    first = gradient(objective, theta, one)
    torch.rand(10)
    assert torch.equal(gradient(objective, theta, (torch.ones(64),)), first), "same content, same mask"
    assert not torch.equal(gradient(objective, theta, other) / 2, first), "other content, other mask"
    assert objective.loss(theta, one) == objective.loss(theta, one)
    assert 10 < (first == 0).sum() < 54, "half of the entries are dropped"


def test_dropout_leaves_the_callers_random_numbers() -> None:
    objective = Objective(Noisy("layer"), lambda m, x: m(x).sum())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    objective.loss(objective.start(), (torch.ones(64),))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True)])
def test_running_statistics_are_refused_where_they_would_change(norm: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 4), norm)
    with pytest.raises(ModelError, match=r"running statistics in `1` .*put it into eval\(\)"):
        Objective(module, scalar)
    Objective(module.eval(), scalar)


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="expected a module with parameters, got none to train"):
        Objective(nn.ReLU(), scalar)


def test_frozen_parameters_stay_out_of_the_vector() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].requires_grad_(False)
    objective = Objective(module, scalar)
    assert objective.size == 12
    found = objective.state_dict(torch.zeros(12))
    assert torch.equal(found["0.weight"], module.get_parameter("0.weight"))
    assert not found["1.weight"].any()


@pytest.mark.parametrize("spec", ["nothing", "no.such:thing", "fut.models.objective:nothing"])
def test_hooks_that_cannot_be_found_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=r"model\.factory: expected .*`package\.module:name`, got"):
        load_hook(spec, "model.factory")


def test_a_loss_that_is_no_single_number_is_refused() -> None:
    item = (torch.ones(3, 4),)
    for loss, got in ((lambda m, x: m(x), r"shape \[3, 2\]"), (lambda m, x: m(x).mean().item, "got builtin")):
        objective = Objective(nn.Linear(4, 2), loss)
        with pytest.raises(ModelError, match=rf"expected a tensor holding one number.*{got}.*take its mean"):
            gradient(objective, objective.start(), item)


@pytest.mark.parametrize("factory", [lambda vocabulary, context: 3, lambda vocabulary: nn.Linear(1, 1)])
def test_a_factory_that_makes_no_module_is_refused(
    monkeypatch: pytest.MonkeyPatch, factory: Callable[..., object]
) -> None:
    monkeypatch.setattr(fut.models.factory, "the_factory", factory, raising=False)
    with pytest.raises(UsageError, match=r"model\.factory: expected .*`fut\.models\.factory:the_factory`.*, got .*; "):
        build_module(small_config(model={"factory": "fut.models.factory:the_factory"}).model, 256, 12)


def test_the_probe_is_judged_without_dropout_and_training_mode_comes_back() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    objective = Objective(module, lambda m, x: m(x).square().mean())
    item = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),)
    theta = objective.start()
    expected = module.eval()(item[0]).square().mean().item()
    noisy = objective.loss(theta, item).item()
    assert evaluate(objective, theta, [item]) == pytest.approx(expected, rel=1e-6)
    assert objective.loss(theta, item).item() == noisy != pytest.approx(expected, rel=1e-6)


def test_an_error_of_the_users_code_keeps_its_cause() -> None:
    def loss(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x.nonsense  # type: ignore[attr-defined]

    objective = Objective(nn.Linear(2, 1), loss)
    with pytest.raises(ModelError, match=r"AttributeError: .*test_models\.py, line \d+\); mend") as caught:
        objective.loss(objective.start(), (torch.ones(1, 2),))
    assert isinstance(caught.value.__cause__, AttributeError)
