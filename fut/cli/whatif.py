"""`fut whatif`: one question by its edits, or a stream of questions as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fut.cli.options import Device, EstimatorName, Partial, RunPath, Spec, answer, open_run, say
from fut.errors import UsageError
from fut.orders.editing import EDITS
from fut.questions.whatif.ask import WhatIfRequest
from fut.questions.whatif.render import text
from fut.questions.whatif.stream import Queries
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from fut.api.run import Run


WRITTEN = "fut.edits"
Written = list[str] | None


class InOrder(TyperCommand):
    """A command that notes its edits in the order in which they are written, whichever options they are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[WRITTEN] = list(_written(args))
        return super().parse_args(ctx, args)


def _written(words: list[str]) -> Iterator[str]:
    """`swap:3,7` for every `--swap 3,7` or `--swap=3,7`."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.startswith("--") and option[2:] in EDITS and (equals or place + 1 < len(words)):
            yield f"{option[2:]}:{value if equals else words[place + 1]}"


def whatif(
    context: typer.Context,
    path: RunPath,
    order: Spec = "identity",
    swap: Annotated[
        Written, typer.Option("--swap", metavar="STEP,STEP", help="exchange what two steps consume")
    ] = None,
    move: Annotated[
        Written, typer.Option("--move", metavar="FROM,TO", help="move a step's batch to another step")
    ] = None,
    drop: Annotated[Written, typer.Option("--drop", metavar="ITEM", help="leave an item out, and its step too")] = None,
    without: Annotated[
        Written, typer.Option("--without", metavar="ITEM,…", help="leave items out of their steps, which stay")
    ] = None,
    repeat: Annotated[
        Written,
        typer.Option("--repeat", metavar="ITEM,STEP", help="train on ITEM at STEP in place of what it consumed"),
    ] = None,
    replace: Annotated[Written, typer.Option("--replace", metavar="ITEM,ITEM", help="an item by another")] = None,
    sort: Annotated[
        Written,
        typer.Option(
            "--sort", metavar="SCORE[:desc]", help="length, loss, gradient-norm, perplexity-drop, or folding:SCORE:4 …"
        ),
    ] = None,
    queries: Annotated[
        str | None, typer.Option(metavar="FILE.jsonl|-", help="answer every line: a name, a list, or an object")
    ] = None,
    readout: Annotated[
        Written, typer.Option("--readout", help="probe, accuracy, item:I, items or package.module:name; again for more")
    ] = None,
    estimator: EstimatorName = None,
    verify: Annotated[bool, typer.Option("--verify", help="retrain in that order, and say what came out")] = False,
    known: Annotated[bool, typer.Option(help="answer orders that have been retrained by their truth")] = True,
    partial: Partial = False,
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON object on standard output; with --queries always one per line")
    ] = False,
) -> None:
    """What another order would have changed: edits apply in the order written; or a stream of queries, JSON lines in and out.

    A line is a name (`random:7`), a list (`[3, 1, 2, 0]`), or an object with any of `id`, `order`, `edits` (as
    `[["swap", 3, 7], ["sort", "loss"]]`) and `readouts`. Answers come in the order of the lines; a line that cannot be
    answered gets an object with `error`, the rest go on, and the exit status is 1.
    """
    run, edits = open_run(path, device, as_json or queries is not None), context.meta[WRITTEN]
    fields: dict[str, Any] = {"readouts": readout or [PROBE], "estimator": estimator, "verify": verify}
    fields |= {"order": order, "known": known, "partial": partial}
    if queries is None:
        answered = run.ask(WhatIfRequest(edits=edits, **fields), lambda line: say(line, as_json))
        answer(answered.as_dict(), text(answered), as_json)
    elif edits:
        raise UsageError(
            f"whatif: expected edits or --queries, got both ({edits[0]}); write the edits into the queries"
        )
    elif not _stream(run, queries, fields):
        raise typer.Exit(1)


def _stream(run: Run, queries: str, fields: dict[str, Any]) -> bool:
    """Write an answer a line, as soon as there is one; whether every line could be answered."""
    sound = True
    with ExitStack() as opened:
        lines: Any = sys.stdin if queries == "-" else opened.enter_context(Path(queries).open("rb"))
        try:
            for line in run.ask(Queries(queries=lines, **fields)):
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
                sound = sound and "error" not in line
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return sound
