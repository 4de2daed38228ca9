"""Checks before training: that what is trained is the user's own module, a function of parameters and item, on these data.

They cost some ten gradients, and a forward pass of every item; of the built-in model, which is known, the probe loss alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fut.errors import DataError, ModelError
from fut.models import autodiff as derivatives
from fut.models.hidden_state import changed, hidden_state
from fut.models.lifting import copied
from fut.models.objective import Item, Loss, Objective
from fut.training.problem import Problem

SAME = {torch.float32: 1e-5, torch.float64: 1e-10}
"""How far, relatively, the copy's loss may be from the module's own, where both compute in one type: rounding."""
LIFTED = 0.05
"""The same where the copy's parameters are of another type than the module's own, such as bfloat16."""
LEAST = 0.1
"""Losses below which the tolerance is that of this one."""
FUNCTION = "model: expected a forward pass and a loss that are functions of parameters and item alone, got"


@dataclass(frozen=True)
class Evaluation:
    """One item's loss [nats/token] at some parameters, and a digest of the bytes of loss and gradient, which decides."""

    loss: float = field(compare=False)
    digest: str


def require_trainable(problem: Problem, module: nn.Module, loss: Loss, every_item: bool = True) -> None:
    """Refuse, before anything is computed, what could not be trained and replayed as the user's own module.

    Args:
        problem: what is trained.
        module: as it was given; left as it is.
        loss: as it was given.
        every_item: look at all items and probe chunks, in place of the first ones alone.

    Raises:
        ModelError: for a forward pass that remembers or draws numbers that no seed decides, for a copy that has another loss
            than the module, and for tensors that an item gives no gradient, where torch.optim would leave them out.
        DataError: for an item or a probe chunk whose loss is not finite at the starting parameters.
    """
    if not problem.objective.built_in:
        _require_finite_start(problem)
        _require_function(problem)
        _require_own_loss(problem, module, loss)
        _require_items(problem, every_item)
    theta, probe = _start(problem), problem.data.probe
    for number, chunk in enumerate(probe if every_item else probe[:1]):
        with _named(f"probe chunk {number}", number > 0):
            value = derivatives.evaluate(problem.objective, theta, [chunk])
        _require_finite(value, f"probe chunk {number}")


def first_evaluation(problem: Problem) -> Evaluation | None:
    """The first item at the starting parameters; None for the built-in model, which is a function of them."""
    if problem.objective.built_in:
        return None
    return _evaluated(problem.objective, _start(problem), problem.data.items[0])


def _start(problem: Problem) -> Tensor:
    """The parameters that training begins with [D]: a recorded one's, or the module's own."""
    return problem.objective.start() if problem.state is None else problem.state.theta


def require_same_function(problem: Problem, before: Evaluation | None) -> None:
    """ModelError unless the first item has the loss and the gradient at the starting parameters that it had before training."""
    after = first_evaluation(problem)
    if before is not None and after is not None and after != before:
        raise ModelError(
            f"{FUNCTION} other ones for item 0 after training than before, at the same parameters (loss {before.loss:.8g}, then "
            f"{after.loss:.8g}); they remember how often, or with what, they were called: a counter, a schedule or a cache in a "
            "closure or a global. Take it out; what depends on the step belongs to the schedule"
        )


def _evaluated(objective: Objective, theta: Tensor, item: Item) -> Evaluation:
    g, loss = derivatives.gradient_and_loss(objective, theta, item)
    content = repr(loss).encode() + g.cpu().numpy().tobytes()
    return Evaluation(loss, hashlib.sha256(content).hexdigest())


# --- a function of parameters and item


def _require_function(problem: Problem) -> None:
    """Refuse a forward pass that remembers, in the module's own mode and in evaluation mode."""
    objective, items, probe = problem.objective, problem.data.items, problem.data.probe
    if any(part.training for part in objective.module.modules()):
        _require_pure(objective, (items[0], items[-1]), judged=False)
    _require_pure(objective, (probe[0], items[0]), judged=True)


def _require_pure(objective: Objective, pair: tuple[Item, Item], judged: bool) -> None:
    """The same loss and gradient of an item however often and after whatever it is evaluated, and no state that grows."""
    theta, one, mode = objective.start(), objective.fresh(), "evaluation mode" if judged else "training mode"
    states, found = [hidden_state(one.call)], []
    with _mode(one, judged):
        for number, item in enumerate((pair[0], pair[0], pair[1], pair[0])):
            with _named("the last item", number == 2 and not judged):
                found.append(_evaluated(one, theta, item))
            _require_unwritten(one, theta)
            states.append(hidden_state(one.call))
    grown, moved = changed(states[1], states[2]), changed(states[0], states[1])
    if grown:
        raise _remembers(grown, states[2], mode)
    if found[1] != found[0]:
        raise ModelError(
            f"{FUNCTION} two losses or gradients of one item at the same parameters in {mode} (loss {found[0].loss:.8g}, then "
            f"{found[1].loss:.8g}); they draw random numbers that no seed decides (a generator of their own, the clock), or "
            "remember how often they were called (a global, a closure). torch's, Python's and numpy's global generators are "
            "seeded by item: draw from these"
        )
    if found[3] != found[0]:
        raise _remembers(changed(states[0], states[4]), states[4], mode)
    if moved:  # every call overwrites it: of no effect, if another item is seen the same without it
        other = objective.fresh()
        with _mode(other, judged):
            if _evaluated(other, theta, pair[1]) != found[2]:
                raise _remembers(moved, states[1], mode)


