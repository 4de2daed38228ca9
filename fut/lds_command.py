"""`fut lds`: the command line of the linear datamodeling score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import present
from .readouts import PROBE


def lds(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="directory of a reference run")],
    subsets: Annotated[int, typer.Option(help="random subsets to leave out and retrain without")] = 48,
    share: Annotated[float, typer.Option(help="share of all items that each leaves out, in place")] = 0.1,
    seed: Annotated[int, typer.Option(help="seed of the subsets")] = 0,
    estimators: Annotated[
        str | None, typer.Option(help="comma-separated names; default: reweighting and adjoint where they are cached")
    ] = None,
    readout: Annotated[str, typer.Option("--readout", help="probe, accuracy, item:I, or package.module:name")] = PROBE,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:N]")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON object on standard output, nothing else there")
    ] = False,
) -> None:
    """Retrain without random subsets of the items and score how estimators rank them (LDS)."""
    from . import cli

    run = cli.open_run(path, device, as_json)
    cost = f"{subsets * run.config.consumed} gradients"
    cli.say(f"retraining at most {subsets} subsets of {run.steps} steps, at most {cost}", as_json)
    found = run.lds(subsets, share, seed, estimators.split(",") if estimators else None, readout)
    cli.answer(found.as_dict(), present.datamodel(found), as_json)
