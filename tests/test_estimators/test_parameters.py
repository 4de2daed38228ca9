"""The layout of the parameter vector: split and joined, cut along couplings, and restricted."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest
import torch

from estimators.errors import LayoutError
from estimators.parameters import Coupling, ParameterLayout

LAYOUT = ParameterLayout(("emb", "a.weight", "a.bias", "b.weight"), ((3, 4), (2, 5), (5,), (2, 3)))
ENDS = [0, 12, 22, 27, 33]


def ends(blocks: list[slice]) -> list[int]:
    return [0, *(block.stop for block in blocks)]


def test_sizes_slices_and_layers() -> None:
    assert (LAYOUT.size, LAYOUT.sizes, list(LAYOUT.ends)) == (33, (12, 10, 5, 6), ENDS)
    assert LAYOUT.slices[2] == slice(22, 27)
    assert LAYOUT.layers == ("", "a", "a", "b")
    assert hash(LAYOUT) == hash(ParameterLayout(list(LAYOUT.names), [list(s) for s in LAYOUT.shapes]))  # type: ignore[arg-type]


def test_split_and_join_undo_each_other_for_numbers_vectors_and_stacks() -> None:
    layout = ParameterLayout(("scale", "bias", "w"), ((), (3,), (2, 4)))
    vector = torch.randn(5, 2, 12)
    parts = layout.split(vector)
    assert [p.shape[2:] for p in parts] == [(), (3,), (2, 4)]
    assert torch.equal(layout.join(parts), vector)
    with pytest.raises(LayoutError, match="expected a vector of 12 numbers in 3 tensors, got 11"):
        layout.split(vector[..., :11])


@pytest.mark.parametrize(
    ("coupling", "width", "multiple", "expected"),
    [
        ("coordinate", 10, 1, [0, 10, 20, 30, 33]),
        ("coordinate", 10, 4, [0, 8, 16, 24, 33]),
        ("matrix", 1, 1, ENDS),
        ("matrix", 23, 1, [0, 22, 33]),
        ("matrix", 1, 11, [0, 22, 33]),
        ("layer", 1, 1, [0, 12, 27, 33]),
        ("layer", 20, 1, [0, 12, 27, 33]),
        ("global", 1, 1, [0, 33]),
    ],
)
def test_blocks_are_as_wide_as_asked_and_cut_nothing(
    coupling: Coupling, width: int, multiple: int, expected: list[int]
) -> None:
    assert ends(LAYOUT.blocks(coupling, width, multiple)) == expected


def test_layers_that_stand_between_one_another_are_one_block() -> None:
    layout = ParameterLayout(("a.x", "b.x", "a.y", "c.x"), ((2,), (2,), (2,), (2,)))
    assert ends(layout.blocks("layer")) == [0, 6, 8]
    assert ends(layout.blocks("matrix")) == [0, 2, 4, 6, 8]


def test_random_layouts_are_partitioned_and_restricted_alike_by_slices_and_numbers() -> None:
    draw = random.Random(0)
    for _ in range(60):
        shapes = [draw.choice([(2, 3), (4,), (), (0,), (1, 5)]) for _ in range(draw.randint(1, 6))]
        layout = ParameterLayout([f"{draw.choice('abc')}.{i}" for i in range(len(shapes))], shapes)  # type: ignore[arg-type]
        every = torch.arange(layout.size)
        for coupling in get_args(Coupling):
            for width, multiple in [(1, 1), (3, 1), (7, 2), (100, 5)]:
                blocks = layout.blocks(coupling, width, multiple)
                assert [i for block in blocks for i in every[block].tolist()] == every.tolist()
                assert all(block.start % multiple == 0 for block in blocks)
                for block in blocks:
                    found = layout.restrict(block, coupling)
                    assert found == layout.restrict(every[block], coupling)
                    assert found.size == block.stop - block.start
        first, last = sorted(draw.sample(range(layout.size + 2), 2))
        assert layout.restrict(slice(first, last)) == layout.restrict(every[first:last])


def test_a_restriction_keeps_whole_tensors_their_shapes_and_groups() -> None:
    layout = ParameterLayout(LAYOUT.names, LAYOUT.shapes, ("x", "y", "y", "z"))
    found = layout.restrict(torch.tensor([1, 5, *range(12, 22), 30]))
    assert found == ParameterLayout(("emb", "a.weight", "b.weight"), ((2,), (2, 5), (1,)), ("x", "y", "z"))
    assert layout.restrict(slice(None)) == layout
    assert layout.restrict(slice(12, 22), "matrix").shapes == ((2, 5),)


@pytest.mark.parametrize(
    ("coordinates", "coupling", "says"),
    [
        (
            slice(0, 13),
            "matrix",
            r"expected all 10 coordinates of `a.weight` or none of them, as they are updated together",
        ),
        (slice(12, 22), "layer", r"expected all 15 coordinates of `a.weight`, `a.bias` or none .* got 10"),
        (slice(0, 27), "global", r"`emb`, `a.weight`, `a.bias`, … or none"),
        (torch.arange(12)[::2], "matrix", r"12 coordinates of `emb` .*got 6; take whole blocks, or all coordinates"),
        (torch.tensor([3, 2]), "coordinate", "ascending, each once, got others"),
        (torch.tensor([3, 33]), "coordinate", r"coordinates of 0\.\.32"),
        (slice(0, 9, 2), "coordinate", "a slice without a step"),
    ],
)
def test_what_cannot_be_taken_apart_is_named(coordinates: slice | torch.Tensor, coupling: Coupling, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        LAYOUT.restrict(coordinates, coupling)


@pytest.mark.parametrize(
    ("names", "shapes", "groups", "says"),
    [
        (("a", "a"), ((1,), (2,)), (), "names that occur once, got `a` again"),
        (("a",), ((1,), (2,)), (), "a shape for each of 1 names, got 2"),
        (("a", "b"), ((1,), (2,)), ("x",), "a group for each of 2 tensors, or none at all, got 1"),
        (("a",), ((-1,),), (), r"whole numbers >= 0 as the shape of `a`, got \(-1,\)"),
        (("a",), ((1.5,),), (), "whole numbers"),
        ((3,), ((1,),), (), "texts as names, got 3"),
        (("a",), ((1,),), (7,), "texts as groups, got 7"),
    ],
)
def test_a_layout_that_does_not_fit_says_what_would(names: Any, shapes: Any, groups: Any, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        ParameterLayout(names, shapes, groups)
