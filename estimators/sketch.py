"""Random sketches P [k, D] of parameter-sized vectors, given by (kind, seed, D, k) alone on every device.

Entries come from a counter-based integer hash in int64 arithmetic, never from a device's random generator. They are
made in tiles and thrown away, so a sketch needs O(D) memory and P, D*k numbers, never exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .shapes import Float, Int

SketchKind = Literal["gaussian", "rademacher", "sjlt", "coordinates", "identity"]

_CODES = {"gaussian": 1, "rademacher": 2, "sjlt": 3, "coordinates": 4, "identity": 5}  # part of the definition
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_PIECES = (0, 16, 32, 48)
_ENTRIES_PER_PIECE = {"gaussian": 1, "rademacher": 16}
_TILE = 1 << 18  # entries per tile: the hashes of a tile stay in cache
_SJLT_TILE = 1 << 18  # coordinates per tile


class SketchError(ValueError):
    """A sketch that cannot exist, or a vector that does not fit it."""


@dataclass(frozen=True)
class Sketch:
    """A linear map P from D coordinates to k numbers with E[P^T P] = 1 over seeds.

    kind: `gaussian`, entries N(0, 1/k) on 65536 quantiles; `rademacher`, entries +-1/sqrt(k) (Achlioptas 2003);
        `sjlt`, s nonzeros +-1/sqrt(s) per column, one in each of s blocks of k/s rows, s the largest divisor of k up to
        8 (Kane & Nelson 2014); `coordinates`, k of D without replacement, scaled by sqrt(D/k); `identity`.
    seed: 0 <= seed < 2^64. dimension: D. size: k.

    Vectors are float32 or float64 and are worked on in their dtype, on their device, outside autograd. P has the same
    numbers everywhere; sums are taken in a fixed order of tiles, and only a matrix product's own rounding may depend on
    the device and on how many vectors are sketched together.

    Raises SketchError for an unknown kind or numbers out of range.
    """

    kind: SketchKind
    seed: int
    dimension: int
    size: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(SketchKind):
            known = ", ".join(get_args(SketchKind))
            raise SketchError(f"expected a sketch kind among {known}; got {self.kind!r}; choose one of these names")
        if not all(type(number) is int for number in (self.seed, self.dimension, self.size)):
            given = (self.seed, self.dimension, self.size)
            raise SketchError(f"expected integers for seed, dimension and size, got {given}; convert them with int()")
        if not 0 <= self.seed <= _WORD:
            raise SketchError(f"expected a seed from 0 to 2^64 - 1, got {self.seed}; choose another seed")
        if self.dimension < 1 or self.size < 1:
            raise SketchError(
                f"expected dimension >= 1 and size >= 1, got {self.dimension} and {self.size}; "
                "give the number of parameters and the length of a sketch"
            )
        if self.kind == "coordinates" and self.size > self.dimension:
            raise SketchError(
                f"expected at most {self.dimension} coordinates, the dimension, got size {self.size}; "
                "lower the size or use kind 'identity'"
            )
        if self.kind == "identity" and self.size != self.dimension:
            raise SketchError(
                f"expected size {self.dimension} for kind 'identity', the dimension, got {self.size}; "
                "set them equal or choose another kind"
            )

    @torch.no_grad()
    def project(self, x: Tensor) -> Float[Tensor, "*n k"]:
        """P x: [..., D] -> [..., k]. Several vectors at once share the tiles, which cost more than the products.

        Each vector meets a tile by itself, so that it has the same bits alone and in a stack.

        Raises SketchError for another last axis or dtype.
        """
        self._check(x, self.dimension, "project")
        if self.kind == "identity":
            return x.clone()
        if self.kind == "coordinates":
            return self.restrict(x) * math.sqrt(self.dimension / self.size)
        rows = x.reshape(-1, self.dimension)
        out = self._project_sjlt(rows) if self.kind == "sjlt" else self._project_dense(rows)
        return out.reshape(*x.shape[:-1], self.size)

    @torch.no_grad()
    def lift(self, y: Tensor) -> Float[Tensor, "*n D"]:
        """P^T y: [..., k] -> [..., D], the adjoint and no inverse: see `reconstruction_error`.

        Raises SketchError for another last axis or dtype.
        """
        self._check(y, self.size, "lift")
        if self.kind == "identity":
            return y.clone()
        if self.kind == "coordinates":
            out = y.new_zeros(*y.shape[:-1], self.dimension)
            out[..., self.indices.to(y.device)] = y * math.sqrt(self.dimension / self.size)
            return out
        rows = y.reshape(-1, self.size)
        out = self._lift_sjlt(rows) if self.kind == "sjlt" else self._lift_dense(rows)
        return out.reshape(*y.shape[:-1], self.dimension)

    @cached_property
    def indices(self) -> Int[Tensor, " k"]:
        """The sampled coordinates, ascending, int64 [k] on the CPU; SketchError unless the kind is `coordinates`."""
        if self.kind != "coordinates":
            raise SketchError(
                f"expected kind 'coordinates', got {self.kind!r}, which mixes all coordinates; "
                "use a coordinate sketch where the update rule has to act on the sketch"
            )
        order = torch.sort(self._hashes(0, self.dimension, torch.device("cpu")), stable=True).indices
        return order[: self.size].sort().values

    def restrict(self, x: Tensor) -> Float[Tensor, "*n k"]:
        """The sampled coordinates of x as they are, unscaled: [..., D] -> [..., k]; kind `coordinates` only."""
        self._check(x, self.dimension, "restrict")
        return x[..., self.indices.to(x.device)]

    def inner_variance(self, x: Tensor, y: Tensor) -> float:
        """Variance over seeds of <Px, Py>, which has mean <x, y>, for x, y [D].

        (|x|^2 |y|^2 + <x, y>^2 + (kurtosis - 3) sum x^2 y^2)/k with the entries' kurtosis (rademacher and sjlt: 1);
        coordinates: D^2/k (1 - k/D) S^2, with S^2 the sample variance of the products x_i y_i; identity: 0.
        """
        self._check(x, self.dimension, "inner_variance")
        self._check(y, self.dimension, "inner_variance")
        x, y = x.double().flatten(), y.double().flatten()
        if x.numel() != self.dimension or y.numel() != self.dimension:
            raise SketchError("expected one vector [D] each, got a batch; call inner_variance once per pair")
        if self.size == self.dimension and self.kind in ("coordinates", "identity"):
            return 0.0
        if self.kind == "coordinates":
            fraction = self.size / self.dimension
            return self.dimension**2 / self.size * (1.0 - fraction) * float((x * y).var())
        spread = x.square().sum() * y.square().sum() + (x * y).sum().square()
        return float(spread + (self._kurtosis() - 3.0) * (x * y).square().sum()) / self.size

    def reconstruction_error(self) -> float:
        """sqrt(E|P^T P x - x|^2)/|x| over seeds, the same for every x: sqrt((D + kurtosis - 2)/k).

        That is sqrt((D+1)/k) for gaussian, sqrt((D-1)/k) for rademacher and sjlt; coordinates sqrt(D/k - 1).
        """
        if self.kind == "identity":
            return 0.0
        if self.kind == "coordinates":
            return math.sqrt(self.dimension / self.size - 1.0)
        return math.sqrt((self.dimension + self._kurtosis() - 2.0) / self.size)

    def _kurtosis(self) -> float:
        return float(_quantiles().double().pow(4).mean()) if self.kind == "gaussian" else 1.0

    def _check(self, x: Tensor, last: int, call: str) -> None:
        if x.ndim < 1 or x.shape[-1] != last:
            raise SketchError(
                f"{call}: expected a last axis of {last} (D = {self.dimension}, k = {self.size}), got shape "
                f"{tuple(x.shape)}; flatten the parameters into one axis, or make the sketch for this dimension"
            )
        if x.dtype not in (torch.float32, torch.float64):
            raise SketchError(f"{call}: expected float32 or float64, got {x.dtype}; convert the vector first")

    def _key(self) -> int:
        key = torch.tensor(_signed(self.seed))
        for part in (_CODES[self.kind], self.dimension, self.size):
            key = _mixed((key ^ part) + _signed(_GOLDEN))
        return int(key)

    def _hashes(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Outputs start .. stop-1 of splitmix64 (Steele, Lea & Flood 2014) seeded with the sketch's key: int64."""
        return _mixed(torch.arange(start + 1, stop + 1, device=device) * _signed(_GOLDEN) + self._key())

    def _tiles(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Unscaled blocks of P^T as (coordinates, sketch columns, entries), on x's device and in its dtype.

        A coordinate owns `words` hashes; sixteen-bit piece p of all of them fills the columns of plane p, which are
        padded at the end to whole words.
        """
        table = _entries(self.kind, x.dtype, x.device)
        words = self._padded() // (len(_PIECES) * _ENTRIES_PER_PIECE[self.kind])
        width = words * _ENTRIES_PER_PIECE[self.kind]
        height = max(1, _TILE // width)
        for start in range(0, self.dimension, height):
            stop = min(start + height, self.dimension)
            hashes = self._hashes(start * words, stop * words, x.device)
            for plane, shift in enumerate(_PIECES):
                entries = table.index_select(0, (hashes >> shift) & 0xFFFF).view(stop - start, width)
                yield slice(start, stop), slice(plane * width, (plane + 1) * width), entries

    def _padded(self) -> int:
        per_word = len(_PIECES) * _ENTRIES_PER_PIECE[self.kind]
        return -(-self.size // per_word) * per_word

    def _project_dense(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), self._padded())
        for coordinates, columns, entries in self._tiles(x):
            for row, vector in zip(out, x, strict=True):
                row[columns].addmv_(entries.T, vector[coordinates])
        return out[:, : self.size] * (1.0 / math.sqrt(self.size))  # CUDA would round a quotient otherwise than the CPU

    def _lift_dense(self, y: Tensor) -> Tensor:
        padded = y.new_zeros(len(y), self._padded())
        padded[:, : self.size] = y * (1.0 / math.sqrt(self.size))
        out = y.new_zeros(len(y), self.dimension)
        for coordinates, columns, entries in self._tiles(y):
            out[:, coordinates].addmm_(padded[:, columns], entries.T)
        return out

    def _nonzeros(self) -> int:
        return next(s for s in range(8, 0, -1) if self.size % s == 0)

    def _sjlt_tiles(self, x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Columns of P as (coordinates, rows [coordinates, s], values [coordinates, s])."""
        s = self._nonzeros()
        block = self.size // s
        for start in range(0, self.dimension, _SJLT_TILE):
            stop = min(start + _SJLT_TILE, self.dimension)
            hashes = self._hashes(start * s, stop * s, x.device).view(-1, s)
            within = (_shifted(hashes, 33) * block) >> 31
            rows = within + block * torch.arange(s, device=x.device)
            yield slice(start, stop), rows, ((hashes & 1) * 2 - 1).to(x.dtype) * (1.0 / math.sqrt(s))

    def _project_sjlt(self, x: Tensor) -> Tensor:
        """Sums by sorted row, a bag per row: deterministic on every device, where scattered sums are not."""
        out = x.new_zeros(len(x), self.size)
        first = torch.arange(self.size, device=x.device)
        for coordinates, rows, values in self._sjlt_tiles(x):
            ordered, position = torch.sort(rows.flatten(), stable=True)
            bags = torch.searchsorted(ordered, first)
            source = position // self._nonzeros()
            weights = values.flatten()[position]
            for row, vector in zip(out, x, strict=True):
                column = vector[coordinates].unsqueeze(-1)
                row += embedding_bag(source, column, bags, mode="sum", per_sample_weights=weights).squeeze(-1)
        return out

    def _lift_sjlt(self, y: Tensor) -> Tensor:
        out = y.new_empty(len(y), self.dimension)
        vectors = y.T.contiguous()
        for coordinates, rows, values in self._sjlt_tiles(y):
            out[:, coordinates] = embedding_bag(rows, vectors, mode="sum", per_sample_weights=values).T
        return out


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, shift: int) -> Tensor:
    """Logical right shift; torch's own on int64 repeats the sign bit."""
    return (z >> shift) & ((1 << (64 - shift)) - 1)


def _mixed(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 words, whose products wrap."""
    z = z ^ _shifted(z, _SHIFTS[0])
    for multiplier, shift in zip(_MULTIPLIERS, _SHIFTS[1:], strict=True):
        z = z * _signed(multiplier)
        z = z ^ _shifted(z, shift)
    return z


@lru_cache(maxsize=1)
def _quantiles() -> Tensor:
    """65536 quantiles of the standard normal law at (i + 1/2)/65536, rescaled to variance 1, float32."""
    from scipy.special import ndtri

    lower = torch.from_numpy(ndtri((torch.arange(32768, dtype=torch.float64) + 0.5).numpy() / 65536))
    values = torch.cat([lower, -lower.flip(0)])  # symmetric to the bit, so that the mean is exactly 0
    return (values / values.square().mean().sqrt()).float()


@lru_cache(maxsize=8)
def _entries(kind: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Entries for every sixteen-bit piece: gaussian [65536], rademacher [65536, 16]."""
    if kind == "gaussian":
        return _quantiles().to(device, dtype)
    bits = (torch.arange(65536, device=device).unsqueeze(-1) >> torch.arange(16, device=device)) & 1
    return (bits * 2 - 1).to(dtype)
