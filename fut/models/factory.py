"""Modules and losses by configuration: the built-in model, or `package.module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder
from typing import Any

import torch
from torch import nn

from fut.config.schema import ModelConfig
from fut.errors import UsageError
from fut.models.forward import ForwardLoss
from fut.models.objective import Loss
from fut.models.randomness import seeded
from fut.models.transformer import Transformer, next_token_loss
from fut.resources.memory import require_memory

COPIES = 2
"""The module as it is made, and the one that is trained."""
NAMED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""How an object is named."""


def load_hook(spec: str, what: str) -> Any:
    """The object behind `package.module:name`, which runs the module's code: only for a name that the caller gives or trusts.

    A module that is not installed is looked for in the working directory too, after everything else.
    """
    module_name, _, name = spec.partition(":")
    if not NAMED.fullmatch(spec):
        raise UsageError(f"{what}: expected `package.module:name`, got `{spec}`")
    try:
        _search_here(module_name.partition(".")[0])
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{what}: expected an importable `package.module:name`, got `{spec}` ({type(error).__name__}: {error}); is it on "
            "PYTHONPATH?"
        ) from error
    if not callable(found):
        raise UsageError(
            f"{what}: expected a function or a class, got {type(found).__name__} for `{spec}`; name another"
        )
    return found


def _search_here(package: str) -> None:
    """Make the working directory the last place that modules are looked for in, where no other has the package."""
    here = os.getcwd()
    if package in sys.modules or here in sys.path or importlib.util.find_spec(package) is not None:
        return
    if PathFinder.find_spec(package, [here]) is not None:
        sys.path.append(here)


def _made_by(factory: str, vocabulary: int, context: int) -> nn.Module:
    hook = load_hook(factory, "model.factory")
    try:
        module = hook(vocabulary=vocabulary, context=context)
    except TypeError as error:
        raise UsageError(
            f"model.factory: expected `{factory}` to take (vocabulary=, context=), got TypeError: {error}; mend the factory"
        ) from error
    except SystemExit as error:
        raise UsageError(
            f"model.factory: expected a module from `{factory}`, which stops the program; mend it"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"model.factory: expected an nn.Module from `{factory}`, got {type(module).__name__}; return one"
        )
    return module


def named_module(factory: str, what: str) -> nn.Module:
    """The module that a function or a class without arguments makes. what: names it, for messages."""
    hook = load_hook(factory, what)
    try:
        with seeded(0):
            module = hook()
    except (TypeError, SystemExit) as error:
        raise UsageError(
            f"{what}: expected a module from `{factory}`, called without arguments, got {type(error).__name__}: {error}; mend it"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{what}: expected an nn.Module from `{factory}`, got {type(module).__name__}; return one")
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
        needed = 4 * COPIES * transformer_size(vocabulary, context, config.width, config.layers)
        advice = "lower model.width, model.layers, data.vocabulary or data.context"
        require_memory("model", needed, torch.device("cpu"), advice)
        return Transformer(vocabulary, context, config.width, config.layers, config.heads)


def transformer_size(vocabulary: int, context: int, width: int, layers: int) -> int:
    """Parameters of the built-in model, before it is made."""
    return (2 * vocabulary + context) * width + layers * (12 * width + 13) * width + 2 * width


def build_loss(config: ModelConfig) -> Loss:
    """Next-token cross-entropy, what the forward pass returns, or the user's hook."""
    if config.forward:
        return ForwardLoss(tuple(config.forward), tuple(config.constants.items()), tuple(config.training.items()))
    return load_hook(config.loss, "model.loss") if config.loss else next_token_loss
