"""How alike pieces of data are: cosines of tf-idf vectors of token n-grams, and groups of like pieces.

Term weights are (1 + ln count) (1 + ln((1 + N) / (1 + n))), for a term that n of N pieces hold (Salton & Buckley 1988); every
number is a sum in a fixed order, so that the same pieces give the same figures on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
LONGEST = 4
"""Longest n-gram, in tokens: with bytes, about a short word."""


def token_vectors(pieces: Sequence[ArrayLike], longest: int = LONGEST) -> Floats:
    """Unit tf-idf vectors of pieces, as their Gram matrix: cosine of every pair [N, N], 1 on the diagonal.

    pieces: whole numbers [sequences, tokens] each; an n-gram lies within a sequence. Pieces without a term are like nothing.
    """
    weights = _weights(_counts(pieces, longest))
    return _cosines(np.asarray((weights @ weights.T).todense(), dtype=float))


def number_vectors(pieces: Sequence[ArrayLike]) -> Floats:
    """The same for pieces of numbers [samples, ...]: cosines of their mean samples, each number standardised over pieces."""
    means = np.stack([np.asarray(p, dtype=float).reshape(len(np.asarray(p)), -1).mean(0) for p in pieces])
    spread = means.std(0)
    scaled = np.divide(means - means.mean(0), spread, out=np.zeros_like(means), where=spread > 0)
    return _cosines(scaled @ scaled.T)


def _cosines(gram: Floats) -> Floats:
    length = np.sqrt(np.diag(gram))
    scale = np.outer(length, length)
    clipped: Floats = np.clip(np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0), -1.0, 1.0)
    return clipped


def _counts(pieces: Sequence[ArrayLike], longest: int) -> csr_array:
    """How often every piece holds every n-gram of 1 to `longest` tokens: [N, terms]."""
    rows, terms, first = [], [], 0
    codes = [np.asarray(piece, dtype=np.int64).reshape(len(np.asarray(piece)), -1) for piece in pieces]
    owners = [np.full(c.shape, i) for i, c in enumerate(codes)]
    grams, tokens = codes, codes
    for n in range(1, longest + 1):
        if n > 1:  # an n-gram is an (n - 1)-gram and the token after it
            base = 1 + max((int(t.max()) for t in tokens if t.size), default=0)
            grams = [
                g[:, : max(t.shape[1] - n + 1, 0)] * base + t[:, n - 1 :] for g, t in zip(grams, tokens, strict=True)
            ]
        flat = np.concatenate([g.ravel() for g in grams])
        names, numbered = np.unique(flat, return_inverse=True)
        rows.append(np.concatenate([o[:, : g.shape[1]].ravel() for o, g in zip(owners, grams, strict=True)]))
        terms.append(first + numbered)
        first += len(names)
        grams = _split(numbered, [g.shape for g in grams])  # small numbers again, so that no product overflows
    from scipy.sparse import csr_array

    row, term = np.concatenate(rows), np.concatenate(terms)
    return csr_array((np.ones(len(row)), (row, term)), shape=(len(pieces), first))


def _split(flat: NDArray[np.int64], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.int64]]:
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def _weights(counts: csr_array) -> csr_array:
    holders = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = 1.0 + np.log((1 + counts.shape[0]) / (1 + holders))
    return type(counts)(
        (((1.0 + np.log(counts.data)) * rarity[counts.indices]), counts.indices, counts.indptr), counts.shape
    )


def like_groups(cosines: ArrayLike, count: int) -> list[list[int]]:
    """`count` groups of like pieces, sizes differing by one at most, from their cosines [N, N].

    Halved again and again along the direction in which the pieces of a part differ most (principal component of its centred
    Gram matrix). ValueError for fewer pieces than groups.
    """
    gram = np.asarray(cosines, dtype=float)
    if not 1 <= count <= len(gram):
        raise ValueError(f"groups: expected 1 to {len(gram)}, as many as there are pieces, got {count}")
    return [sorted(part) for part in _halved(gram, list(range(len(gram))), count)]


def _halved(gram: Floats, part: list[int], count: int) -> list[list[int]]:
    if count == 1:
        return [part]
    centred = gram[np.ix_(part, part)]
    centred = centred - centred.mean(0) - centred.mean(1)[:, None] + centred.mean()
    along = np.linalg.eigh((centred + centred.T) / 2)[1][:, -1]
    along = along * (1.0 if along[np.abs(along).argmax()] >= 0 else -1.0)
    ordered = [part[i] for i in np.argsort(along, kind="stable")]
    cut = round(len(part) * (count // 2) / count)
    return [*_halved(gram, ordered[:cut], count // 2), *_halved(gram, ordered[cut:], count - count // 2)]
