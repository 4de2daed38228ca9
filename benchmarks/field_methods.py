"""Scores of training samples by methods of others, written from their papers: TRAK, EK-FAC influence, TracIn, cosines, BM25.

A score is the estimated derivative of a read-out (a loss: lower is better) by a sample's weight, or what stands for it: negative
where the sample helps. Leaving out a set of samples is then predicted to change the read-out by minus the sum of their scores.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from field_gradients import Tapped
from torch import Tensor

K1, B = 1.5, 0.75
"""The usual constants of BM25 (Robertson and Zaragoza 2009)."""


def projection(size: int, width: int, seed: int) -> Tensor:
    """A Gaussian projection [D, k], its numbers independent and of variance 1/k."""
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)


@dataclass(frozen=True)
class Projected:
    """Of one model: features of the samples [n, k], the read-out's projected gradient [k], and the samples' 1 - p [n]."""

    features: Tensor
    target: Tensor
    misses: Tensor

    def first(self, width: int) -> Projected:
        """On the first coordinates of the projection alone."""
        return Projected(self.features[:, :width], self.target[:width], self.misses)


def trak(models: Sequence[Projected], ridge: float) -> Tensor:
    """TRAK scores [n]: mean over models of target (Phi' Phi + c I)^-1 Phi', times the mean of 1 - p.

    Park et al. 2023, arXiv 2303.14186, equation 17 and section 3.2, in float64. The read-out's gradient by the parameters stands
    for that of the output function: the chain rule of its linearisation. ridge: c as a multiple of the mean eigenvalue.
    """
    total = torch.zeros(len(models[0].misses), dtype=torch.float64)
    for one in models:
        features = one.features.double()
        kernel = features.mT @ features
        kernel += ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=torch.float64)
        total += features @ torch.linalg.solve(kernel, one.target.double())
    return total / len(models) * torch.stack([one.misses.double() for one in models]).mean(0)


@dataclass(frozen=True)
class Factors:
    """Curvature of the mean loss by one linear layer's weights [out, in], in the eigenbases of its two Kronecker factors.

    inputs, outputs: eigenvectors, as columns. curvature: in every pair of them [out, in].
    """

    inputs: Tensor
    outputs: Tensor
    curvature: Tensor

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """(G + c I)^-1 of a gradient [..., out, in]; damping: c as a multiple of the mean curvature."""
        turned = self.outputs.mT @ gradient.double() @ self.inputs
        turned = turned / (self.curvature + damping * self.curvature.mean())
        return self.outputs @ turned @ self.inputs.mT


def factors(seen: Sequence[Tapped]) -> Factors:
    """EK-FAC of one layer from passes with labels drawn from the model.

    George et al. 2018, arXiv 1806.03884; Grosse et al. 2023, arXiv 2308.03296, section 2.2. Labels of different tokens are
    independent, so that of length tokens the Gauss-Newton matrix of the mean loss is length times the mean of g g' over
    sequences, with g the gradient of a sequence's mean loss. The basis is that of the mean of a a' and of s s' over tokens.
    """
    flat = [(one.inputs.double().flatten(0, 1), one.slopes.double().flatten(0, 1)) for one in seen]
    inputs = torch.linalg.eigh(sum((a.mT @ a for a, _ in flat), torch.zeros(()))).eigenvectors
    outputs = torch.linalg.eigh(sum((s.mT @ s for _, s in flat), torch.zeros(()))).eigenvectors
    squares = [(outputs.mT @ one.gradients.double() @ inputs).square().mean(0) for one in seen]
    return Factors(inputs, outputs, seen[0].slopes.shape[1] * torch.stack(squares).mean(0))


def influence(
    layers: dict[str, Factors], target: dict[str, Tensor], samples: dict[str, Tensor], damping: float
) -> Tensor:
    """Influence of every sample [n] on the read-out: -target (G + c I)^-1 g_i / n (Koh and Liang 2017, arXiv 1703.04730).

    target: the read-out's gradient by every layer's weights [out, in]. samples: the samples' own [n, out, in].
    """
    parts = [
        -torch.einsum("noi,oi->n", samples[name].double(), layer.solve(target[name], damping)) / len(samples[name])
        for name, layer in layers.items()
    ]
    return torch.stack(parts).sum(0)


def tracin(products: Iterable[tuple[float, Tensor]], per_step: int) -> Tensor:
    """TracIn [n]: -sum over checkpoints of rate times target'g_i, shared by a step's samples (arXiv 2002.08484, equation 1).

    products: at every checkpoint its rate, and the inner products [n] of the read-out's gradient with the samples'.
    """
    return torch.stack([-rate * found.double() / per_step for rate, found in products]).sum(0)


def cosines(gradients: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine of every sample's gradient [n, D] with the read-out's [D]."""
    return -torch.nn.functional.cosine_similarity(gradients.double(), target.double()[None], dim=-1)


def words(text: str) -> list[str]:
    """Words in lower case, and runs of other signs."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def bm25(documents: Sequence[str], queries: Sequence[str]) -> Tensor:
    """Minus the mean over queries of Okapi BM25 of every document [n], k1 = 1.5, b = 0.75.

    Robertson and Zaragoza 2009, section 3.5; the weight of a word in N documents, n_w of which hold it, is
    log(1 + (N - n_w + 1/2) / (n_w + 1/2)), which is never negative. A word counts as often as the query has it.
    """
    counts = [Counter(words(text)) for text in documents]
    asked = Counter(word for text in queries for word in words(text))
    lengths = torch.tensor([sum(one.values()) for one in counts], dtype=torch.float64)
    relative = (1 - B + B * lengths / lengths.mean()).tolist()
    held = Counter(word for one in counts for word in one)
    rarity = {word: math.log(1 + (len(counts) - n + 0.5) / (n + 0.5)) for word, n in held.items()}
    scores = [
        sum(asked[w] * rarity[w] * c * (K1 + 1) / (c + K1 * size) for w, c in one.items())
        for one, size in zip(counts, relative, strict=True)
    ]
    return -torch.tensor(scores, dtype=torch.float64) / len(queries)
