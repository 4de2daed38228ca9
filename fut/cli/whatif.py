"""`fut whatif`: one question by its edits, or a stream of questions as JSON lines."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fut.cli.options import Device, RunPath, answer, open_run, say
from fut.cli.questions import opening, parameter, parameters, read_fields
from fut.errors import UsageError
from fut.questions.whatif.ask import WhatIfRequest
from fut.questions.whatif.render import text
from fut.questions.whatif.stream import Queries

if TYPE_CHECKING:
    from fut.api.run import Run


WRITTEN = "fut.edits"
EDIT_FLAGS = {
    "swap": ("STEP,STEP", "exchange what two steps consume"),
    "move": ("FROM,TO", "move a step's batch to another step"),
    "drop": ("ITEM", "leave an item out, and its step too"),
    "without": ("ITEM,…", "leave items out of their steps, which stay"),
    "repeat": ("ITEM,STEP", "train on ITEM at STEP in place of what it consumed"),
    "replace": ("ITEM,ITEM", "an item by another"),
    "sort": ("SCORE[:desc]", "length, loss, gradient-norm, perplexity-drop, or folding:SCORE:4 …"),
}
"""What stands for the value of every edit's flag, and its help."""


class InOrder(TyperCommand):
    """A command that notes its edits in the order in which they are written, whichever options they are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[WRITTEN] = list(_written(args))
        return super().parse_args(ctx, args)


def _written(words: list[str]) -> Iterator[str]:
    """`swap:3,7` for every `--swap 3,7` or `--swap=3,7`."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.startswith("--") and option[2:] in EDIT_FLAGS and (equals or place + 1 < len(words)):
            yield f"{option[2:]}:{value if equals else words[place + 1]}"


def whatif(**given: Any) -> None:
    """What another order would have changed: edits apply in the order written; or a stream of queries, JSON lines in and out.

    A line is a name (`random:7`), a list (`[3, 1, 2, 0]`), or an object with any of `id`, `order`, `edits` (as
    `[["swap", 3, 7], ["sort", "loss"]]`) and `readouts`. Answers come in the order of the lines; a line that cannot be
    answered gets an object with `error`, the rest go on, and the exit status is 1.
    """
    shared = ("context", "path", "queries", "model", "loss", "trust", "device", "as_json")
    context, path, queries, model, loss, trust, device, as_json = map(given.pop, shared)
    run, edits = open_run(path, device, as_json or queries is not None, trust, model, loss), context.meta[WRITTEN]
    fields = read_fields(WhatIfRequest, given)
    if queries is None:
        answered = run.ask(WhatIfRequest(edits=edits, **fields), lambda line: say(line, as_json))
        answer(answered.as_dict(), text(answered), as_json)
    elif edits:
        raise UsageError(
            f"whatif: expected edits or --queries, got both ({edits[0]}); write the edits into the queries"
        )
    elif not _stream(run, queries, fields):
        raise typer.Exit(1)


def _signature() -> inspect.Signature:
    """The flags of the request's fields, those of the edits and `--queries` after the first."""
    order, *others = parameters(WhatIfRequest)
    edits = [
        parameter(name, Annotated[list[str] | None, typer.Option(f"--{name}", metavar=metavar, help=about)], None)
        for name, (metavar, about) in EDIT_FLAGS.items()
    ]
    stream = typer.Option(metavar="FILE.jsonl|-", help="answer every line: a name, a list, or an object")
    as_json = "one JSON object on standard output; with --queries always one per line"
    return inspect.Signature(
        [
            parameter("context", typer.Context),
            parameter("path", RunPath),
            order,
            *edits,
            parameter("queries", Annotated[str | None, stream], None),
            *others,
            *opening(),
            parameter("device", Device, "auto"),
            parameter("as_json", Annotated[bool, typer.Option("--json", help=as_json)], False),
        ]
    )


whatif.__signature__ = _signature()  # type: ignore[attr-defined]


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
