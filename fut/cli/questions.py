"""Commands made of requests: a flag for every field, so that the command line and Python cannot differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fut.artifacts.kept import keeping
from fut.cli.options import (
    METHOD_HELP,
    ORDER_HELP,
    Address,
    Device,
    EngineName,
    Json,
    Model,
    OwnLoss,
    RunPath,
    Trust,
    Workers,
    answer,
    open_run,
    say,
)
from fut.execution.registry import engine
from fut.questions.question import ESTIMATOR, ORDER, Flag, Question
from fut.studies.base import Study

HELP = {ORDER: ORDER_HELP, ESTIMATOR: METHOD_HELP}
"""Help that requests leave to the command line, as it lists what is registered."""


def command(question: Question[Any, Any] | Study[Any, Any]) -> Callable[..., None]:
    """The command of a question or of a study: opens the run, says what it will cost, asks, and answers.

    Args:
        question: any whose request's fields have flags; one that has none keeps its default.
    """

    def run_command(**given: Any) -> None:
        shared = ("path", "model", "loss", "trust", "device", "as_json", "plot")
        path, model, loss, trust, device, as_json, plot = (given.pop(name, None) for name in shared)
        request = question.request(**read_fields(question.request, given))
        chosen = [given[name] for name in ENGINE] if question.retrains else []
        with engine(*chosen) as where:
            run = open_run(path, device, as_json, trust, model, loss, where)
            result = run.ask(request, lambda line: say(line, as_json))
        content, text = question.content(result), question.text(result)
        if question.draw is not None:
            default = "" if question.picture is None else question.picture(result, request)
            file = plot or run.path / default
            with keeping("the picture", file):
                picture = question.draw(result, file)
                content, text = content | {"plot": str(picture)}, f"{text}\npicture: {picture}"
        answer(content, text, as_json)

    run_command.__doc__ = question.help
    run_command.__name__ = question.name
    shared = [parameter("path", RunPath), *parameters(question.request)]
    if question.draw is not None:
        shared.append(parameter("plot", Annotated[Path | None, typer.Option(help=question.picture_help)], None))
    shared += computing() if question.retrains else []
    shared += [*opening(), parameter("device", Device, "auto"), parameter("as_json", Json, False)]
    run_command.__signature__ = inspect.Signature(shared)  # type: ignore[attr-defined]
    return run_command


def opening() -> list[inspect.Parameter]:
    """How a run is opened whose directory does not hold all of it."""
    return [parameter("model", Model, None), parameter("loss", OwnLoss, None), parameter("trust", Trust, False)]


ENGINE = ("engine", "workers", "address")
"""Keywords of a command that say where work is done, as `fut.execution.registry.engine` takes them."""


def computing() -> list[inspect.Parameter]:
    """Where orders are retrained, and independent units of work are done."""
    kinds = zip(ENGINE, (EngineName, Workers, Address), ("inline", None, None), strict=True)
    return [parameter(name, kind, default) for name, kind, default in kinds]


def read_fields(request: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Values of a request's fields from what was written behind its flags; fields that were not written are left out."""
    values: dict[str, Any] = {}
    for field, flag in _flagged(request):
        if flag.parts and flag.join is not None:
            parts = {name: _read(part, f"--{name}", given[name]) for name, part in flag.parts.items()}
            values[field.name] = flag.join(parts)
        elif (written := given[field.name]) is not None:
            values[field.name] = _read(flag, _name(field.name, flag), written)
    return values


def _read(flag: Flag, name: str, written: Any) -> Any:
    if flag.read is None or written is None:
        return written
    return [flag.read(name, part) for part in written] if flag.many else flag.read(name, written)


def _flagged(request: type[Any]) -> Iterator[tuple[Field[Any], Flag]]:
    for field in fields(request):
        if "flag" in field.metadata:
            yield field, field.metadata["flag"]


def parameters(request: type[Any]) -> Iterator[inspect.Parameter]:
    """The keywords of a command, a flag for every field of its request that has one."""
    hints = get_type_hints(request)
    for field, flag in _flagged(request):
        for name, part in flag.parts.items():
            yield parameter(name, _annotation(name, part, Any, None), None)
        if flag.parts:
            continue
        default = None if flag.read is not None and field.default is not MISSING else field.default
        yield parameter(field.name, _annotation(field.name, flag, hints[field.name], field.default), default)


def _annotation(name: str, flag: Flag, hint: Any, default: Any) -> Any:
    """The type that the command line reads, and the option."""
    if flag.read is not None or hint is Any:
        hint = list[str] if flag.many else str
        hint = hint if default is MISSING else hint | None
    plain = flag.name is None and not (hint is bool and default is False)  # typer names it, with a --no-… for True
    names = () if plain else (_name(name, flag),)
    metavar = flag.metavar or (flag.name.lstrip("-").upper() if flag.name and hint is not bool else None)
    return Annotated[hint, typer.Option(*names, help=HELP.get(flag.help, flag.help), metavar=metavar)]


def _name(field: str, flag: Flag) -> str:
    return flag.name or f"--{field.replace('_', '-')}"


def parameter(name: str, annotation: Any, default: Any = MISSING) -> inspect.Parameter:
    """A keyword of a command."""
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
