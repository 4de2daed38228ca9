"""bfloat16 rounding against a slow reference in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from storage import from_bfloat16, to_bfloat16


def all_patterns() -> np.ndarray:
    return np.arange(65536, dtype=np.uint16)


def slow_nearest(value: float) -> int:
    """The bit pattern nearest to a finite float, ties to even, by comparing exact distances to both neighbours."""
    exact = abs(Fraction(value))
    sign = 0x8000 if np.signbit(value) else 0
    below = int(np.float32(abs(value)).view(np.uint32)) >> 16
    above = below + 1
    # The pattern after the largest finite one is infinity, which rounding treats as 2**128.
    upper = Fraction(2) ** 128 if above == 0x7F80 else Fraction(float(from_bfloat16(np.asarray(above, np.uint16))))
    lower = Fraction(float(from_bfloat16(np.asarray(below, np.uint16))))
    if exact - lower == upper - exact:
        return sign | (below if below % 2 == 0 else above)
    return sign | (below if exact - lower < upper - exact else above)


def awkward_floats() -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint32)
    ties = (rng.integers(0, 2**16, 1000, dtype=np.uint32) << np.uint32(16)) | np.uint32(0x8000)
    near = np.concatenate([ties - np.uint32(1), ties + np.uint32(1)])
    edges = np.array([0, 0x80000000, 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x00008000], np.uint32)
    values = np.concatenate([bits, ties, near, edges]).view(np.float32)
    return values[np.isfinite(values)]


def test_rounding_equals_the_exact_reference():
    values = awkward_floats()
    expected = np.array([slow_nearest(float(value)) for value in values], np.uint16)
    actual = to_bfloat16(values)
    wrong = np.flatnonzero(actual != expected)
    assert len(wrong) == 0, f"{len(wrong)} wrong, first {values[wrong[0]]}: {actual[wrong[0]]:04x}"


def test_every_pattern_survives_the_round_trip():
    patterns = all_patterns()
    values = from_bfloat16(patterns)
    finite_or_infinite = ~np.isnan(values)
    np.testing.assert_array_equal(to_bfloat16(values)[finite_or_infinite], patterns[finite_or_infinite])


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FC00000])
def test_nan_stays_nan(bits):
    nan = np.array([bits], np.uint32).view(np.float32)
    back = from_bfloat16(to_bfloat16(nan))
    assert np.isnan(back).all()
    assert np.signbit(back[0]) == np.signbit(nan[0])


def test_shape_is_kept_also_for_strided_input():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    assert to_bfloat16(values).shape == (2, 2)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), values)
