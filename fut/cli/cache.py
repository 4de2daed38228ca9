"""`fut cache`: compute what the estimators read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fut.api import render
from fut.cli.options import (
    Address,
    CacheSettings,
    Device,
    EngineName,
    Json,
    Model,
    OwnLoss,
    RunPath,
    Trust,
    Workers,
    answer_info,
    open_run,
    say,
)
from fut.errors import UsageError
from fut.execution.registry import engine as engine_named
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.build import CachePlan
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.store import pairwise_config
from fut.methods.registry import preparations
from fut.methods.settings import adjoint_settings, load_config, parse_config
from fut.questions.question import numbers
from fut.readouts.readout import PROBE, after
from fut.resources.device import describe

if TYPE_CHECKING:
    from fut.api.run import Run


def cache(
    path: RunPath,
    terms: Annotated[
        str | None,
        typer.Option(
            help=f"comma-separated, of {', '.join(term for of in preparations() for term in of.terms)}; all for those of "
            "every method but lowrank and reweighting; default: what the default estimator reads, and what was begun"
        ),
    ] = None,
    readouts: Annotated[
        str | None,
        typer.Option(
            help="comma-separated: what these answer: probe, items, item:I, accuracy, package.module:name; or as probe@STEP"
        ),
    ] = None,
    curve_steps: Annotated[
        str | None,
        typer.Option(help="comma-separated: the probe loss, or those read-outs, after these steps of the window too"),
    ] = None,
    settings: CacheSettings = None,
    engine: EngineName = "inline",
    workers: Workers = None,
    address: Address = None,
    model: Model = None,
    loss: OwnLoss = None,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compute the terms that the estimators replay; resumes, and recomputes what `fut check` found damaged."""
    with engine_named(engine, workers, address) as where:
        run = open_run(path, device, as_json, trust, model, loss, where)
        more = _computed(run, terms, readouts, curve_steps, settings, as_json)
    answer_info(run.path, run.info(), as_json, (model, loss, trust), more)


def _computed(
    run: Run,
    terms: str | None,
    readouts: str | None,
    curve_steps: str | None,
    settings: list[str] | None,
    as_json: bool,
) -> dict[str, Any]:
    """Say what it costs, compute it, and give what is said of that in JSON beside what the run is."""
    config, adjoint = _cache_config(run, settings), _adjoint_config(run, settings)
    names, readout_list = (None if part is None else [n.strip() for n in part.split(",")] for part in (terms, readouts))
    if curve_steps is not None:
        steps = numbers("--curve-steps", curve_steps)
        wanted = run.context.config.adjoint.readouts if readout_list is None else readout_list
        readout_list = [*wanted, *(after(name, step) for step in steps for name in readout_list or [PROBE])]
    repaired = run.methods.repair()
    say(f"caching on {describe(run.context.problem.device)}", as_json)
    plan: CachePlan = run.methods.plan_cache(names, config, readout_list, adjoint)
    say(render.plan(plan, repaired), as_json)
    run.cache(names, config, readout_list, adjoint)
    return {"plan": vars(plan), "repaired": repaired}


def _cache_config(run: Run, settings: list[str] | None) -> CacheConfig | None:
    """What --set says of the terms of pairs: changes of the stored configuration, or else of the run's own."""
    current, given = pairwise_config(run.context).model_dump(mode="json"), settings or []
    if any(not s.strip().startswith(("cache.", "adjoint.")) for s in given):
        raise UsageError(
            f"--set: expected keys of the sections `cache` and `adjoint`, got {', '.join(given)}; the rest is fixed by the run"
        )
    of_cache = [s for s in given if s.strip().startswith("cache.")]
    if not of_cache:
        return None
    changed = load_config(None, of_cache).cache.model_dump(mode="json", exclude_unset=True)
    return parse_config({"cache": current | changed}).cache


def _adjoint_config(run: Run, settings: list[str] | None) -> AdjointConfig | None:
    """What --set says of the expansion: changes of the stored configuration, or else of the run's own."""
    return adjoint_settings(
        open_expansion(run.context).spec.config, [s for s in settings or () if s.strip().startswith("adjoint.")]
    )
