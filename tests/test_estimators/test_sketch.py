"""Sketches against a pure-Python definition, their stated statistics, and their stated memory."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from estimators.sketch import Sketch, SketchError, SketchKind, _mixed, _quantiles, _signed

KINDS = ("gaussian", "rademacher", "sjlt", "coordinates", "identity")
RANDOM = KINDS[:-1]
WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sketch(kind: SketchKind, seed: int = 0, dimension: int = 24, size: int = 8) -> Sketch:
    return Sketch(kind, seed, dimension, dimension if kind == "identity" else size)


def matrix(s: Sketch) -> Tensor:
    """P as [k, D], in float64."""
    return s.project(torch.eye(s.dimension, dtype=torch.float64)).T


# the definition, in Python integers


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def word(s: Sketch, counter: int) -> int:
    key = s.seed
    for part in (1 + KINDS.index(s.kind), s.dimension, s.size):
        key = mix(((key ^ part) + GOLDEN) & WORD)
    return mix((key + (counter + 1) * GOLDEN) & WORD)


def piece(s: Sketch, d: int, j: int, entries: int) -> int:
    """The sixteen bits of coordinate d that hold sketch column j, where each piece makes `entries` columns."""
    words = -(-s.size // (4 * entries))
    plane, within = divmod(j, words * entries)
    return (word(s, d * words + within // entries) >> (16 * plane)) & 0xFFFF


def entry(s: Sketch, d: int, j: int) -> float:
    if s.kind == "gaussian":
        return float(_quantiles()[piece(s, d, j, 1)]) / math.sqrt(s.size)
    if s.kind == "rademacher":
        bit = piece(s, d, j, 16) >> (j % (-(-s.size // 64) * 16) % 16) & 1
        return (2 * bit - 1) / math.sqrt(s.size)
    if s.kind == "sjlt":
        nonzeros = max(n for n in range(1, 9) if s.size % n == 0)
        block, row = divmod(j, s.size // nonzeros)
        bits = word(s, d * nonzeros + block)
        hit = ((bits >> 33) * (s.size // nonzeros)) >> 31 == row
        return hit * (2 * (bits & 1) - 1) / math.sqrt(nonzeros)
    kept = sorted(sorted(range(s.dimension), key=lambda i: _signed(word(s, i)))[: s.size])
    return math.sqrt(s.dimension / s.size) * (kept[j] == d)


def test_the_hash_is_splitmix64_bit_by_bit() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = torch.tensor([_signed((1234567 + i * GOLDEN) & WORD) for i in range(1, 5)])
    assert [h & WORD for h in _mixed(states).tolist()] == published
    words = [0, 1, WORD, 1 << 63, (1 << 63) - 1, *(mix(i * GOLDEN & WORD) for i in range(2000))]
    got = _mixed(torch.tensor([_signed(w) for w in words])).tolist()
    assert [h & WORD for h in got] == [mix(w) for w in words]


@pytest.mark.parametrize(("dimension", "size"), [(13, 5), (13, 11), (9, 70), (13, 8), (100, 24), (3, 1)])
@pytest.mark.parametrize("kind", RANDOM)
def test_the_matrix_is_its_definition(kind: SketchKind, dimension: int, size: int) -> None:
    if kind == "coordinates" and size > dimension:
        size = dimension - 1
    s = Sketch(kind, (1 << 64) - 3, dimension, size)
    expected = torch.tensor([[entry(s, d, j) for d in range(dimension)] for j in range(size)], dtype=torch.float64)
    assert float((matrix(s) - expected).abs().max()) < 1e-15


@pytest.mark.parametrize(("size", "nonzeros"), [(8, 8), (9, 3), (10, 5), (11, 1), (12, 6), (32, 8)])
def test_a_sparse_sketch_has_as_many_numbers_a_coordinate_as_divide_its_size_up_to_eight(
    size: int, nonzeros: int
) -> None:
    found = matrix(Sketch("sjlt", 2, 30, size))
    assert found.count_nonzero(dim=0).tolist() == [nonzeros] * 30


def test_quantiles_are_symmetric_of_unit_variance_and_normal() -> None:
    table, grid = _quantiles().double(), (torch.arange(65536).double() + 0.5) / 65536
    assert torch.equal(table, -table.flip(0))
    assert abs(float(table.square().mean()) - 1) < 1e-8
    assert float((table - torch.from_numpy(ndtri(grid.numpy()))).abs().max()) < 1e-3
    assert abs(float(table.pow(4).mean()) - 3) < 5e-3


GOLDEN_NUMBERS: dict[str, Any] = {  # first entries times sqrt(k), or rows of the first nonzeros; crc32 of all signs
    "gaussian": ([1.124902, 0.70563, 1.701502, -0.262678, 0.847022, -0.581514, -0.933256, 0.553789], 342993794),
    "rademacher": ([1, 1, 1, -1, -1, 1, -1, -1], 1705783813),
    "sjlt": ([7, 16, 30, 44, 56, 63], 1425974215),
    "coordinates": [1, 4, 17, 20, 32, 53, 76, 81],
}


@pytest.mark.parametrize("kind", RANDOM)
def test_golden_numbers(kind: SketchKind) -> None:
    """Stored sketches stay readable: these numbers never change."""
    s = Sketch(kind, 7, 1000, 96)
    if kind == "coordinates":
        assert s.indices[:8].tolist() == GOLDEN_NUMBERS[kind]
        return
    scale = math.sqrt(s._nonzeros() if kind == "sjlt" else s.size)
    p = matrix(s) * scale
    first, checksum = GOLDEN_NUMBERS[kind]
    corner = p[:, :3].T.nonzero()[:6, 1].tolist() if kind == "sjlt" else p[:2, :4].flatten().tolist()
    assert corner == pytest.approx(first, abs=1e-6)
    assert zlib.crc32(p.sign().to(torch.int8).contiguous().numpy().tobytes()) == checksum


@pytest.mark.parametrize("kind", RANDOM)
def test_entries_are_independent_to_the_eye(kind: SketchKind) -> None:
    if kind == "coordinates":
        return
    p = matrix(Sketch(kind, 3, 2000, 64))
    p = p / p.square().mean().sqrt()
    for name, pairs in (
        ("mean", p),
        ("neighbours in a row", p[:, 1:] * p[:, :-1]),
        ("neighbours in a column", p[1:] * p[:-1]),
        ("planes", p[:32] * p[32:]),
    ):
        error = float(pairs.mean()) / float(pairs.std()) * math.sqrt(pairs.numel())
        assert abs(error) < 5, f"{kind}: {name} is {error:.1f} standard errors from 0; look at the counters of the hash"


def samples(kind: SketchKind, seeds: int, statistic: Callable[[Sketch], float], size: int = 8) -> Tensor:
    return torch.tensor([statistic(sketch(kind, seed, size=size)) for seed in range(seeds)], dtype=torch.float64)


@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("kind", RANDOM)
def test_inner_products_are_unbiased_with_the_stated_variance(kind: SketchKind, size: int) -> None:
    x, y = normal(24, seed=1), normal(24, seed=2) + 0.5 * normal(24, seed=1)
    y[0] = x[0] = 2.5  # a large coordinate, so that the kurtosis term counts
    both, n = torch.stack([x, y]), 2000

    def inner(s: Sketch) -> float:
        px, py = s.project(both)
        return float(px @ py)

    got, truth, variance = samples(kind, n, inner, size), float(x @ y), sketch(kind, size=size).inner_variance(x, y)
    error = math.sqrt(variance / n)
    mean, spread = float(got.mean()), float((got - truth).square().mean())
    assert abs(mean - truth) < 4.5 * error, (
        f"{kind}: mean of <Px,Py> {mean:.4f}, <x,y> = {truth:.4f} +- {error:.4f} (n = {n}, one s.e.): "
        "biased; look at the scale of P"
    )
    error = float((got - truth).square().std()) / math.sqrt(n)
    assert abs(spread - variance) < 4.5 * error, (
        f"{kind}: variance of <Px,Py> {spread:.3f}, stated {variance:.3f} +- {error:.3f} (n = {n}, one s.e.): "
        "entries are dependent, or the formula is wrong"
    )


@pytest.mark.parametrize("kind", RANDOM)
def test_reconstruction_error_is_the_stated_one(kind: SketchKind) -> None:
    x, n = normal(24, seed=1), 1000
    got = samples(kind, n, lambda s: float((s.lift(s.project(x)) - x).square().sum() / x.square().sum()))
    stated, error = sketch(kind).reconstruction_error() ** 2, float(got.std()) / math.sqrt(n)
    assert abs(float(got.mean()) - stated) < 4.5 * error, (
        f"{kind}: mean squared error {float(got.mean()):.3f}, stated {stated:.3f} +- {error:.3f} (n = {n})"
    )


def test_stated_errors_are_the_known_formulas() -> None:
    expected: dict[SketchKind, float] = {"gaussian": 25 / 8, "rademacher": 23 / 8, "sjlt": 23 / 8}
    expected |= {"coordinates": 2.0, "identity": 0.0}
    x = normal(24)
    for kind, squared in expected.items():
        assert sketch(kind).reconstruction_error() ** 2 == pytest.approx(squared, rel=2e-4)
        assert (sketch(kind).inner_variance(x, x) == 0) == (kind == "identity")
    assert Sketch("coordinates", 0, 24, 24).inner_variance(x, x) == 0
    assert Sketch("coordinates", 0, 1, 1).inner_variance(x[:1], x[:1]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_projection_is_linear_and_lift_is_its_adjoint(kind: SketchKind) -> None:
    s = sketch(kind, dimension=1000, size=72)
    x, z, y = normal(1000, seed=1), normal(1000, seed=2), normal(s.size, seed=3)
    assert torch.allclose(s.project(2 * x - 3 * z), 2 * s.project(x) - 3 * s.project(z), rtol=0, atol=1e-12)
    assert float(s.project(x) @ y) == pytest.approx(float(x @ s.lift(y)), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_single_vectors_whatever_their_layout(kind: SketchKind, dtype: torch.dtype) -> None:
    s, rounding = sketch(kind, dimension=1000, size=72), 1e-4 if dtype == torch.float32 else 1e-13
    x = normal(2, 3, 1000, dtype=dtype)
    y = s.project(x)
    assert y.shape == (2, 3, s.size)
    assert y.dtype == dtype
    assert torch.equal(y, s.project(x)), "the same call gave other bits"
    transposed = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.allclose(s.project(transposed), y, rtol=0, atol=rounding)
    back = s.lift(y)
    assert back.shape == x.shape
    for i in range(2):
        for j in range(3):
            assert torch.allclose(s.project(x[i, j]), y[i, j], rtol=0, atol=rounding)
            assert torch.allclose(s.lift(y[i, j]), back[i, j], rtol=0, atol=rounding)
    assert s.project(x[:0]).shape == (0, 3, s.size)
    assert s.lift(y[:0]).shape == (0, 3, 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_uses_the_same_matrix_and_autocast_changes_nothing(kind: SketchKind) -> None:
    s, x = sketch(kind, dimension=1000, size=72), normal(2, 1000)
    assert torch.allclose(s.project(x.float()).double(), s.project(x), rtol=0, atol=1e-4)
    plain = s.project(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(s.project(x.float()), plain)
        assert s.lift(plain).dtype == torch.float32
    assert not s.project(x.requires_grad_()).requires_grad


@pytest.mark.parametrize("kind", RANDOM)
def test_other_seeds_and_sizes_give_other_matrices(kind: SketchKind) -> None:
    base = matrix(Sketch(kind, 0, 50, 16))
    for seed in (1, 2, 1 << 32, (1 << 64) - 1):
        assert not torch.equal(base, matrix(Sketch(kind, seed, 50, 16)))
    assert not torch.equal(base[:8], matrix(Sketch(kind, 0, 50, 8)))
    assert torch.equal(base, matrix(Sketch(kind, 0, 50, 16)))


def test_identity_is_exact_and_no_alias() -> None:
    s, x = sketch("identity"), normal(2, 24)
    assert torch.equal(s.project(x), x)
    assert torch.equal(s.lift(x), x)
    assert s.project(x).data_ptr() != x.data_ptr()


@pytest.mark.parametrize(("dimension", "size"), [(1, 1), (10, 1), (10, 10), (5000, 700)])
def test_coordinates_are_unique_ascending_and_in_range(dimension: int, size: int) -> None:
    s, x = Sketch("coordinates", 5, dimension, size), normal(3, dimension)
    indices = s.indices.tolist()
    assert indices == sorted(set(indices))
    assert len(indices) == size
    assert 0 <= indices[0] <= indices[-1] < dimension
    assert torch.equal(s.restrict(x), x[:, indices])
    assert torch.equal(s.project(x), s.restrict(x) * math.sqrt(dimension / size))


class Largest(TorchDispatchMode):
    """Records the element count of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.numel())
        return out


