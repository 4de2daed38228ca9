"""Optimizers of torch as rules, and back: constants and memory of `torch.optim` objects, read by the tensors' names.

Sources: the state and parameter groups that torch 2.13 documents. A class is translated only if it stands in `TRANSLATIONS`
itself: a subclass may do something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import RuleError
from .parameters import ParameterLayout
from .rules.adam import Adam, AdamW
from .rules.base import Rule
from .rules.grouped import Group, Grouped
from .rules.momentum import Momentum
from .rules.radam import RAdam
from .rules.rates import GroupRates
from .rules.sgd import SGD
from .state import State

Constants = Mapping[str, Any]
"""A parameter group of torch without its tensors."""


@dataclass(frozen=True)
class Translation:
    """How one class of optimizer is a rule.

    Args:
        optimizer: the class.
        rules: the kinds of rules that it becomes.
        rule: the rule of a parameter group's constants; RuleError for what it cannot express.
        constants: arguments of the class for a rule; the inverse of `rule`.
        buffers: torch's name of each buffer of the rule's memory.
        clock: the rule's counters after so many steps.
    """

    optimizer: Callable[..., Optimizer]
    rules: tuple[type[Rule], ...]
    rule: Callable[[Constants], Rule]
    constants: Callable[[Any], dict[str, Any]]
    buffers: Mapping[str, str]
    clock: Callable[[Any, int], dict[str, float]]


class Translated(NamedTuple):
    """An optimizer as fut has it.

    rule: bound to the module's trained tensors. rates: learning rates now, by group where there are several. state: parameters
    and memory now [D]. places: optimizer and parameter group of every group of the rule, by its name.
    """

    rule: Rule
    rates: float
    state: State
    places: Mapping[str, tuple[int, int]]


def _adam(constants: Constants) -> Rule:
    _refuse(constants, maximize=False, differentiable=False)
    kind = AdamW if constants.get("decoupled_weight_decay", False) else Adam
    return kind(**_moments(constants), amsgrad=bool(constants["amsgrad"]))


def _moments(constants: Constants) -> dict[str, Any]:
    betas = (float(constants["betas"][0]), float(constants["betas"][1]))
    return {"betas": betas, "eps": constants["eps"], "weight_decay": float(constants["weight_decay"])}


def _adam_constants(rule: Adam) -> dict[str, Any]:
    if rule.decay != type(rule)().decay:
        other = AdamW.name if rule.decay == "decoupled" else Adam.name
        raise RuleError(f"the rule `{rule.name}`: expected its usual decay, got {rule.decay}; use `{other}`")
    return {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay, "amsgrad": rule.amsgrad}


def _radam(constants: Constants) -> Rule:
    _refuse(constants, maximize=False, differentiable=False)
    return RAdam(**_moments(constants), decay="decoupled" if constants["decoupled_weight_decay"] else "coupled")


def _radam_constants(rule: RAdam) -> dict[str, Any]:
    own = {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay}
    return own | {"decoupled_weight_decay": rule.decay == "decoupled"}


def _adam_clock(rule: Adam | RAdam, steps: int) -> dict[str, float]:
    b1, b2 = rule.betas
    return {"step": float(steps), "p1": b1**steps, "p2": b2**steps}


def _sgd(constants: Constants) -> Rule:
    _refuse(constants, dampening=0, maximize=False, differentiable=False)
    decay, beta = float(constants["weight_decay"]), float(constants["momentum"])
    if not beta:
        return SGD(weight_decay=decay)
    return Momentum(kind="nesterov" if constants["nesterov"] else "heavy_ball", beta=beta, weight_decay=decay)


def _sgd_constants(rule: SGD | Momentum) -> dict[str, Any]:
    if isinstance(rule, SGD):
        return {"weight_decay": rule.weight_decay}
    if rule.kind == "ema":
        raise RuleError("the rule `momentum` of kind ema: expected one that torch.optim.SGD has; use kind heavy_ball")
    return {"momentum": rule.beta, "nesterov": rule.kind == "nesterov", "weight_decay": rule.weight_decay}


def _count(rule: Rule, steps: int) -> dict[str, float]:
    return {"step": float(steps)}


_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "largest": "max_exp_avg_sq"}
TRANSLATIONS: tuple[Translation, ...] = (
    Translation(torch.optim.Adam, (Adam,), _adam, _adam_constants, _MOMENTS, _adam_clock),
    Translation(torch.optim.AdamW, (AdamW,), _adam, _adam_constants, _MOMENTS, _adam_clock),
    Translation(torch.optim.RAdam, (RAdam,), _radam, _radam_constants, _MOMENTS, _adam_clock),
    Translation(torch.optim.SGD, (SGD, Momentum), _sgd, _sgd_constants, {"m": "momentum_buffer"}, _count),
)
"""The optimizers that are rules, a line each."""

NOT_RULES = {
    "schedulefree": "its parameters in training are not those that it is evaluated at; train with a scheduled optimizer",
    "bitsandbytes": "its memory is rounded to 8 bits by blocks; train with the optimizer of full precision",
    "torchao": "its memory is rounded; train with the optimizer of full precision",
    "dadaptation": "its rate depends on the gradients seen so far; take a fixed schedule",
    "prodigyopt": "its rate depends on the gradients seen so far; take a fixed schedule",
}
"""Packages of optimizers that cannot be replayed, and why."""


def from_optimizer(
    optimizers: Optimizer | Sequence[Optimizer], module: nn.Module, clip: float | None = None
) -> Translated:
    """The rule that one or several optimizers of torch train a module with, and where they stand.

    Tensors that require gradients and that no optimizer holds stay as they are; they are the group "frozen". Tensors of a
    group that have taken another number of steps than the others (as they had no gradient in some) are a group of their own.

    Args:
        optimizers: each tensor of the module is in one of them at most.
        module: whose tensors they update.
        clip: bound on the norm of the whole gradient, which is no part of an optimizer.

    Returns:
        The rule, the rates and the state; a rule of its own kind for a single group, else `Grouped`.

    Raises:
        RuleError: for an optimizer that is no rule here, or holds tensors that are not the module's.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    layout = ParameterLayout(tuple(named), tuple(tuple(p.shape) for p in named.values()))
    listed = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    sets = _parameter_sets(listed, {id(p): name for name, p in named.items()})
    held = {name for one in sets for name in one.tensors}
    groups = [Group(name=one.name, rule=one.rule, tensors=tuple(map(escape, one.tensors))) for one in sets]
    if idle := [name for name in named if name not in held]:
        groups.append(Group(name="frozen", rule=SGD(), tensors=tuple(map(escape, idle)), scale=0.0))
    grouped = len(groups) > 1
    rule = (
        Grouped(groups=tuple(groups), clip=clip).on(layout)
        if grouped
        else replace(groups[0].rule, clip=clip, layout=layout)
    )
    places = {one.name: one.place for one in sets}
    return Translated(
        rule, group_rates(list(map(learning_rates, listed)), places, grouped), _state(rule, layout, named, sets), places
    )


