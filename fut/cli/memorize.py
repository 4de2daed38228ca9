"""`fut memorize`: the command line of memorization maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fut.cli.options import Device, EstimatorName, Json, RunPath, answer, numbers, open_run, say
from fut.questions.memorization import render as maps_shown
from fut.questions.memorization.ask import GROUPS, MOST, asked_of
from fut.questions.memorization.estimates import plan_memorize


def memorize(
    path: RunPath,
    items: Annotated[
        str | None, typer.Option(help="comma-separated items, the rows; default: all, or --most of them")
    ] = None,
    most: Annotated[int, typer.Option(help="rows at most where no items are named, evenly spread")] = MOST,
    groups: Annotated[
        int, typer.Option(help="groups of like held-out samples, for text near an item and far from it")
    ] = GROUPS,
    showing: Annotated[int, typer.Option(help="which of an item's showings is moved: 0 the first, -1 the last")] = -1,
    calibrate: Annotated[int, typer.Option(help="cells to retrain for 90 % intervals")] = 0,
    verify: Annotated[int, typer.Option(help="cells to retrain and compare with; 64 is a good number")] = 0,
    seed: Annotated[int, typer.Option(help="seed of the cells that are retrained")] = 0,
    estimator: EstimatorName = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of the maps; default: in the run")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The loss on every item, and on held-out text near it and far from it, by the step the item stands at."""
    run = open_run(path, device, as_json)
    rows = numbers("--items", items)
    counts = {"groups": groups, "showing": showing, "calibrate": calibrate, "verify": verify, "seed": seed}
    asked = asked_of(run.context, rows, most, estimator=estimator, **counts)
    say(maps_shown.costs(asked, plan_memorize(run.context, asked), run.steps), as_json)
    found = run.memorize(rows, most, estimator=estimator, **counts)
    picture = maps_shown.picture(found, plot or path / "answers" / "memorization.png")
    answer(found.as_dict() | {"plot": str(picture)}, maps_shown.memorization(found) + f"\npicture: {picture}", as_json)
