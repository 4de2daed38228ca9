"""Commands about orders in files: write one, and ask whether a training obeyed it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fut.cli.options import Json, RunPath, Spec, Trust, answer, open_run

Samples = Annotated[int, typer.Option(help="rows of the data set that make an item, consecutive ones", min=1)]


def write_order(
    path: RunPath,
    out: Annotated[Path, typer.Option("--out", help="file to write: .json, .jsonl, .npy, or bare uint32 as .uint32")],
    order: Spec = "identity",
    samples: Samples = 1,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write an order to a file: JSON, JSON lines, numpy, or the index file that OLMo reads."""
    run = open_run(path, "cpu", as_json, trust)
    chosen = run.order(order)
    written = run.orders.write(chosen, out, samples)
    text = f"wrote {written}: {len(chosen)} steps, order {chosen.digest[:12]}"
    answer({"path": str(written), "steps": len(chosen), "order": chosen.digest}, text, as_json)


def check_order(
    path: RunPath,
    log: Annotated[Path, typer.Argument(metavar="LOG", help="JSON lines, list, .npy or .uint32 of what was consumed")],
    order: Spec = "identity",
    samples: Samples = 1,
    start: Annotated[int, typer.Option(help="step of the log at which the window begins", min=0)] = 0,
    later: Annotated[bool, typer.Option(help="count steps that the log has after the window")] = True,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Whether a training obeyed an order, from its log of what was consumed; exit status 1 if it did not."""
    found = open_run(path, "cpu", as_json, trust).orders.check(log, order, samples, start, later)
    answer(found.as_dict(), found.text(), as_json)
    if not found.obeyed:
        raise typer.Exit(1)
