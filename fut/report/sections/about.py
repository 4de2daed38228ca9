"""What was run: in plain words first, then by hashes, versions and machine, all as the run recorded them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fut.artifacts.directory import MODEL
from fut.data.dataset import Dataset
from fut.display.scale import NATS, shown_unit
from fut.methods.settings import Config
from fut.report.section import Section
from fut.training.problem import unit_of_loss
from storage import address

if TYPE_CHECKING:
    from fut.methods.context import Context


BUILT_IN = "fut.models.transformer.Transformer"


@dataclass(frozen=True)
class About:
    """What was run.

    Args:
        name: of the run's directory.
        words: sentences on what was trained.
        start: loss before the window.
        reference: loss after it, in the reference order.
        unit: of the loss.
        facts: label and value, hashes and versions among them.
    """

    name: str
    words: list[str]
    start: float
    reference: float
    unit: str
    facts: list[tuple[str, str]]


def describe_run(run: Context) -> About:
    """Read from the run's manifest and summary alone: no model is built."""
    name = Path(address(run.path)).resolve().name or str(run.path)
    words = [_model(run), _training(run.config, str(run.summary["source"])), _judged(run)]
    return About(
        name, words, float(run.summary["start_loss"]), run.reference_loss, unit_of_loss(run.problem), _facts(run)
    )


def _model(run: Context) -> str:
    model, made = run.config.model, run.manifest.environment.get(MODEL, "")
    size = f"{run.parameters:,} parameters"
    if made == BUILT_IN:
        layers, heads = _counted(model.layers, "layer"), _counted(model.heads, "head")
        return f"A transformer of {size} ({layers}, width {model.width}, {heads})"
    return f"A model of {size} ({model.factory or made})"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _training(config: Config, source: str) -> str:
    data, schedule = config.data, config.schedule
    batch = _counted(data.batch, "sequence")
    tokens = f" of {data.context} tokens" if source != Dataset.source else ""
    pieces = f"{data.items} batches" if data.per_step == 1 else f"{data.items} items, {data.per_step} to a step,"
    size = f" of {batch}{tokens} each" if source != Dataset.source else ""
    often = "once" if data.epochs == 1 else f"{data.epochs} times"
    before = f", after {config.warmup.steps} steps of warm-up that every order shares" if config.warmup.steps else ""
    return (
        f"was trained for {config.steps} steps of {config.rule.name} ({schedule.kind} schedule from {schedule.rate:g}) on "
        f"{pieces}{size}, every one used {often}{before}. Text: {source}."
    )


def _judged(run: Context) -> str:
    """On what, and in which unit."""
    probe, of_text = run.problem.data.probe, run.summary["source"] != Dataset.source
    size = _counted(sum(len(chunk[0]) for chunk in probe), "sequence") if of_text else _counted(len(probe), "item")
    unit = shown_unit(unit_of_loss(run.problem))
    said = f": in {unit}, where lower is better" if unit else "; lower is better"
    more = "; perplexity is exp(loss)" if unit == NATS else ""
    return f"It is judged by its mean loss on held-out data, the probe set of {size}{said}{more}."


def _schedule(run: Context) -> str:
    """The kind of the schedule, and its rates at the first and the last step."""
    rates = [run.problem.rate(step) for step in (0, run.config.steps - 1)]
    return f"{run.config.schedule.kind}, rate {rates[0]:g} to {rates[1]:g}"


def _facts(run: Context) -> list[tuple[str, str]]:
    identity, environment = run.manifest.identity, dict(run.manifest.environment)
    data: dict[str, Any] = identity["data"]
    pinned = environment.pop("config.toml", "")
    rule = run.config.rule
    options = ", ".join(f"{k} {v}" for k, v in sorted(rule.options.items()))
    facts = [
        ("directory", address(run.path)),
        ("model", f"{environment.pop(MODEL, 'unknown')}, {identity['model']['dtype']}"),
        ("update rule", f"{rule.name} ({options})" if options else rule.name),
        ("schedule", _schedule(run)),
        ("reference order, SHA-256", identity["order"]),
        ("probe data, SHA-256", data["probe"]),
        ("first and last item, SHA-256", f"{data['items'][0]} … {data['items'][-1]}"),
        ("config.toml, SHA-256", pinned),
    ]
    machine = [(k, str(environment.pop(k))) for k in ("device", "machine", "threads") if k in environment]
    return [*facts, *machine, *((f"version of {k}", str(v)) for k, v in sorted(environment.items()))]


SECTION = Section(
    "run", "What was run", "run.html.j2", lambda record: describe_run(record.run), heading="What was run, in full"
)
