"""Modules and losses by configuration: the built-in model, or `package.module:name`."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from fut.config.schema import ModelConfig
from fut.errors import UsageError
from fut.models.forward import ForwardLoss
from fut.models.objective import Loss
from fut.models.randomness import seeded
from fut.models.transformer import Transformer, next_token_loss


def load_hook(spec: str, what: str) -> Any:
    """The object behind `package.module:name`."""
    module_name, _, name = spec.partition(":")
    if not name:
        raise UsageError(f"{what}: expected `package.module:name`, got `{spec}`")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{what}: expected an importable `package.module:name`, got `{spec}` ({error}); is it on PYTHONPATH?"
        ) from error


def _made_by(factory: str, vocabulary: int, context: int) -> nn.Module:
    hook = load_hook(factory, "model.factory")
    try:
        module = hook(vocabulary=vocabulary, context=context)
    except TypeError as error:
        raise UsageError(
            f"model.factory: expected `{factory}` to take (vocabulary=, context=), got TypeError: {error}; mend the factory"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"model.factory: expected an nn.Module from `{factory}`, got {type(module).__name__}; return one"
        )
    return module


def build_module(config: ModelConfig, vocabulary: int, context: int) -> nn.Module:
    """The configured module with seeded starting values: built-in transformer, or the user's factory."""
    with seeded(config.seed, range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        if config.factory:
            return _made_by(config.factory, vocabulary, context)
        if config.width % config.heads:
            raise UsageError(
                f"model: expected a width divisible by heads, got width={config.width}, heads={config.heads}"
            )
        return Transformer(vocabulary, context, config.width, config.layers, config.heads)


def build_loss(config: ModelConfig) -> Loss:
    """Next-token cross-entropy, what the forward pass returns, or the user's hook."""
    if config.forward:
        return ForwardLoss(tuple(config.forward), tuple(config.constants.items()), tuple(config.training.items()))
    return load_hook(config.loss, "model.loss") if config.loss else next_token_loss