def _mode(objective: Objective, judged: bool) -> AbstractContextManager[None]:
    return objective.judging() if judged else nullcontext()


def _require_unwritten(objective: Objective, theta: Tensor) -> None:
    given = zip(objective.names, objective.tensors, objective.parts(theta), strict=True)
    written = [objective.own_name(name) for name, own, part in given if not torch.equal(own, part)]
    if written:
        raise ModelError(
            f"{FUNCTION} one that writes into its parameter `{written[0]}`, as max_norm of an embedding does; compute what it "
            "writes from the parameter, in the forward pass, without changing it"
        )


def _remembers(names: list[str], state: Mapping[str, str], mode: str) -> ModelError:
    shown = ", ".join(f"`{name}`" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return ModelError(
        f"{FUNCTION} a forward pass that remembers, in {mode}: it changes {shown or 'what it does at the next call'}, which is "
        "memory outside the lifted state; running statistics and spectral norms hold still in eval(), values that the first "
        "data decide are set before training, and a counter or a log belongs outside of the module"
    )


# --- the user's own


def _require_own_loss(problem: Problem, module: nn.Module, loss: Loss) -> None:
    """The copy's loss is the module's own, on the first item and, in evaluation mode, on the first probe chunk."""
    objective, device = problem.objective, problem.device
    own, own_loss = copied(module, loss)
    own = own.to(device)
    own_loss = own_loss.to(device) if isinstance(own_loss, nn.Module) else own_loss
    lifted = any(p.dtype != objective.dtype for part in (own, own_loss) for p in _trained(part))
    tolerance = LIFTED if lifted else SAME[objective.dtype]
    for where, item, judged in (
        ("item 0", problem.data.items[0], False),
        ("probe chunk 0", problem.data.probe[0], True),
    ):
        with torch.no_grad(), objective.noise(item), objective.call.precision(device.type):
            if judged:
                own.eval()
                own_loss = own_loss.eval() if isinstance(own_loss, nn.Module) else own_loss
            try:
                expected = float(own_loss(own, *objective.arguments(item)))
            except (
                Exception
            ):  # items of model.dtype, which a module of another type does not take: nothing to compare with
                continue
        with _mode(objective, judged):
            found = derivatives.item_loss(objective, objective.start(), item)
        near = abs(found - expected) <= tolerance * max(abs(expected), LEAST)
        if not near and not (math.isnan(found) and math.isnan(expected)) and found != expected:
            raise ModelError(
                f"{where}: expected the loss of the module as it was given, {expected:.8g}, got {found:.8g} from the copy with "
                f"parameters of {objective.dtype}; set model.dtype to the type of its parameters, and keep tensors that are "
                "neither parameters nor buffers out of it"
            )


def _trained(part: object) -> list[nn.Parameter]:
    return [p for p in part.parameters() if p.requires_grad] if isinstance(part, nn.Module) else []


# --- the data


def _require_items(problem: Problem, every_item: bool) -> None:
    """Every item, and every warm-up item, has a finite loss and a gradient for all tensors."""
    theta, data = _start(problem), problem.data
    parts = [(f"item {i}", item) for i, item in enumerate(data.items)]
    parts += [(f"warm-up step {i}", item) for i, item in enumerate(data.warmup)]
    found: dict[str, tuple[float, frozenset[str]]] = {}
    for where, item in parts if every_item else parts[:1]:
        with _named(where, bool(found)):
            found[where] = derivatives.reached(problem.objective, theta, item)
    if len(found) > 1 and not any(math.isfinite(loss) for loss, _ in found.values()):
        raise ModelError(
            f"model: expected a finite loss at the starting parameters, got {found['item 0'][0]} for every item, whatever the "
            "rate; mend the forward pass, the loss or the starting values"
        )
    for where, (loss, absent) in found.items():
        _require_finite(loss, where)
        problem.absent.note(where, absent)
    problem.absent.require_none()


@contextmanager
def _named(where: str, others: bool) -> Iterator[None]:
    """An error of the user's own code is of this item, and not of the module, where others are evaluated without one."""
    try:
        yield
    except ModelError as error:
        if not others or error.__cause__ is None:
            raise
        said = (str(error.__cause__).splitlines() or [""])[0][:200]
        raise DataError(
            f"{where}: expected a loss, as the first item has, got {type(error.__cause__).__name__}: {said}; look at its numbers "
            "and labels, or leave it out"
        ) from error


def _require_finite_start(problem: Problem) -> None:
    objective = problem.objective
    for name, part in zip(objective.names, objective.parts(_start(problem)), strict=True):
        if not part.isfinite().all():
            raise ModelError(
                f"model: expected finite starting parameters, got NaN or infinity in `{objective.own_name(name)}`; give it "
                "starting values"
            )


def _require_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise DataError(
            f"{where}: expected a finite loss at the starting parameters, got {loss}, whatever the rate; look at its numbers "
            "and labels (a mean over labels that are all ignored is NaN), or leave it out"
        )
