"""A window that begins at a checkpoint: what a training had there, and the items that come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import default_collate

from estimators.torch_optimizers import from_optimizer, group_rates, learning_rates
from fut.errors import DataError, ModelError, UsageError
from fut.recording.checkpoint import Saved, with_weights
from fut.recording.items import Form, Item, copied, of_mapping
from fut.recording.watch import facts, trained
from fut.recording.window import EQUAL, Step, Window

MakeOptimizer = Callable[[nn.Module], Optimizer]
MakeScheduler = Callable[[Any], LRScheduler]
SAME = 1e-6
"""How far, relatively, a schedule's rate may be from the one that was saved."""


def restored_window(
    saved: Saved,
    module: nn.Module,
    optimizer: MakeOptimizer | None,
    scheduler: MakeScheduler | None,
    clip: float | None,
    steps: Sequence[tuple[Form, tuple[Item, ...]]],
) -> Window:
    """The window of a training that goes on from a checkpoint.

    Args:
        saved: the checkpoint.
        module: of the model's structure; left alone.
        optimizer: makes the training's optimizer for a module; None for the one that the state is of.
        scheduler: makes its scheduler for an optimizer; None for a constant rate.
        clip: bound on the gradient's global norm.
        steps: form and items of every step.

    Raises:
        DataError, ModelError, UsageError: naming what the checkpoint lacks, or what does not fit it.
    """
    made = with_weights(module, saved)
    if saved.optimizer is None:
        raise DataError(
            f"{saved.source}: expected the optimizer's state, got none; save it too (save_only_model=False), or record the "
            "training while it runs"
        )
    own = _optimizer(made, saved, optimizer)
    schedule = _schedule(own, saved, scheduler)
    rule, _, state, places = from_optimizer(own, made, clip)
    form = steps[0][0]
    weighting = _weighting(module, saved, form)
    window = Window(
        saved.step or 0,
        replace(form, divisor=None if weighting == EQUAL else weighting),
        made,
        rule,
        state,
        facts=facts(made),
        weighting=weighting,
    )
    for _, items in steps:
        grouped = len(places) > 1 or rule.name == "grouped"
        window.steps.append(Step(items, group_rates([learning_rates(own)], places, grouped)))
        own.step()  # no tensor has a gradient: only the scheduler moves
        if schedule is not None:
            schedule.step()
    return window


def ordered_steps(
    data: Any, order: Iterable[Any], collate: Callable[[list[Any]], Any] | None
) -> list[tuple[Form, tuple[Item, ...]]]:
    """Form and items of every step.

    Args:
        data: rows by number.
        order: for every step the numbers of its rows, or a list of such lists for a step of several micro-batches.
        collate: a batch of a list of rows: a mapping of the forward pass's arguments, or a tuple as the loss takes it.

    Raises:
        UsageError: for an order that is none.
        DataError: for batches of different arguments.
    """
    steps: list[tuple[Form, tuple[Item, ...]]] = []
    for number, step in enumerate(order):
        entries: list[Any] = list(step) if _listed(step) else []
        flat = bool(entries) and not any(map(_listed, entries))
        batches = [entries] if flat else entries
        if not batches or not all(_listed(batch) and len(batch) for batch in batches):
            raise UsageError(
                f"order: expected, for every step, row numbers or a list of micro-batches of them, got {step!r:.80} at step "
                f"{number}; write [[0, 1], [2, 3]], or [[[0, 1], [2, 3]]] for two micro-batches in one step"
            )
        found = [
            _item((collate or default_collate)([_row(data, int(row), number) for row in batch])) for batch in batches
        ]
        if odd := [form for form, _ in found if form != (steps[0][0] if steps else found[0][0])]:
            raise DataError(f"order: expected batches of one form, got {', '.join(odd[0].names)} at step {number}")
        steps.append((found[0][0], tuple(item for _, item in found)))
    if len(steps) < 2:
        raise UsageError(f"order: expected at least two steps, got {len(steps)}; give more")
    return steps


def _row(data: Any, row: int, step: int) -> Any:
    try:
        return data[row]
    except (IndexError, KeyError) as error:
        raise UsageError(f"order: expected rows of the data, got {row} at step {step}; correct the order") from error


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)


def _item(batch: Any) -> tuple[Form, Item]:
    if isinstance(batch, Mapping):
        return of_mapping(batch)
    parts = [batch] if isinstance(batch, Tensor) else list(batch) if isinstance(batch, tuple | list) else []
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise DataError(
            f"collate: expected a mapping of tensors or a tuple of them, got {type(batch).__name__}; return what is forwarded"
        )
    return Form(tuple(map(str, range(len(parts))))), tuple(map(copied, parts))


