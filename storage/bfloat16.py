"""bfloat16 as uint16: the upper half of a float32, rounded to nearest, ties to even."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAN_BITS = 0x7FC0


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bfloat16 bit patterns nearest to `values`, same shape. NaN stays NaN; overflow gives infinity."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    # Wraps only for bit patterns of NaN, which are replaced below.
    rounded = ((bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)).astype(np.uint16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if nan.any():
        sign = (bits >> np.uint32(16)).astype(np.uint16) & np.uint16(0x8000)
        rounded = np.where(nan, sign | np.uint16(NAN_BITS), rounded)
    return rounded.reshape(np.shape(values))


def from_bfloat16(patterns: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of bfloat16 bit patterns, exactly, same shape."""
    return (np.asarray(patterns, dtype=np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
