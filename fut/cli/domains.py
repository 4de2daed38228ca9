"""`fut domains`: the command line of questions about the order of whole domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fut.cli.options import Device, EstimatorName, Json, ReadOutName, RunPath, answer, numbers, open_run, say
from fut.questions.domains import render as domains_shown
from fut.questions.domains.ask import MOST, PLACES
from fut.questions.domains.estimates import SHARE
from fut.readouts.readout import PROBE


def domains(
    path: RunPath,
    labels: Annotated[
        str,
        typer.Option(
            help="JSON file (label -> items, or a label per item), source, or loss:3, length:3, gradient-norm:3, …"
        ),
    ],
    orders: Annotated[
        list[str] | None,
        typer.Option(help="labels in an order, as in web,books,code; may be repeated; default: all orders"),
    ] = None,
    items: Annotated[
        str | None, typer.Option(help="items, each put at every step: an odd or poisoned batch, say")
    ] = None,
    most: Annotated[int, typer.Option(help="domain orders at most where none are named, drawn from --seed")] = MOST,
    places: Annotated[int, typer.Option(help="places at which every domain is put, from first to last")] = PLACES,
    calibrate: Annotated[
        int, typer.Option(help="of the orders that move domains to retrain for intervals that hold for them")
    ] = 0,
    verify: Annotated[
        int, typer.Option(help="of these orders to retrain and compare with, and half as many that move an item")
    ] = 0,
    seed: Annotated[int, typer.Option(help="seed of what is drawn")] = 0,
    readout: ReadOutName = PROBE,
    estimator: EstimatorName = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of the answers; default: in the run")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Domain after domain in every order, one domain early or late, one item at every step: what it does to the loss."""
    run = open_run(path, device, as_json)
    moved = numbers("--items", items) or []
    if calibrate or verify:
        count = calibrate + verify + (verify // SHARE if moved else 0)
        say(f"retraining at most {count} orders of {run.steps} steps, {count * run.config.consumed} gradients", as_json)
    arranged = [[label.strip() for label in order.split(",")] for order in orders] if orders else None
    found = run.domains(
        labels,
        arranged,
        moved,
        most=most,
        places=places,
        calibrate=calibrate,
        verify=verify,
        seed=seed,
        readout=readout,
        estimator=estimator,
    )
    picture = domains_shown.picture(found, plot or path / "answers" / "domains.png")
    answer(found.as_dict() | {"plot": str(picture)}, domains_shown.domains(found) + f"\npicture: {picture}", as_json)
