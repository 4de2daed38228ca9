"""A network of two hidden layers on synthetic data, small enough that thousands of orders are trained in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..parameters import ParameterLayout
from ..replay import GradientsAndNorms, Picks
from ..shapes import Float

INPUTS, HIDDEN, CLASSES = 8, 12, 4
LAYOUT = ParameterLayout(
    ("first.weight", "first.bias", "second.weight", "second.bias", "head.weight", "head.bias"),
    ((HIDDEN, INPUTS), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,)),
)
PROBE = 64
"""Held-out samples."""


@dataclass(frozen=True)
class SmallNetwork:
    """tanh, tanh, softmax; labels are a random network's, with noise.

    Args:
        batches: items, of `samples` each.
        samples: of an item.
        seed: of data and start.
        dtype: of all numbers.
    """

    batches: int
    samples: int = 16
    seed: int = 0
    dtype: torch.dtype = torch.float64

    @cached_property
    def start(self) -> Tensor:
        """Parameters to begin with [D], as torch initializes linear layers."""
        draw = self._draw(1)
        fans = [INPUTS, INPUTS, HIDDEN, HIDDEN, HIDDEN, HIDDEN]
        parts = [
            (2 * torch.rand(size, generator=draw, dtype=torch.float64) - 1) / fan**0.5
            for size, fan in zip(LAYOUT.sizes, fans, strict=True)
        ]
        return torch.cat(parts).to(self.dtype)

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        """Inputs [batches + 1, …], the held-out ones last, and labels."""
        draw = self._draw(2)
        count = self.batches * self.samples + PROBE
        x = torch.randn(count, INPUTS, generator=draw, dtype=torch.float64)
        true = torch.randn(INPUTS, CLASSES, generator=draw, dtype=torch.float64)
        noise = torch.randn(count, CLASSES, generator=draw, dtype=torch.float64)
        return x.to(self.dtype), (torch.tanh(x) @ true + noise).argmax(-1)

    def _draw(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + stream)

    def _items(self) -> tuple[Tensor, Tensor]:
        x, y = self._data
        last = self.batches * self.samples
        return x[:last].view(self.batches, self.samples, INPUTS), y[:last].view(self.batches, self.samples)

    def item_loss(self, theta: Float[Tensor, " D"], item: int) -> Tensor:
        """Mean cross-entropy of an item [nats], a scalar that torch.func can transform."""
        x, y = self._items()
        return _loss(theta, x[item], y[item])

    def probe_loss(self, theta: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Of the held-out samples [nats]."""
        x, y = (part[self.batches * self.samples :] for part in self._data)
        found: Tensor = torch.func.vmap(_loss, in_dims=(0, None, None))(theta, x, y)
        return found

    def gradients(self, step: int, picks: Picks, theta: Float[Tensor, "n D"]) -> GradientsAndNorms:
        """Gradients of what n runs consume, one item each, all runs in one pass; for `RuleTransition`."""
        x, y = self._items()
        chosen = picks.items[:, 0]
        found: Tensor = torch.func.vmap(torch.func.grad(_loss))(theta, x[chosen], y[chosen])
        return found, None


def _loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    first, first_bias, second, second_bias, head, head_bias = (
        part.view(shape) for part, shape in zip(theta.split(LAYOUT.sizes), LAYOUT.shapes, strict=True)
    )
    hidden = torch.tanh(torch.tanh(x @ first.mT + first_bias) @ second.mT + second_bias)
    return torch.nn.functional.cross_entropy(hidden @ head.mT + head_bias, y)
