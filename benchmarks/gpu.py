"""A model of 100 million parameters on one GPU: accuracy against real retraining, noise floor, throughput, memory and time.

python benchmarks/gpu.py --text wikitext-2 --work /tmp/gpu --size 100M --seconds 480

First the device's own rates, and a plain loop of forward and backward passes beside the gradients that `fut` takes, in the same
process. Then for every rate: warm-up, reference run, expansion with its scratch in memory, 8 calibration orders and n held-out
orders, all really retrained, and the reference order from starting points that differ by rounding. The record is written after
every part, so that a call that is cut off leaves what it has; parts that `--seconds` leaves no time for are left out.
"""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bounded_resources import Watch, status
from record import began, write_record

import fut
from estimators.orders.order import random_orders
from fut.artifacts.directory import ADJOINT
from fut.estimation.calibration import SEED
from fut.methods.adjoint.strategies import strategies
from fut.methods.batching import raw_estimates
from fut.methods.footprint import Footprint
from fut.methods.settings import load_config
from fut.methods.timings import Timings
from fut.models.autodiff import gradient, hessian_vector, hessian_vector_difference
from fut.resources.device import reproducible
from fut.resources.memory import peak_bytes
from fut.training.problem import Problem
from fut.training.trainer import train_order

NAME, ORDER_SEED, MANY, PERTURBED = "gpu", 2000, 1000, 1e-7
SIZES: dict[str, dict[str, dict[str, int]]] = {
    "100M": {
        "model": {"width": 768, "layers": 14, "heads": 12},
        "data": {"batch": 16, "context": 512, "probe": 64},
    },
    "10M": {"model": {"width": 384, "layers": 6, "heads": 6}, "data": {"batch": 16, "context": 256, "probe": 64}},
    "tiny": {"model": {"width": 32, "layers": 2, "heads": 2}, "data": {"batch": 2, "context": 16, "probe": 8}},
}
GIB = 1 << 30


def config_of(rate: float, arguments: argparse.Namespace) -> Any:
    """The configuration of a rate's run: a sample of coordinates drawn before the backward pass, and scratch in memory."""
    size = SIZES[arguments.size]
    data = {**size["data"], "items": arguments.steps, "text": arguments.text, "heterogeneous": arguments.heterogeneous}
    adjoint = {
        "storage": "retrain",
        "drawn": "before",
        "scratch": "memory",
        "control": "never",
        "coordinates": arguments.coordinates,
        "functionals": arguments.functionals,
        "products": arguments.products,
    }
    return load_config(
        None,
        arguments.settings,
        data=data,
        model={**size["model"], "autocast": "" if arguments.precision == "float32" else arguments.precision},
        schedule={"rate": rate},
        warmup={"steps": arguments.warmup, "rate": arguments.warmup_rate},
        checkpoints={"every": arguments.steps},
        adjoint=adjoint,
    )


