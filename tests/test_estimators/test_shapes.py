"""Shapes in annotations are checked in every call that a test makes."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from estimators.reweighting import attributions, first_order_values
from estimators.shapes import Float


def test_a_tensor_of_another_shape_or_kind_is_refused() -> None:
    assert first_order_values(torch.ones(2, 5), torch.ones(3, 5)).shape == (2, 3)
    with pytest.raises(TypeCheckError, match="gradients"):
        first_order_values(torch.ones(2, 5), torch.ones(3, 4))
    with pytest.raises(TypeCheckError, match="values"):
        attributions(torch.ones(3, dtype=torch.long))


def test_in_a_test_the_names_are_jaxtypings() -> None:
    assert Float.__module__.startswith("jaxtyping"), "elsewhere they are Annotated, and nothing is imported for them"
