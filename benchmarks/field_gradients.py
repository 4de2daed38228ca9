"""What other methods read of a language model: losses and log-odds of sequences, their gradients, and what linear layers saw.

A sequence is an item of one sample: token ids [1, length + 1]. All of it is for the built-in transformer, and for any other
module that maps ids [n, length] to logits [n, length, vocabulary].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fut.models.objective import Item, Objective

TOGETHER = 64
"""Sequences of which gradients are taken together."""
SURE = -1e-6
"""The largest logarithm of a probability that has log-odds in float32."""


def sequences(items: Sequence[Item]) -> Tensor:
    """Token ids [n, length + 1] of items of one sample each, or of probe chunks one after the other."""
    return torch.cat([item[0] for item in items])


def log_probabilities(module: nn.Module, parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Log-probability of every next token [n, length]."""
    logits = functional_call(module, parameters, (tokens[:, :-1],))
    return -functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def of_module(objective: Objective, theta: Tensor) -> dict[str, Tensor]:
    """Parameters [D] by the module's own names, differentiable in theta."""
    parts = zip(objective.names, objective.parts(theta), strict=True)
    return {objective.own_name(name): part for name, part in parts}


def mean_log_odds(objective: Objective, theta: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of one sequence [length + 1]: the mean over tokens of log(p / (1 - p)), and of 1 - p (Park et al. 2023, section 3)."""
    logs = log_probabilities(objective.module, of_module(objective, theta), tokens[None])[0].clamp(max=SURE)
    return (logs - (-torch.expm1(logs)).log()).mean(), (1 - logs.exp()).mean()


def log_odds_gradients(objective: Objective, theta: Tensor, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Gradients [c, D] of the sequences' mean log-odds and their mean 1 - p [c], some sequences at a time."""

    def value(at: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        return mean_log_odds(objective, at, one)

    _ = objective.module  # which a transform cannot build
    taken = vmap(grad_and_value(value, has_aux=True), in_dims=(None, 0))
    with sdpa_kernel(SDPBackend.MATH):
        for part in tokens.split(TOGETHER):
            gradient, (_, misses) = taken(theta, part)
            yield gradient.detach(), misses.detach()


@dataclass(frozen=True)
class Tapped:
    """What one linear layer saw. inputs: [n, length, in], with ones appended where the layer has a bias. slopes: derivatives of
    every sequence's own mean loss by the layer's output [n, length, out]."""

    inputs: Tensor
    slopes: Tensor

    @property
    def gradients(self) -> Tensor:
        """Gradients of the sequences' mean losses by the layer's weights, its bias as the last column: [n, out, in]."""
        return torch.einsum("nlo,nli->noi", self.slopes, self.inputs)


@contextmanager
def _taps(module: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def tap(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ones = [torch.ones_like(inputs[0][..., :1])] if layer.bias is not None else []
            seen[name] = (torch.cat([inputs[0].detach(), *ones], dim=-1), output)

        return layer.register_forward_hook(hook)

    handles = [tap(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tapped(module: nn.Module, tokens: Tensor, draw: torch.Generator | None = None) -> dict[str, Tapped]:
    """What every linear layer saw of the sequences [n, length + 1], by name.

    draw: labels are drawn from the model's own predictions, as for a true Fisher; None for the text's own.
    """
    with _taps(module) as seen:
        logits = module(tokens[:, :-1])
        labels = tokens[:, 1:]
        if draw is not None:
            chances = logits.detach().softmax(-1).flatten(0, 1)
            labels = torch.multinomial(chances, 1, generator=draw).view_as(labels)
        losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(-1)
        slopes = torch.autograd.grad(losses.sum(), [output for _, output in seen.values()])
    pairs = zip(seen.items(), slopes, strict=True)
    return {name: Tapped(inputs, slope) for (name, (inputs, _)), slope in pairs}