@pytest.mark.parametrize("kind", RANDOM)
def test_the_matrix_never_exists(kind: SketchKind) -> None:
    s, x = Sketch(kind, 0, 9000, 2000), normal(2, 9000, dtype=torch.float32)
    seen = Largest()
    with seen:
        s.lift(s.project(x))
    assert seen.elements > 0
    assert seen.elements < 9000 * 2000 / 4, f"a tensor of {seen.elements} elements; P has {9000 * 2000}"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to compare with")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_has_the_same_numbers(kind: SketchKind) -> None:
    s, x = sketch(kind, dimension=3000, size=72), normal(3, 3000)
    unit = torch.eye(3000, dtype=torch.float64)[::100]
    assert torch.equal(s.project(unit.cuda()).cpu(), s.project(unit)), "P differs by device"
    y = s.project(x.cuda())
    assert y.is_cuda
    assert torch.equal(y, s.project(x.cuda())), "not deterministic on CUDA"
    assert torch.allclose(y.cpu(), s.project(x), rtol=0, atol=1e-12)
    assert torch.allclose(s.lift(y).cpu(), s.lift(y.cpu()), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fourier", 0, 10, 5), "gaussian, rademacher, sjlt, coordinates, identity; got 'fourier'; choose"),
        (("coordinates", 0, 10, 11), "expected at most 10 coordinates, the dimension, got size 11; lower"),
        (("gaussian", 0, 10, 0), "size >= 1, got 10 and 0; give"),
        (("gaussian", 0, 0, 1), "dimension >= 1"),
        (("gaussian", -1, 10, 5), "a seed from 0 to"),
        (("gaussian", 0.5, 10, 5), r"expected integers .* got \(0.5, 10, 5\); convert"),
        (("identity", 0, 10, 5), "expected size 10 for kind 'identity', the dimension, got 5; set"),
    ],
)
def test_an_impossible_sketch_says_why(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(SketchError, match=says):
        Sketch(*arguments)


def test_a_vector_that_does_not_fit_says_why() -> None:
    s, x = sketch("gaussian"), normal(24)
    for call, wrong, expected in ((s.project, normal(2, 23), 24), (s.lift, x, 8), (s.project, x[0], 24)):
        shape = str(tuple(wrong.shape)).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(SketchError, match=rf"expected a last axis of {expected} .*, got shape {shape}; flatten"):
            call(wrong)
    with pytest.raises(SketchError, match=r"expected float32 or float64, got torch\.bfloat16; convert"):
        s.project(x.bfloat16())
    for name in ("project", "restrict"):
        with pytest.raises(SketchError, match=f"^{name}: expected a last axis of 24"):
            getattr(sketch("coordinates"), name)(normal(23))
    with pytest.raises(SketchError, match=r"^lift: expected a last axis of 8"):
        s.lift(x)
    with pytest.raises(SketchError, match="one vector"):
        s.inner_variance(normal(2, 24), x)
    with pytest.raises(SketchError, match="expected kind 'coordinates', got 'gaussian'"):
        s.restrict(x)
