"""Kronecker factors of tensors: one matrix for each dimension, as Shampoo and SOAP keep them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def factored(shape: Sequence[int], largest: int, vectors: bool = True) -> list[int]:
    """The dimensions of a tensor that have a factor: those of at most `largest`; of vectors only if `vectors`."""
    if len(shape) < (1 if vectors else 2):
        return []
    return [axis for axis, size in enumerate(shape) if size <= largest]


def unfolded(tensor: Tensor, axis: int) -> Tensor:
    """A tensor as a matrix [size of the axis, all others]."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def outer(tensor: Tensor, axis: int) -> Tensor:
    """The Gram matrix of a tensor along one axis: G G^T and G^T G of a matrix."""
    matrix = unfolded(tensor, axis)
    return matrix @ matrix.mT


def applied(tensor: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A tensor times a matrix along one axis: A G for axis 0 of a matrix, G A^T for axis 1."""
    shape = tensor.movedim(axis, 0).shape
    return (matrix @ unfolded(tensor, axis)).reshape(shape).movedim(0, axis)


def numbers(shapes: Sequence[Sequence[int]], largest: int, vectors: bool = True) -> list[int]:
    """Numbers in each factor of some tensors, tensor by tensor."""
    return [math.prod((shape[axis],) * 2) for shape in shapes for axis in factored(shape, largest, vectors)]


def square(numbers_of: Tensor) -> Tensor:
    """A flat factor [d d] as a matrix [d, d]."""
    size = math.isqrt(numbers_of.numel())
    return numbers_of.reshape(size, size)


def eye_like(matrix: Tensor) -> Tensor:
    """The identity of a matrix's size, type and device."""
    return torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
