"""A data set from what users have: loaders, lists, mappings, arrays, generators, tables; and how many items a run has."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fut
from fut.artifacts.dataset import read_dataset

X = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(0))
Y = (X.sum(-1) > 0).long()
PAIRS = [(x, y) for x, y in zip(X, Y, strict=True)]
NAMED = [{"x": x, "y": y} for x, y in PAIRS]
OPEN: dict[str, Any] = {"schedule": {"rate": 0.05}}


def by_place(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x).flatten(0, -2), y.flatten())


def by_name(module: nn.Module, item: dict[str, Tensor]) -> Tensor:
    return by_place(module, **item)


class Weighted(nn.Module):
    """A loss that is a module."""

    def forward(self, module: nn.Module, item: dict[str, Tensor]) -> Tensor:
        return by_name(module, item)


def linear() -> nn.Module:
    module = nn.Linear(3, 2)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def trained(path: Path, given: fut.Dataset, loss: Any, **sections: Any) -> fut.Run:
    config = fut.load_config(**(OPEN | sections))
    return fut.train(path, config, module=linear(), loss=loss, data=given, device="cpu")


class Table:
    """What a data set of the package `datasets` has, as far as it is read here: tensors where they are asked for."""

    def __init__(self, rows: list[dict[str, Any]], kind: str | None = None) -> None:
        self.rows, self.kind, self.column_names = rows, kind, list(rows[0])

    def with_format(self, kind: str) -> Table:
        return Table(self.rows, kind)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        assert self.kind == "torch", "rows of lists of numbers otherwise"
        return {name: torch.as_tensor(value) for name, value in self.rows[number].items()}


def same(found: tuple[tuple[Tensor, ...], ...], expected: Sequence[tuple[Any, ...]]) -> bool:
    return len(found) == len(expected) and all(
        len(a) == len(b) and all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        [list(pair) for pair in PAIRS],
        tuple(PAIRS),
        zip(X, Y, strict=True),
        (pair for pair in PAIRS),
        [(x.numpy(), y.numpy()) for x, y in PAIRS],
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X.flatten(0, 1), Y.flatten()), batch_size=4),
        NAMED,
        [UserDict(item) for item in NAMED],
        [{"x": item["x"].numpy(), "y": item["y"].numpy()} for item in NAMED],
        Table([{"x": x.tolist(), "y": y.tolist()} for x, y in PAIRS]),
    ],
    ids=[
        "pairs",
        "lists",
        "tuples",
        "zip",
        "generator",
        "arrays",
        "dataset",
        "loader",
        "named",
        "userdict",
        "named-arrays",
        "table",
    ],
)
def test_every_kind_of_items_becomes_the_same_tensors(given: Any) -> None:
    mapping = isinstance(given, Table) or (isinstance(given, list) and not isinstance(given[0], (tuple, list)))
    data = fut.Dataset(given, NAMED[:2] if mapping else PAIRS[:2])
    assert same(data.items, PAIRS)
    assert data.names == (("x", "y") if mapping else ())


def test_what_gives_its_items_anew_is_asked_once() -> None:
    loader: Any = DataLoader(TensorDataset(X.flatten(0, 1), Y.flatten()), batch_size=4, shuffle=True)
    data = fut.Dataset(loader, PAIRS[:1])
    assert same(data.items, [tuple(t.clone() for t in item) for item in data.items])
    assert data.identity() == data.identity() != fut.Dataset(loader, PAIRS[:1]).identity(), "the loader shuffles"


def test_tensors_and_arrays_stand_for_a_tuple_of_one_and_are_cut_along_their_first_dimension() -> None:
    for given in (X, X.numpy(), list(X), [(x,) for x in X]):
        assert same(fut.Dataset(given, given).items, [(x,) for x in X])


def test_a_number_is_a_tensor_that_holds_it_alone() -> None:
    data = fut.Dataset([(x, 3) for x in X], [(X[0], np.int64(3))])
    assert data.items[0][1].tolist() == [3] == data.probe[0][1].tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X, "y": Y}, "got dict; write"),
        (X[0, 0], "got Tensor; write"),
        ("text", "got str; write"),
        (7, "a data set with a length, got int"),
        ([[1, 2, 3]], "`items` 0: expected tensors, got a list of numbers"),
        (["text"], "`items` 0: expected items as tuples of tensors or as mappings of names to tensors, got str"),
        ([{"x": X[0], "text": "abc"}], None),
        ([NAMED[0], PAIRS[1]], "`items` 1: expected a mapping with x, y as in the first item, got a tuple of tensors"),
        ([NAMED[0], {"x": X[0]}], "`items` 1: expected a mapping with x, y as in the first item, got a mapping with x"),
        ([(X[0], object())], "`items` 0, 1: expected a tensor, an array or a number, got object"),
        ([], "at least one of `items`"),
    ],
)
def test_what_is_no_item_is_named(given: Any, message: str | None) -> None:
    with pytest.raises(
        fut.DataError, match=message or "`items` 0, text: expected a tensor, an array or a number, got str"
    ):
        fut.Dataset(given, PAIRS[:1])


def test_all_parts_are_of_one_kind() -> None:
    message = "`probe` 0: expected a mapping with x, y as in the first item, got a tuple of tensors"
    with pytest.raises(fut.DataError, match=message):
        fut.Dataset(NAMED, PAIRS[:1])
    turned = [{"y": item["y"], "x": item["x"]} for item in NAMED]
    assert same(fut.Dataset(NAMED, turned).probe, PAIRS), "by name, whatever their order"


@pytest.mark.parametrize("loss", [by_name, Weighted()], ids=["function", "module"])
def test_a_mapping_is_given_to_the_loss_as_a_dict(tmp_path: Path, loss: Any) -> None:
    plain = trained(tmp_path / "plain", fut.Dataset(PAIRS[:8], PAIRS[8:]), by_place)
    shuffled = [{"y": item["y"], "x": item["x"]} if i % 2 else item for i, item in enumerate(NAMED)]
    run = trained(tmp_path / "named", fut.Dataset(shuffled[:8], shuffled[8:]), loss)
    assert run.reference_loss == plain.reference_loss
    assert read_dataset(run.path, run.context.owner).names == ("x", "y")
    again = fut.open(run.path, module=linear(), loss=loss, device="cpu")
    assert again.retrain("reverse").loss == plain.retrain("reverse").loss
    again.cache()
    plain.cache()
    assert again.estimate(["random:3"])[0].value == plain.estimate(["random:3"])[0].value


def test_items_and_warm_up_are_counted_from_the_data_set(tmp_path: Path) -> None:
    data = fut.Dataset(PAIRS[:9], PAIRS[9:], PAIRS[:2])
    run = trained(tmp_path / "run", data, by_place, data={"per_step": 3})
    config = run.context.config
    assert (run.items, run.steps, config.data.items, config.warmup.steps) == (9, 3, 9, 2)
    assert fut.plan(module=linear(), loss=by_place, data=data).items == 9
    assert fut.load_config(run.path / "config.toml").data.items == 9
    trained(tmp_path / "same", data, by_place, data={"items": 9}, warmup={"steps": 2})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"data": {"items": 7}},
            "expected data.items=7, as configured, got 9 of them in the data set; leave data.items out",
        ),
        ({"warmup": {"steps": 5}}, "expected warmup.steps=5, as configured, got 0 of them in the data set"),
        ({"data": {"per_step": 2}}, r"`data.per_step`: expected a divisor of data.items=9, got 2"),
    ],
)
def test_a_number_that_is_given_and_another_is_refused(tmp_path: Path, sections: Any, message: str) -> None:
    with pytest.raises(fut.UsageError, match=message):
        trained(tmp_path / "run", fut.Dataset(PAIRS[:9], PAIRS[9:]), by_place, **sections)
    assert not (tmp_path / "run").exists()


def test_a_text_still_divides_into_steps(tmp_path: Path) -> None:
    with pytest.raises(fut.UsageError, match=r"`data.per_step`: expected a divisor of data.items=32, got 5"):
        fut.train(tmp_path / "run", fut.load_config(data={"per_step": 5}), device="cpu")