def finished(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        finished(device)
        started = time.perf_counter()
        call()
        finished(device)
        found.append(time.perf_counter() - started)
    return float(np.median(found[1:]))


class Peak:
    """What a part took. seconds: wall clock; device_bytes: the most that torch's allocator held, host_bytes: the most that the
    process had beyond its start, disk_bytes: the most that a directory had."""

    seconds = 0.0
    device_bytes = host_bytes = disk_bytes = 0

    def as_dict(self) -> dict[str, float]:
        names = ("seconds", "device_bytes", "host_bytes", "disk_bytes")
        return {name: getattr(self, name) for name in names}


@contextmanager
def measured(device: torch.device, directory: Path) -> Iterator[Peak]:
    """Fill a `Peak` with what the block takes."""
    found, watch = Peak(), Watch(directory)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = status("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    started = time.perf_counter()
    watch.start()
    yield found
    finished(device)
    found.seconds = time.perf_counter() - started
    watch.over.set()
    watch.join()
    found.disk_bytes, found.host_bytes = watch.most, status("VmHWM:") - before
    if device.type == "cuda":
        found.device_bytes = torch.cuda.max_memory_allocated(device)


class Stages:
    """A progress that keeps the seconds of every stage and says its units while they are done: a call may be cut off."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()

    @contextmanager
    def __call__(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        started, done = time.perf_counter(), 0

        def tick() -> None:
            nonlocal done
            done += 1
            if done in (1, 2, 4, 8, 16, 32, total):
                print(f"{label} {done}/{total}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)

        yield tick
        finished(self.device)
        self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - started


def product_seconds(problem: Problem, sequences: Sequence[int] = (2, 4, 8)) -> list[dict[str, float]]:
    """Seconds and memory of a gradient, and of a Hessian-vector product exactly and by difference, on a few sequences."""
    objective, device, found = problem.objective, problem.device, []
    theta, item = objective.start(), problem.data.items[0]
    calls: dict[str, Callable[[Any], object]] = {
        "gradient": lambda part: gradient(objective, theta, part),
        "exact": lambda part: hessian_vector(objective, theta, part, theta),
        "difference": lambda part: hessian_vector_difference(objective, theta, part, theta),
    }
    with reproducible(device):
        for count in sequences:
            part, row = tuple(t[:count] for t in item), {"sequences": float(count)}
            for name, call in calls.items():
                row[f"{name}_seconds"] = seconds_of(device, partial(call, part), 2)
                row[f"{name}_bytes"] = float(peak_bytes(device, partial(call, part)))
            found.append(row)
    return found


def device_rates(device: torch.device, size: int = 8192) -> dict[str, float]:
    """Bytes a second of a copy, read and written, and operations a second of products of random matrices."""
    size = size if device.type == "cuda" else 512
    numbers = torch.randn(size * size, device=device)
    copied = torch.empty_like(numbers)
    found = {"copy_bytes_per_second": 2 * numbers.nbytes / seconds_of(device, lambda: copied.copy_(numbers), 10)}
    for kind in (torch.float32, torch.bfloat16):
        matrix = numbers.view(size, size).to(kind)
        name = str(kind).removeprefix("torch.")
        with reproducible(device):
            found[f"{name}_flops_per_second"] = 2 * size**3 / seconds_of(device, lambda m=matrix: m @ m, 5)  # type: ignore[misc]
    return found


def throughput(problem: Problem, repeats: int) -> dict[str, Any]:
    """Tokens a second of a plain loop of forward and backward passes with torch's own settings, and of the gradients that `fut`
    takes, on the same items in turn, so that what the machine does beside it meets both."""
    objective, device = problem.objective, problem.device
    module, item = objective.fresh().module, problem.data.items[0]
    theta, tokens = objective.start(), item[0][:, 1:].numel()

    def plain() -> None:
        module.zero_grad(set_to_none=True)
        with torch.autocast(device.type, objective.autocast or torch.bfloat16, enabled=objective.autocast is not None):
            loss = objective.loss_function(module, *item)
        loss.backward()

    found: dict[str, list[float]] = {"plain": [], "fut": []}
    for _ in range(3):
        found["plain"].append(seconds_of(device, plain, repeats))
        with reproducible(device):
            found["fut"].append(seconds_of(device, lambda: gradient(objective, theta, item), repeats))
    rates = {name: tokens / np.array(seconds) for name, seconds in found.items()}
    return {
        "tokens_per_item": tokens,
        "plain_tokens_per_second": rates["plain"].tolist(),
        "fut_tokens_per_second": rates["fut"].tolist(),
        "ratio": float(np.median(rates["fut"] / rates["plain"])),
    }


def noise_floor(run: fut.Run, count: int) -> dict[str, Any]:
    """Standard deviation of the reference order's probe loss over starting points that differ by rounding, and of what it is from
    the reference: no estimate can be nearer to the truth than that."""
    problem, start = run.context.problem, run.context.state(0)
    losses = []
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, start.theta.shape, generator=draw, dtype=torch.int8).to(start.theta.device) * 2 - 1
        moved = start._replace(theta=start.theta * (1 + PERTURBED * signs))
        with reproducible(problem.device):
            losses.append(train_order(problem, moved, run.reference).loss)
    return {"losses": losses, "sd": float(np.std(losses, ddof=1)) if count > 1 else None}


def asked(run: fut.Run, count: int) -> dict[str, float]:
    """Seconds of an order when many are asked at once, and the sampling error that estimates state [nats/token]."""
    estimator = run.methods.open("adjoint")
    orders = random_orders(run.reference, count, ORDER_SEED + 1)
    raw_estimates(estimator, orders[:16])
    finished(run.context.device)
    started = time.perf_counter()
    _, variances = raw_estimates(estimator, orders)
    finished(run.context.device)
    seconds = (time.perf_counter() - started) / count
    return {"seconds_per_order": seconds, "sampling_sd": float(np.sqrt(np.mean(variances)))}


class Clock:
    """Seconds that are left of a call."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def prepared(
    row: dict[str, Any], arguments: argparse.Namespace, keep: Callable[[], None], first: dict[str, Any] | None
) -> fut.Run:
    """Train a rate's reference run and compute its expansion, and keep what that takes in the row.

    first: hears of throughput, on the first run alone.
    """
    path, device = arguments.work / f"{row['rate']:g}", torch.device(arguments.device)
    shutil.rmtree(path, ignore_errors=True)
    stages = Stages(device)
    with measured(device, path) as took:
        run = fut.train(path, config_of(row["rate"], arguments), device=arguments.device, progress=stages)
    row |= {"parameters": run.context.parameters, "reference": took.as_dict(), "reference_loss": run.reference_loss}
    keep()
    if first is not None:
        first |= {"throughput": throughput(run.context.problem, 5), "products": product_seconds(run.context.problem)}
        keep()
    timings = Timings(Footprint(run.context.problem))
    planned = next(way for way in strategies(run.context.config, timings) if way.chosen)
    row["planned"] = {
        n: getattr(planned, n) for n in ("gradients", "seconds", "scratch_bytes", "host_bytes", "device_bytes")
    }
    with measured(device, path / ADJOINT) as took:
        run.cache([ADJOINT])
    row |= {"expansion": took.as_dict(), "stage_seconds": stages.seconds}
    row["precompute_training_runs"] = planned.gradients / run.steps
    tokens = run.context.problem.data.items[0][0][:, 1:].numel()
    row["expansion"]["tokens_per_second"] = planned.gradients * tokens / took.seconds
    row["many"] = asked(run, arguments.many)
    keep()
    return run


def compared(run: fut.Run, row: dict[str, Any], arguments: argparse.Namespace, clock: Clock) -> None:
    """Retrain orders and compare them with what was estimated; as many as there is time for."""
    started = time.perf_counter()
    run.calibrate(arguments.calibration, SEED, "adjoint")
    each = (time.perf_counter() - started) / arguments.calibration  # with writing its endpoint
    orders = min(arguments.orders, int((clock.left - arguments.floor * each) / each))
    if orders < 2:
        row["left_out"] = "held-out orders: no time"
        return
    found = run.verify(orders, ORDER_SEED, ["adjoint"])
    row |= {"true_sd": found.as_dict()["true_sd"], "accuracy": found.estimators["adjoint"]}
    row["retrain_seconds"] = found.retrain_seconds
    row["seconds_of_an_order_in_retrainings"] = row["many"]["seconds_per_order"] / found.retrain_seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="100M")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--products", choices=["difference", "exact"], default="difference")
    parser.add_argument("--steps", type=int, default=64, help="T")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--warmup-rate", type=float, default=3e-4)
    parser.add_argument("--coordinates", type=int, default=1 << 17)
    parser.add_argument("--functionals", type=int, default=2)
    parser.add_argument("--orders", type=int, default=24)
    parser.add_argument("--calibration", type=int, default=8)
    parser.add_argument("--floor", type=int, default=4, help="retrainings for the noise floor")
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--text", default="", help="a file or directory; empty for the language reference in CPython")
    parser.add_argument("--heterogeneous", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting, as section.key=value")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no new part is begun")
    parser.add_argument("--work", type=Path, default=Path("gpu-work"))
    parser.add_argument("--name", default=NAME)
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    faulthandler.dump_traceback_later(60, repeat=True)  # where a call that is cut off spent its time
    clock, call, device = Clock(arguments.seconds), began(), torch.device(arguments.device)
    results: dict[str, Any] = {"device": device_rates(device), "rows": []}

    def keep() -> None:
        write_record(arguments.name, vars(arguments), results, call)
        print({k: v for k, v in results["rows"][-1].items() if k != "planned"}, file=sys.stderr, flush=True)

    for rate in arguments.rates:
        if results["rows"] and clock.left < 60:
            break
        row: dict[str, Any] = {"rate": rate}
        results["rows"].append(row)
        run = prepared(row, arguments, keep, None if "throughput" in results else results)
        compared(run, row, arguments, clock)
        keep()
        if clock.left > arguments.floor * row.get("retrain_seconds", np.inf):
            row["noise_floor"] = noise_floor(run, arguments.floor)
            keep()
        del run
        shutil.rmtree(arguments.work / f"{rate:g}", ignore_errors=True)


if __name__ == "__main__":
    main()
