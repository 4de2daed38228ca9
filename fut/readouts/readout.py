"""Read-outs: the numbers that an order is asked about, each a differentiable function of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fut.data.probe_groups import ALL, group_item, parse_group
from fut.errors import ModelError, UsageError
from fut.models import autodiff as derivatives
from fut.models.factory import load_hook
from fut.models.objective import Item
from fut.models.transformer import next_token_loss
from fut.training.fidelity import TOLERANCE
from fut.training.problem import Problem

PROBE = "probe"
BUILT_IN = "probe, accuracy, items, item:NUMBER, groups:8, probe:2of8, package.module:name, or a name registered with `readouts=`"

NATS, LOSSES = "nats/token", (PROBE, "item")
"""The unit of a loss, and what the names of losses begin with."""

UserFunction = Callable[[nn.Module], Tensor]
"""A user's read-out: the module with the parameters in question -> a tensor holding one number."""


@dataclass(frozen=True)
class ReadOut:
    """A scalar of the parameters.

    value: theta [D] -> number. gradient: theta [D] -> [D]. unit: nats/token, probability, or "" for a user's function.
    pinned: whether its value at the reference endpoint must be kept to recognise it, as nothing else says what it is.
    """

    name: str
    unit: str
    value: Callable[[Tensor], float]
    gradient: Callable[[Tensor], Tensor]
    pinned: bool = False


def unit_of(name: str) -> str:
    """nats/token, or probability; "" for a user's function."""
    return NATS if name.partition(":")[0] in LOSSES and "." not in name else "probability" if name == "accuracy" else ""


def readout_names(specs: Sequence[str], items: int) -> list[str]:
    """The read-outs that specifications stand for, each once: `items` as every `item:I`, `groups:8` as every `probe:Iof8`."""
    names: list[str] = []
    for spec in specs:
        groups = parse_group(spec)
        if groups is not None:
            names += [group.name for group in groups]
        else:
            names += [f"item:{i}" for i in range(items)] if spec == "items" else [_canonical(spec, items)]
    return list(dict.fromkeys(names))


def _canonical(spec: str, items: int) -> str:
    head, colon, number = spec.partition(":")
    if head != "item" or not colon:
        return spec
    if not number.isdecimal() or int(number) >= items:
        raise UsageError(f"readout: expected item:0 … item:{items - 1}, got `{spec}`; correct the number")
    return f"item:{int(number)}"


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first few."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def caching_command(specs: Sequence[str]) -> str:
    """What computes an expansion for these read-outs; a registered function is known to Python alone."""
    if all(spec in (PROBE, "accuracy", "items") or ":" in spec for spec in specs):
        return f"fut cache RUN --terms adjoint --readouts {','.join(specs)}"
    return f'fut.open(RUN, readouts=...).cache(["adjoint"], readouts={list(specs)})'


def one_readout(spec: str, items: int) -> str:
    """The name of the single read-out that a question is about."""
    names = readout_names([spec], items)
    if len(names) > 1 or spec == "items":
        raise UsageError(f"readout: expected one read-out, got `{spec}`, which is {len(names)}; ask for item:0, say")
    return names[0]


def suffix(name: str) -> str:
    """What a file's name says of a read-out: nothing for the probe loss."""
    return "" if name == PROBE else f"-readout-{name.replace(':', '+')}"


def gradient_cost(name: str, problem: Problem) -> int:
    """Gradient evaluations that a read-out's own gradient costs."""
    return len(problem.data.probe) if name in (PROBE, "accuracy") else 1


def make_readouts(problem: Problem, specs: Sequence[str], user: Mapping[str, UserFunction]) -> list[ReadOut]:
    """The read-outs that specifications stand for. user: functions by the names they are registered under."""
    return [_make(problem, name, user) for name in readout_names(specs, len(problem.data.items))]


def check_registered(user: Mapping[str, UserFunction]) -> dict[str, UserFunction]:
    """A user's functions by name; UsageError for a name that means something else, or for what cannot be called."""
    for name, function in user.items():
        plain = isinstance(name, str) and name.replace("-", "_").isidentifier()
        if not plain or name in (PROBE, "items", "item", "accuracy", ALL):
            raise UsageError(
                f"readouts: expected names of letters, digits, _ and - other than probe, items, item, groups and accuracy, "
                f"got {name!r}; rename the read-out"
            )
        if not callable(function):
            raise UsageError(
                f"readouts: expected `{name}` as a function of the module, got {type(function).__name__}; pass a function"
            )
    return dict(user)