def learning_rates(optimizer: Optimizer) -> list[float]:
    """The rates of an optimizer's parameter groups at the moment."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def group_rates(rates: Sequence[Sequence[float]], places: Mapping[str, tuple[int, int]], grouped: bool) -> float:
    """The learning rates of a step, by group.

    Args:
        rates: of every optimizer's parameter groups.
        places: optimizer and parameter group of every group of the rule, as `from_optimizer` says.
        grouped: whether the rule has groups; else there is one rate.
    """
    named = {name: rates[optimizer][group] for name, (optimizer, group) in places.items()}
    base = next(iter(named.values()))
    return GroupRates(base, named) if grouped else base


class _Set(NamedTuple):
    """Tensors that one optimizer updates with the same constants and that have taken as many steps."""

    name: str
    rule: Rule
    place: tuple[int, int]
    tensors: tuple[str, ...]
    steps: int
    memory: Mapping[str, Mapping[str, Any]]  # torch's state by the tensor's name
    translation: Translation


def _parameter_sets(optimizers: Sequence[Optimizer], names: Mapping[int, str]) -> list[_Set]:
    """What the optimizers update, group by group; RuleError for tensors that are not the module's, or twice there."""
    sets: list[_Set] = []
    for number, optimizer in enumerate(optimizers):
        translation = _translation(optimizer)
        for place, table in enumerate(optimizer.param_groups):
            label = str(table.get("name", f"{number}.{place}" if len(optimizers) > 1 else place))
            trained = [p for p in table["params"] if p.requires_grad]
            if foreign := [p for p in trained if id(p) not in names]:
                raise RuleError(
                    f"optimizer {type(optimizer).__name__}, group {label}: expected tensors of the module, got one of shape "
                    f"{list(foreign[0].shape)} that is not; pass the module that it trains"
                )
            sets += _sets_of(translation, label, (number, place), optimizer, {names[id(p)]: p for p in trained})
    twice = [name for name, times in Counter(name for one in sets for name in one.tensors).items() if times > 1]
    if twice:
        raise RuleError(
            f"optimizers: expected every tensor in one of them at most, got `{twice[0]}` in two; remove it from one"
        )
    if not sets:
        raise RuleError("optimizers: expected at least one tensor of the module that requires gradients, got none")
    return sets


def _sets_of(
    translation: Translation,
    label: str,
    place: tuple[int, int],
    optimizer: Optimizer,
    tensors: Mapping[str, nn.Parameter],
) -> list[_Set]:
    """A parameter group by the number of steps that its tensors have taken."""
    rule = translation.rule(optimizer.param_groups[place[1]])
    memory = {name: optimizer.state.get(p, {}) for name, p in tensors.items()}
    steps = {name: int(state.get("step", 0)) for name, state in memory.items()}
    sets = []
    for count in sorted(set(steps.values()), reverse=True):
        chosen = tuple(name for name in tensors if steps[name] == count)
        name = label if len(set(steps.values())) == 1 else f"{label}, {count} steps"
        sets.append(_Set(name, rule, place, chosen, count, {n: memory[n] for n in chosen}, translation))
    return sets


