"""What all commands share: how their arguments are written, and how they speak.

Commands of questions are made of their requests, in `fut.cli.questions`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimators.orders.order import NAMES as ORDERS
from fut.cli.said import keep
from fut.config.schema import printable
from fut.display import format as present
from fut.display.numbers import jsonable
from fut.execution.engine import Engine
from fut.execution.inline import INLINE
from fut.methods.registry import METHODS
from fut.progress import Progress, silent, terminal

if TYPE_CHECKING:
    from fut.api.run import Run


RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="directory of a reference run, or its URL as s3://bucket/run")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else there")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda[:N]")]
ORDER_HELP = f"file (.json, .jsonl, .npy, .uint32), list 3,1,2,0, or {ORDERS}"
Spec = Annotated[str, typer.Option("--order", help=ORDER_HELP)]
Trust = Annotated[
    bool, typer.Option("--trust", help="run code that the run directory names: its model, its loss, its read-outs")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:NAME",
        help="what makes the module of a run that was trained with an object, as a recorded one; it is called without arguments",
    ),
]
OwnLoss = Annotated[
    str | None,
    typer.Option(
        "--loss", metavar="MODULE:NAME", help="the loss of such a run, where its forward pass does not return it"
    ),
]
EngineName = Annotated[
    str, typer.Option("--engine", help="where orders are retrained: inline, in this process, or ray, in several")
]
Workers = Annotated[
    int | None, typer.Option(help="processes of --engine ray; default: one per GPU, or as many as there are CPUs for")
]
Address = Annotated[
    str | None, typer.Option(help="of a Ray cluster that runs; default: one is started here, and ends with the command")
]
METHOD_HELP = f"one of {', '.join(METHODS.names)}; options after colons, as in taylor1:moments=replayed"
SET = "section.key=value, as in the TOML file; again for more"
Settings = Annotated[list[str] | None, typer.Option("--set", help=f"{SET}; all sections")]
PlanSettings = Annotated[
    list[str] | None, typer.Option("--set", help=f"{SET}; of a TOML file all sections, of a run `adjoint` alone")
]
CacheSettings = Annotated[list[str] | None, typer.Option("--set", help=f"{SET}; the sections `cache` and `adjoint`")]


def progress(quiet: bool) -> Progress:
    """Bars on a terminal, or none."""
    return silent if quiet else terminal


def say(text: str, quiet: bool = False) -> None:
    """A line for people, on standard error."""
    if not quiet:
        typer.echo(printable(text), err=True)


def answer(result: dict[str, Any], text: str, as_json: bool) -> None:
    """The result on standard output: one JSON object, or text."""
    typer.echo(present.dumps(jsonable(result)) if as_json else printable(text))


NOTHING = (None, None, False)
"""No module, no loss, and no trust."""


def answer_info(
    path: Path, facts: dict[str, Any], as_json: bool, own: tuple[Any, ...] = NOTHING, more: dict[str, Any] | None = None
) -> None:
    """What a run is, on standard output; and kept, to be said again by `fut info` for as long as the run stays as it is.

    own: the module, the loss and the trust that the run was opened with. With any, nothing is kept: it would be said to who
    gives none. more: goes into the JSON object alone.
    """
    from fut.api import render

    text = render.info(facts)
    if own == NOTHING:
        keep(path, {"text": printable(text), "json": present.dumps(jsonable(facts))})
    answer((more or {}) | facts, text, as_json)


def open_run(
    path: Path,
    device: str,
    quiet: bool,
    trust: bool = False,
    model: str | None = None,
    loss: str | None = None,
    engine: Engine = INLINE,
) -> Run:
    """The opened run.

    Args:
        path: its directory.
        device: as it is written.
        quiet: whether there are no bars.
        trust: whether code that its directory names may run.
        model, loss: of `--model` and `--loss`.
        engine: where orders are retrained, and independent units of work are done.
    """
    from fut.api.opening import open_run as opened

    given = own_objects(model, loss)
    return opened(path, device=device, progress=progress(quiet), trust=trust, engine=engine, **given)


def own_objects(model: str | None, loss: str | None) -> dict[str, Any]:
    """Module and loss that the command line names, as `fut.open` takes them; UsageError for names that are none."""
    from fut.models.factory import load_hook, named_module

    return {
        "module": None if model is None else named_module(model, "--model"),
        "loss": None if loss is None else load_hook(loss, "--loss"),
    }