def _make(problem: Problem, name: str, user: Mapping[str, UserFunction]) -> ReadOut:
    objective, data = problem.objective, problem.data
    if name == PROBE:
        return ReadOut(name, "nats/token", problem.probe_loss, problem.probe_gradient)
    if name.startswith("item:"):
        return _mean_loss(problem, name, data.items[int(name.removeprefix("item:"))])
    if (groups := parse_group(name)) is not None:
        return _mean_loss(problem, name, group_item(data, groups[0]), pinned=True)
    if name == "accuracy":
        if objective.loss_function is not next_token_loss:
            raise UsageError(
                "readout: expected the built-in next-token loss for `accuracy`, got a loss of your own, whose predictions "
                "are not known here; register a read-out of your own"
            )
        return _averaged(problem, name, "probability", next_token_probability, data.probe)
    return _averaged(problem, name, "", _user_function(name, user), [()], pinned=True)


def _mean_loss(problem: Problem, name: str, item: Item, pinned: bool = False) -> ReadOut:
    """The mean loss on one item's samples."""
    objective, judged = problem.objective, (item,)
    return ReadOut(
        name,
        "nats/token",
        lambda theta: derivatives.evaluate(objective, theta, judged),
        lambda theta: derivatives.evaluate_gradient(objective, theta, judged),
        pinned,
    )


def _user_function(name: str, user: Mapping[str, UserFunction]) -> UserFunction:
    if name in user:
        return user[name]
    if ":" in name:
        return load_hook(name, "readout")
    raise UsageError(
        f"readout: expected {BUILT_IN}, got `{name}`; correct the name, or open the run with "
        f"readouts={{{name!r}: function}}"
    )


def _averaged(
    problem: Problem,
    name: str,
    unit: str,
    function: Callable[..., Tensor],
    inputs: Sequence[Item],
    pinned: bool = False,
) -> ReadOut:
    """The mean over `inputs` of function(module, *input), the module in evaluation mode; summed in the given order."""
    objective = problem.objective

    def called(theta: Tensor, item: Item) -> Tensor:
        return _scalar(name, objective.apply(theta, function, *item))

    def value(theta: Tensor) -> float:
        with torch.no_grad(), objective.judging():
            return sum(called(theta, item).double().item() for item in inputs) / len(inputs)

    def gradient(theta: Tensor) -> Tensor:
        total, theta = torch.zeros_like(theta), theta.detach().requires_grad_()
        with torch.enable_grad(), objective.judging():
            for item in inputs:
                total += torch.autograd.grad(_differentiable(name, called(theta, item)), theta)[0]
        return total / len(inputs)

    return ReadOut(name, unit, value, gradient, pinned)


def _scalar(name: str, found: object) -> Tensor:
    if isinstance(found, Tensor) and found.ndim == 0 and found.is_floating_point():
        return found
    got = f"{found.dtype} of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise ModelError(
        f"read-out `{name}`: expected a floating-point tensor holding one number, got {got}; take a sum or a mean"
    )


def _differentiable(name: str, found: Tensor) -> Tensor:
    if found.requires_grad:
        return found
    raise ModelError(
        f"read-out `{name}`: expected a value differentiable in the module's parameters, got one detached from them; "
        "compute it from the module it is given, without detach(), item() or no_grad()"
    )


def next_token_probability(module: nn.Module, tokens: Tensor) -> Tensor:
    """Mean probability given to the correct next token, a smooth accuracy; tokens: [n, context + 1]."""
    logits = module(tokens[:, :-1])
    return logits.softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).mean()


def require_same_value(name: str, expected: float, found: float, where: str) -> None:
    """ModelError unless the read-out has the value at the reference endpoint that it had when `where` was made."""
    if not abs(found - expected) <= TOLERANCE * abs(expected):
        raise ModelError(
            f"{where}: expected the read-out `{name}` to be {expected:.6g} at the reference endpoint, as when this was "
            f"computed, got {found:.6g}; it is another function now: restore it, or give it another name"
        )
