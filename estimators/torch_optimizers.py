"""Optimizers of torch as rules, and back: constants and memory of `torch.optim` objects, read by the tensors' names.

`translations.py` says which class is which rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from glob import escape
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import RuleError
from .parameters import ParameterLayout
from .rules.base import Rule
from .rules.grouped import Group, Grouped
from .rules.rates import GroupRates
from .rules.sgd import SGD
from .state import State
from .translations import Translation, inverse_of, translation_of


class Translated(NamedTuple):
    """An optimizer as fut has it.

    rule: bound to the module's trained tensors. rates: learning rates now, by group where there are several. state: parameters
    and memory now [D]. places: optimizer and parameter group of every group of the rule, by its name.
    """

    rule: Rule
    rates: float
    state: State
    places: Mapping[str, tuple[int, int]]


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
        translation = translation_of(optimizer)
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
    memory = {buffer: vector.clone() for buffer, vector in state.memory.items()}
    clock = dict(state.clock)
    for one in sets:
        prefix = f"{one.name}/" if isinstance(rule, Grouped) else ""
        counters = one.translation.clock(one.rule, one.steps)
        clock |= {f"{prefix}{counter}": count for counter, count in counters.items()}
        own = _named(Group(name=one.name, rule=one.rule), rule)
        for name, theirs, place in _places(one.translation, own, layout, memory, one.tensors):
            if (stored := one.memory[name].get(theirs)) is not None:
                place.copy_(stored.reshape(-1))
    clock["step"] = float(max(one.steps for one in sets))
    return State(theta, memory, clock)


def _named(group: Group, rule: Rule) -> list[tuple[str, str, bool]]:
    """A group's buffers of memory: (name in the state, the group's own name, whether it has a number for every coordinate)."""
    whole = isinstance(rule, Grouped)
    return [(held if whole else own, own, "/" not in held) for held, own in group.buffers]


def _places(
    translation: Translation,
    buffers: Iterable[tuple[str, str, bool]],
    layout: ParameterLayout,
    memory: Mapping[str, Tensor],
    tensors: Iterable[str],
) -> Iterator[tuple[str, str, Tensor]]:
    """Where a lifted state holds what torch keeps of the tensors of a group: (tensor, torch's name of the buffer, a view).

    A buffer with a number for every coordinate is one vector for all groups; another is the group's own, tensor by tensor.
    """
    ordered = sorted(tensors, key=layout.names.index)
    for held, ours, by_coordinate in buffers:
        theirs, first = translation.buffers[ours], 0
        for name in ordered:
            number = layout.names.index(name)
            form = translation.form(theirs, layout.shapes[number])
            if form is None:
                continue
            place = layout.slices[number] if by_coordinate else slice(first, first + math.prod(form))
            first += math.prod(form)
            yield name, theirs, memory[held][place]


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
        translation = inverse_of(group.rule)
        constants = translation.constants(group.rule)
        optimizer = translation.optimizer([named[name] for name in chosen], lr=group.rate(rates), **constants)
        if state is not None:
            steps = int(state.clock[f"{group.name}/step" if isinstance(rule, Grouped) else "step"])
            counters = translation.counters(group.rule, steps)
            places = _places(translation, _named(group, rule), layout, state.memory, chosen)
            if steps or not counters:  # who counts its steps has no memory before the first
                _fill(optimizer, translation, counters, places, named)
        made.append(optimizer)
    return made


def _fill(
    optimizer: Optimizer,
    translation: Translation,
    counters: Mapping[str, Tensor],
    places: Iterable[tuple[str, str, Tensor]],
    named: Mapping[str, nn.Parameter],
) -> None:
    """Put what a state holds of a group into its optimizer; counters: of each tensor."""
    for name, theirs, held in places:
        form = translation.form(theirs, tuple(named[name].shape)) or ()
        kept = optimizer.state[named[name]] or {key: counter.clone() for key, counter in counters.items()}
        optimizer.state[named[name]] = kept | {theirs: held.clone().reshape(form)}