def _state(rule: Rule, layout: ParameterLayout, named: Mapping[str, Tensor], sets: Iterable[_Set]) -> State:
    """The lifted state that the optimizers are in."""
    theta = layout.join([p.detach().clone() for p in named.values()])
    state = rule.init(theta)
    memory = {buffer: layout.split(vector.clone()) for buffer, vector in state.memory.items()}
    clock = dict(state.clock)
    for one in sets:
        prefix = f"{one.name}/" if isinstance(rule, Grouped) else ""
        counters = one.translation.clock(one.rule, one.steps)
        clock |= {f"{prefix}{counter}": count for counter, count in counters.items()}
        for name, stored in one.memory.items():
            place = layout.names.index(name)
            for ours, theirs in one.translation.buffers.items():
                if ours in memory and stored.get(theirs) is not None:
                    memory[ours][place].copy_(stored[theirs])
    clock["step"] = float(max(one.steps for one in sets))
    return State(theta, {buffer: layout.join(parts) for buffer, parts in memory.items()}, clock)


def to_optimizer(rule: Rule, module: nn.Module, rates: float, state: State | None = None) -> list[Optimizer]:
    """Optimizers of torch that go on where a rule stands, one for each group.

    Args:
        rule: bound to the module's trained tensors.
        module: holds the parameters, which are left as they are.
        rates: learning rates, by group where they differ.
        state: memory to go on with; None for a new optimizer.

    Raises:
        RuleError: for a rule that torch does not have.
    """
    named = dict(module.named_parameters())
    layout = rule.parameters
    groups = rule.groups if isinstance(rule, Grouped) else (Group(name="all", rule=rule),)
    labels = layout.groups if isinstance(rule, Grouped) else ("all",) * len(layout.names)
    made: list[Optimizer] = []
    for group in groups:
        chosen = [name for name, label in zip(layout.names, labels, strict=True) if label == group.name]
        if not chosen or not group.scale:
            continue
        translation = _inverse(group.rule)
        constants = translation.constants(group.rule)
        optimizer = translation.optimizer([named[name] for name in chosen], lr=group.rate(rates), **constants)
        if state is not None:
            prefix = f"{group.name}/" if isinstance(rule, Grouped) else ""
            steps = state.clock[f"{prefix}step"]
            _fill(optimizer, translation, layout, state, steps, [(name, named[name]) for name in chosen])
        made.append(optimizer)
    return made


def _fill(
    optimizer: Optimizer,
    translation: Translation,
    layout: ParameterLayout,
    state: State,
    steps: float,
    tensors: Sequence[tuple[str, nn.Parameter]],
) -> None:
    """Put a state's memory, after so many steps, into an optimizer."""
    parts = {buffer: layout.split(vector) for buffer, vector in state.memory.items()}
    for name, parameter in tensors:
        place = layout.names.index(name)
        own = {theirs: parts[ours][place].clone() for ours, theirs in translation.buffers.items() if ours in parts}
        if translation.optimizer is not torch.optim.SGD:  # which counts no steps
            own = {"step": torch.tensor(steps)} | own if steps else {}
        elif not optimizer.param_groups[0]["momentum"]:
            own = {}
        if own:
            optimizer.state[parameter] = own


def _translation(optimizer: Optimizer) -> Translation:
    """How an optimizer is a rule; RuleError, with the reason, for one that is none."""
    kind = type(optimizer)
    package = kind.__module__.partition(".")[0]
    if package in NOT_RULES:
        raise RuleError(f"optimizer {kind.__module__}.{kind.__name__}: it cannot be replayed, as {NOT_RULES[package]}")
    for translation in TRANSLATIONS:
        if kind is translation.optimizer:
            return translation
    known = ", ".join(translation.optimizer.__name__ for translation in TRANSLATIONS)
    raise RuleError(
        f"optimizer: expected one of torch.optim's {known}, got {kind.__module__}.{kind.__name__}; train with one of these"
    )


def _inverse(rule: Rule) -> Translation:
    for translation in TRANSLATIONS:
        if type(rule) in translation.rules:
            return translation
    raise RuleError(f"the rule `{rule.name}`: expected one that torch.optim has, got one that it has not")


def _refuse(constants: Constants, **expected: object) -> None:
    """RuleError where a constant of a parameter group is not what the rule presumes."""
    for name, value in expected.items():
        if constants.get(name, value) != value:
            raise RuleError(f"optimizer: expected {name}={value}, got {constants[name]}; the rule has no such form")
