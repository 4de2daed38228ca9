"""An optimizer of the user's own as the update rule of a run: translated where a rule is the same, else stepped as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from estimators.errors import RuleError
from estimators.rules import described
from estimators.rules.base import Rule
from estimators.rules.grouped import Grouped
from estimators.rules.optimizer_rule import OptimizerRule
from estimators.rules.rates import GroupRates
from estimators.torch_optimizers import from_optimizer
from estimators.translations import refuse_irreproducible
from fut.config.schema import RuleConfig
from fut.config.training import TrainingConfig
from fut.errors import UsageError

MakeOptimizer = Callable[[nn.Module], Optimizer]
"""Makes an optimizer over a module's trained parameters."""
AnyOptimizer = Optimizer | MakeOptimizer
C = TypeVar("C", bound=TrainingConfig)
RATES = frozenset({"params", "lr", "initial_lr", "name"})
"""What a parameter group holds beside the constants of its formula."""


def maker_of(optimizer: AnyOptimizer, module: nn.Module | None) -> MakeOptimizer:
    """What makes the optimizer over another copy of the module.

    Args:
        optimizer: an object over the parameters of `module`, which has not stepped; or a function of a module.
        module: whose parameters the object holds.

    Raises:
        UsageError: for what is neither, holds other parameters, or has stepped.
    """
    if not isinstance(optimizer, Optimizer):
        if not callable(optimizer):
            raise UsageError(
                f"optimizer: expected an optimizer of torch, or a function of the module that makes one, got {optimizer!r}"
            )
        return optimizer
    kind = type(optimizer).__name__
    if module is None:
        raise UsageError(
            f"optimizer: expected the module that the {kind} updates beside it, got none; pass module=, or a function of the "
            "module: optimizer=lambda module: …"
        )
    if any(optimizer.state.values()):
        raise UsageError(
            f"optimizer: expected one that has not stepped yet, got a {kind} in its course; make a new one, or record your own "
            "training with fut.Recorder"
        )
    names = {id(p): name for name, p in module.named_parameters()}
    held = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    if any(name is None for group in held for name in group):
        raise UsageError(
            f"optimizer: expected parameters of the module alone, got a {kind} over others; pass its module"
        )
    kept = copy.deepcopy(optimizer)

    def made(other: nn.Module) -> Optimizer:
        own, parameters = copy.deepcopy(kept), dict(other.named_parameters())
        for group, listed in zip(own.param_groups, held, strict=True):
            group["params"] = [parameters[str(name)] for name in listed]
        return own

    return made


def with_optimizer(config: C, module: nn.Module, make: MakeOptimizer | None) -> tuple[C, Rule | None]:
    """The configuration of a run that an optimizer trains, and the rule where no configuration can make it.

    Args:
        config: whose rule is the optimizer's, or is not given; `clip` may be. Its `schedule.rate`, where given, is that of the
            first group; the others keep their ratio to it.
        module: whose parameters it updates.
        make: the optimizer of a module; None for the rule that the configuration names.

    Raises:
        UsageError: for a rule in the configuration that is another, or an optimizer that is no rule.
    """
    if make is None:
        if config.rule.name == OptimizerRule.name:
            raise UsageError(
                f"rule `{OptimizerRule.name}`: expected the optimizer that trains the run, got none; pass it: "
                "fut.train(…, optimizer=…) or fut.open(path, optimizer=…)"
            )
        return config, None
    optimizer = make(module)
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizer: expected an optimizer of torch from the function, got {type(optimizer).__name__}; return one"
        )
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    if len(rates) < len(optimizer.param_groups) or not rates[0] > 0:
        raise UsageError(f"optimizer: expected a learning rate `lr` > 0 in every group, got {rates or 'none'}; set it")
    clip = config.rule.options.get("clip")
    rule, options = _rule_of(optimizer, module, rates)
    written = options if clip is None else options | {"clip": clip}
    _require_same(config, rule.name, written)
    update: dict[str, Any] = {"rule": RuleConfig(name=rule.name, options=written)}
    if "rate" not in config.schedule.model_fields_set:
        update["schedule"] = config.schedule.model_copy(update={"rate": rates[0]})
    own = replace(rule, clip=clip) if isinstance(rule, OptimizerRule) else None
    return config.model_copy(update=update), own


def _rule_of(optimizer: Optimizer, module: nn.Module, rates: list[float]) -> tuple[Rule, dict[str, Any]]:
    """The rule that an optimizer is, and what is written down of it."""
    try:
        translated = from_optimizer(optimizer, module)
    except RuleError:  # none of ours: it is stepped as it is
        refuse_irreproducible(optimizer)
    else:
        rule = _scaled(translated.rule, translated.rates)
        return rule, described(replace(rule, layout=None))[1]
    names = {id(p): name for name, p in module.named_parameters()}
    held = [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]
    scales = tuple(rate / rates[0] for rate in rates)
    tensors = tuple(name for group in held for name in group)
    if not all(tensors):
        raise UsageError(
            "optimizer: expected parameters of the module alone, got others; make it of module.parameters()"
        )
    groups = [
        {"tensors": listed, "scale": scale, "constants": constants(group)}
        for listed, scale, group in zip(held, scales, optimizer.param_groups, strict=True)
    ]
    kind = type(optimizer)
    about = {"class": f"{kind.__module__}.{kind.__qualname__}", "groups": groups}
    return OptimizerRule(optimizer=optimizer, tensors=tensors, scales=scales), about


def _scaled(rule: Rule, rates: float) -> Rule:
    """A rule whose groups have the ratios of their rates as scales."""
    if not isinstance(rule, Grouped) or not isinstance(rates, GroupRates):
        return rule
    own = (replace(g, scale=g.scale * rates.groups.get(g.name, float(rates)) / float(rates)) for g in rule.groups)
    return replace(rule, groups=tuple(own))


def constants(group: Mapping[str, Any]) -> dict[str, Any]:
    """The constants of a parameter group as a configuration holds them; what is no number, text or list of these as its type."""
    return {key: _plain(value) for key, value in group.items() if key not in RATES and value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, tuple | list):
        return ["none" if part is None else _plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items() if part is not None}
    return value if isinstance(value, bool | int | float | str) else type(value).__qualname__


def _require_same(config: TrainingConfig, name: str, options: dict[str, Any]) -> None:
    """UsageError where a configuration gives a rule that is not the optimizer's."""
    given = config.rule.model_fields_set if "rule" in config.model_fields_set else set()
    asked = config.rule.options if "options" in given else {}
    if not given or ("name" not in given and set(asked) <= {"clip"}):
        return
    same = RuleConfig(name=name, options=options)
    if (config.rule.name, config.rule.options) != (same.name, same.options):
        raise UsageError(
            f"optimizer: expected the rule `{config.rule.name}` with the constants that the configuration gives, got an "
            f"optimizer that is `{name}` or has others; pass the optimizer of that rule, or leave `rule` out of the configuration"
        )
