"""Shapes in annotations are checked in every call that a test makes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from checked_shapes import checked
from torch import Tensor

from estimators.reweighting import attributions, first_order_values
from estimators.shapes import Float


def test_a_tensor_of_another_shape_or_kind_is_refused() -> None:
    assert first_order_values(torch.ones(2, 5), torch.ones(3, 5)).shape == (2, 3)
    with pytest.raises(BeartypeCallHintViolation, match="gradients"):
        first_order_values(torch.ones(2, 5), torch.ones(3, 4))
    with pytest.raises(BeartypeCallHintViolation, match="values"):
        attributions(torch.ones(3, dtype=torch.long))


def test_what_is_returned_is_held_to_the_sizes_of_what_was_given() -> None:
    @checked
    def first_half(vectors: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        return vectors[:, : vectors.shape[1] // 2]

    with pytest.raises(BeartypeCallHintViolation, match="return"):
        first_half(torch.ones(2, 4))


def test_sizes_of_one_call_say_nothing_of_another() -> None:
    @checked
    def inner(vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        return vector

    @checked
    def outer(vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        inner(vector[1:])
        return vector

    assert outer(torch.ones(3)).shape == (3,)
    assert outer(torch.ones(5)).shape == (5,)


def test_fields_of_a_dataclass_are_checked_and_other_functions_are_left_alone() -> None:
    @checked
    @dataclass
    class Pair:
        first: Float[Tensor, " D"]
        second: Float[Tensor, " D"]

    def count(number: int) -> int:
        return number

    assert Pair(torch.ones(3), torch.ones(3)).first.shape == (3,)
    with pytest.raises(BeartypeCallHintViolation, match="second"):
        Pair(torch.ones(3), torch.ones(4))
    assert checked(count) is count


def test_in_a_test_the_names_are_jaxtypings() -> None:
    assert Float.__module__.startswith("jaxtyping"), "elsewhere they are Annotated, and nothing is imported for them"
