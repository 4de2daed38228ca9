"""AdamW with two parameter groups and a scheduler of transformers: as torch trains it, and how well orders are estimated.

python benchmarks/groups.py --work /tmp/groups
python benchmarks/groups.py --texts wikitext-2/valid.txt --work /tmp/groups

A loop of plain torch trains W + T steps: decay on matrices, none on norms and biases, rates of `get_scheduler`. After W steps
optimizer and scheduler are read off as a rule, a lifted state and a list of rates, which train a run of fut for T steps:
`difference` is |fut - torch| / |moved| over these. Beside it one rule for all tensors, with the decay of the matrices. Biases of
keys have no gradient but rounding, which Adam's quotient makes as large as any step: they are also left out. `torch_fused` is
the same between torch's plain and fused AdamW. Float32 runs are then estimated against retrained orders. Resumes.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from adjoint_table import resplit
from record import began, resumed, write_record
from torch import nn
from transformers import get_scheduler

import fut
from estimators.rules import Grouped, described
from estimators.rules.base import Rule
from estimators.schedule import Schedule
from estimators.state import State
from estimators.torch_optimizers import from_optimizer
from fut.api.opening import train_window
from fut.data.text import build_dataset
from fut.estimation.calibration import SEED
from fut.methods.settings import load_config
from fut.models.factory import build_module

NAME, KEYS, ORDER_SEED = "groups", ("text", "rule", "dtype"), 2000
RATE, DECAY, BETAS, RAMP, WARMUP = 3e-3, 0.1, (0.9, 0.95), 20, 100
RULES = ("two groups", "one rule for all")


def optimizer_of(module: nn.Module, groups: bool) -> torch.optim.AdamW:
    """AdamW as training scripts make it, or with one rule for all tensors."""
    decayed = [p for p in module.parameters() if p.ndim > 1 or not groups]
    plain = [p for p in module.parameters() if p.ndim <= 1 and groups]
    tables: list[dict[str, Any]] = [{"params": decayed, "weight_decay": DECAY, "name": "decayed"}]
    tables += [{"params": plain, "weight_decay": 0.0, "name": "plain"}] if plain else []
    return torch.optim.AdamW(tables, lr=RATE, betas=BETAS)


def scheduler_of(steps: int, optimizer: torch.optim.Optimizer) -> Any:
    return get_scheduler("cosine", optimizer, num_warmup_steps=RAMP, num_training_steps=steps)


@dataclass
class Training:
    """A loop of plain torch: the built-in model, its optimizer, and a scheduler of transformers."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any

    @classmethod
    def of(cls, config: fut.Config) -> Training:
        dtype = getattr(torch, config.model.dtype)
        module = build_module(config.model, config.data.vocabulary, config.data.context).to(dtype)
        optimizer = optimizer_of(module, groups=True)
        return cls(module, optimizer, scheduler_of(WARMUP + config.steps, optimizer))

    def steps(self, items: Sequence[Any]) -> None:
        for item in items:
            self.optimizer.zero_grad()
            fut.next_token_loss(self.module, *item).backward()
            self.optimizer.step()
            self.scheduler.step()

    def fused(self, config: fut.Config) -> Training:
        """The same training from here on, by torch's fused AdamW."""
        other = Training.of(config)
        other.module.load_state_dict(self.module.state_dict())
        other.optimizer.load_state_dict(deepcopy(self.optimizer.state_dict()))  # which would share its tensors
        other.scheduler.load_state_dict(self.scheduler.state_dict())
        for group in other.optimizer.param_groups:
            group |= {"fused": True, "foreach": False}
        return other

    def read(self, groups: bool) -> tuple[Rule, State]:
        """The rule and where it stands; for all tensors that of the matrices."""
        rule, _, state, _ = from_optimizer(self.optimizer, self.module)
        if groups or not isinstance(rule, Grouped):
            return rule, state
        first = rule.groups[0]
        clock = {k.partition("/")[2]: v for k, v in state.clock.items() if k.startswith(f"{first.name}/")}
        return first.rule, state._replace(clock=clock)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def keys(module: nn.Module) -> torch.Tensor:
    """Which parameters are biases of keys [D]: they shift all scores of a query alike, and softmax does not see them."""
    found = []
    for name, p in module.named_parameters():
        places = torch.zeros(p.numel(), dtype=torch.bool)
        if name.endswith("qkv.bias"):
            places[p.numel() // 3 : 2 * p.numel() // 3] = True
        found.append(places)
    return torch.cat(found)


def apart(theta: torch.Tensor, training: Training, start: torch.Tensor) -> list[float]:
    """|theta - torch| / |moved|, of all parameters and without biases of keys."""
    end, real = flat(training.module), ~keys(training.module)
    return [float((theta - end)[of].norm() / (end - start)[of].norm()) for of in (slice(None), real)]


def configured(text: str, dtype: str, arguments: argparse.Namespace, sections: dict[str, Any]) -> fut.Config:
    own = {"data": {"items": arguments.steps, "text": text}, "warmup": {"steps": WARMUP}, "model": {"dtype": dtype}}
    return load_config(None, arguments.settings, **(own | sections))


def measure(text: str, rule: str, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: how far the run is from torch's, and how well its orders are estimated."""
    window = configured(text, dtype, arguments, {})
    data = build_dataset(window)
    torch_run = Training.of(window)
    torch_run.steps(data.warmup)
    found_rule, state = torch_run.read(groups=rule == RULES[0])
    name, options = described(found_rule)
    rates = Schedule.of_scheduler(partial(scheduler_of, WARMUP + arguments.steps), WARMUP + arguments.steps, RATE).rates
    own = {"rule": {"name": name, "options": options}, "schedule": {"kind": "recorded", "rates": list(rates[WARMUP:])}}
    path = arguments.work / "run"
    shutil.rmtree(path, ignore_errors=True)
    run = train_window(path, configured(text, dtype, arguments, own), state, module=torch_run.module, data=data)
    fused = torch_run.fused(window)
    torch_run.steps(data.items)
    fused.steps(data.items)
    ours = apart(run.context.state(run.steps).theta, torch_run, state.theta)
    theirs = apart(flat(fused.module), torch_run, state.theta)
    result = {
        "steps": run.steps,
        "parameters": run.context.parameters,
        "difference": ours[0],
        "difference_without_key_biases": ours[1],
        "torch_fused": theirs[0],
        "torch_fused_without_key_biases": theirs[1],
        "reference_loss": run.reference_loss,
    }
    if dtype == "float32":
        result |= estimated(run, arguments)
    shutil.rmtree(path)
    return result


def estimated(run: fut.Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """How well the adjoint estimates the run's orders."""
    run.cache(["adjoint"])
    run.calibrate(arguments.calibration, SEED, "adjoint")
    found = run.verify(arguments.orders, ORDER_SEED, ["adjoint"])
    row = {
        "reference_loss": run.reference_loss,
        "true_sd": found.as_dict()["true_sd"],
        "accuracy": found.estimators["adjoint"],
        "true_losses": found.true_losses,
        "estimated_losses": found.estimated_losses["adjoint"],
    }
    return row | {"calibrated": resplit(row)}


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--texts", nargs="+", default=[""], help="files; the language reference inside CPython if none")
    cli.add_argument("--steps", type=int, default=64)
    cli.add_argument("--orders", type=int, default=32)
    cli.add_argument("--calibration", type=int, default=8)
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default=NAME)
    arguments = cli.parse_args(argv)
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEYS)
    for text in arguments.texts:
        label = Path(text).name or "language reference"
        for rule, dtype in itertools.product(RULES, ("float32", "float64")):
            if (label, rule, dtype) not in done:
                found = measure(text, rule, dtype, arguments)
                rows.append({"text": label, "rule": rule, "dtype": dtype} | found)
                print(label, rule, dtype, f"{found['difference']:.2e}", file=sys.stderr, flush=True)
                write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
