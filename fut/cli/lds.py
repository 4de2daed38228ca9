"""`fut lds`: the command line of the linear datamodeling score."""

from __future__ import annotations

from typing import Annotated

import typer

from fut.cli.options import Device, Json, ReadOutName, RunPath, answer, open_run, say
from fut.questions.accuracy import render as accuracy_render
from fut.readouts.readout import PROBE


def lds(
    path: RunPath,
    subsets: Annotated[int, typer.Option(help="random subsets to leave out and retrain without")] = 48,
    share: Annotated[float, typer.Option(help="share of all items that each leaves out, in place")] = 0.1,
    seed: Annotated[int, typer.Option(help="seed of the subsets")] = 0,
    estimators: Annotated[
        str | None, typer.Option(help="comma-separated names; default: reweighting and adjoint where they are cached")
    ] = None,
    readout: ReadOutName = PROBE,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Retrain without random subsets of the items and score how estimators rank them (LDS)."""
    run = open_run(path, device, as_json)
    cost = f"{subsets * run.config.consumed} gradients"
    say(f"retraining at most {subsets} subsets of {run.steps} steps, at most {cost}", as_json)
    found = run.lds(subsets, share, seed, estimators.split(",") if estimators else None, readout)
    answer(found.as_dict(), accuracy_render.datamodel(found), as_json)