def _optimizer(module: nn.Module, saved: Saved, make: MakeOptimizer | None) -> Optimizer:
    """An optimizer of the module's tensors in the saved state."""
    table: Any = saved.optimizer
    groups = (
        table.get("param_groups") if isinstance(table, Mapping) and isinstance(table.get("state"), Mapping) else None
    )
    if not isinstance(groups, list) or not groups or not all(isinstance(g, Mapping) and "params" in g for g in groups):
        raise DataError(
            f"{saved.source}: expected optimizer.state_dict() as the optimizer, got another mapping; save that"
        )
    made = make(module) if make else _of_state(module, saved)
    try:
        made.load_state_dict(table)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{saved.source}: expected the state of the given optimizer, got another ({error}); make it as the training did: "
            "optimizer=lambda model: torch.optim.AdamW(…)"
        ) from error
    names = {id(p): name for name, p in module.named_parameters()}
    for parameter, memory in made.state.items():
        for value in memory.values():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ModelError(
                    f"{saved.source}: expected optimizer state of shape {list(parameter.shape)} for "
                    f"`{names.get(id(parameter), '?')}`, got {list(value.shape)}; its tensors come in another order: pass the "
                    "training's optimizer, optimizer=lambda model: torch.optim.AdamW(…)"
                )
    return made


def _of_state(module: nn.Module, saved: Saved) -> Optimizer:
    """The optimizer that a state is of, as far as the state itself says it."""
    groups: list[dict[str, Any]] = list((saved.optimizer or {})["param_groups"])
    constants = groups[0]
    kinds: list[tuple[str, Any]] = [
        ("amsgrad", AdamW if constants.get("decoupled_weight_decay") else Adam),
        ("nesterov", SGD),
    ]
    kind = next((kind for key, kind in kinds if key in constants), None)
    tensors = _groups(module, groups, saved.trainer)
    if kind is None or tensors is None:
        raise UsageError(
            f"{saved.source}: expected a state that says which tensors its {len(groups)} parameter groups hold, got none"
            "; pass the training's optimizer: optimizer=lambda model: torch.optim.AdamW(…)"
        )
    made: Optimizer = kind([{"params": part} for part in tensors], lr=1.0)
    return made


def _groups(module: nn.Module, groups: Sequence[Mapping[str, Any]], trainer: bool) -> list[list[nn.Parameter]] | None:
    """The tensors of each parameter group; None where that is not known."""
    named = dict(trained(module))
    if all("param_names" in group for group in groups):
        if odd := [n for group in groups for n in group["param_names"] if n not in named]:
            raise ModelError(
                f"checkpoint: expected optimizer state of the model's tensors, got `{odd[0]}`; give its model"
            )
        return [[named[name] for name in group["param_names"]] for group in groups]
    if len(groups) == 1:
        return [list(named.values())]
    if len(groups) == 2 and trainer:
        from fut.recording.hugging_face import decayed

        chosen = decayed(module)
        return [[p for name, p in named.items() if (name in chosen) is first] for first in (True, False)]
    return None


def _schedule(optimizer: Optimizer, saved: Saved, make: MakeScheduler | None) -> LRScheduler | None:
    """The scheduler where the training left it, the optimizer having the rates of the coming step."""
    if make is None:
        if saved.scheduler is not None:
            raise UsageError(
                f"{saved.source}: expected the function of its schedule, which a checkpoint does not hold, got none; pass it: "
                "scheduler=lambda optimizer: transformers.get_scheduler('linear', optimizer, 100, 1000)"
            )
        return None
    if saved.scheduler is None:
        raise UsageError(
            f"{saved.source}: expected the scheduler's state, got none; save it too, as 'scheduler': scheduler.state_dict()"
        )
    rates = learning_rates(optimizer)
    table = optimizer.state_dict()
    made = make(optimizer)
    if not isinstance(saved.scheduler, Mapping) or set(saved.scheduler) != set(made.state_dict()):
        raise UsageError(
            f"{saved.source}: expected the state of a {type(made).__name__}, got that of another scheduler; give the training's"
        )
    made.load_state_dict(dict(saved.scheduler))
    optimizer.load_state_dict(table)  # with the rates that making a scheduler has changed
    if isinstance(made, LambdaLR):
        rates = [float(base) * f(made.last_epoch) for base, f in zip(made.base_lrs, made.lr_lambdas, strict=True)]
    for rate, own in zip(rates, learning_rates(optimizer), strict=True):
        if abs(rate - own) > SAME * max(abs(own), 1e-30):
            raise UsageError(
                f"scheduler: expected the saved rate {own:.6g} after {made.last_epoch} steps, got {rate:.6g}; give the schedule "
                "of the training, with its numbers of steps"
            )
    return made


def _weighting(module: nn.Module, saved: Saved, form: Form) -> str:
    """What items count by in a step of several."""
    if not saved.trainer or "labels" not in form.names:
        return EQUAL
    from fut.recording.hugging_face import trainer_weighting

    return trainer_weighting(module)


def flat_weights(module: nn.Module, saved: Saved) -> Tensor:
    """A checkpoint's values of the trained tensors [D]."""
    return torch.cat([p.detach().reshape(-1).cpu() for _, p in trained(with_weights(module, saved))])
