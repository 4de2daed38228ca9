"""`fut report`: the command line of the report."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fut.cli.options import Device, Json, RunPath, answer, open_run
from fut.report import SAMPLES


def report(
    path: RunPath,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write; default: report.html in the run")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="random orders that are estimated, not trained, for the picture of the order effect")
    ] = SAMPLES,
    estimator: Annotated[str, typer.Option(help="the estimator of those orders")] = "positions",
    show: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write what the run says as one HTML page, with a board on which its batches are put into another order."""
    written = open_run(path, device, as_json).report(out, samples, estimator)
    lines = [f"wrote {written.path} ({written.nbytes / 1000:.0f} kB); it needs no network"]
    if written.missing:
        wide = max(map(len, written.missing))
        lines += ["not in it, and what would compute it:"]
        lines += [f"  {question.ljust(wide)}  {command}" for question, command in written.missing.items()]
    answer(written.as_dict(), "\n".join(lines), as_json)
    if show:
        webbrowser.open(written.path.absolute().as_uri())
