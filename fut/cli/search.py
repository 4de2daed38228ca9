"""`fut search`: the command line of the curriculum search."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Annotated

import typer

from fut.cli.options import Device, EstimatorName, Json, ReadOutName, RunPath, answer, open_run, say
from fut.display import format as present
from fut.errors import UsageError
from fut.questions.curriculum.ask import EVALUATIONS
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.result import Curriculum
from fut.questions.curriculum.search import METHODS
from fut.readouts.readout import PROBE


def search(
    path: RunPath,
    budget: Annotated[float | None, typer.Option(help="seconds of searching, by the wall clock")] = None,
    evaluations: Annotated[
        int | None, typer.Option(help=f"orders to estimate: the same result every time; default: {EVALUATIONS}")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="order to begin at; default: the best under the table of positions")
    ] = None,
    method: Annotated[str, typer.Option(help=f"one of {', '.join(METHODS)}")] = "local",
    verify: Annotated[
        int, typer.Option(help="random orders to retrain beside the found order and the named ones; 0: retrain nothing")
    ] = 16,
    finalists: Annotated[int, typer.Option(help="good orders that differ, to retrain and choose the best of")] = 4,
    heuristics: Annotated[
        str | None, typer.Option(help="named orders to retrain, separated by spaces; `none`; default: all there are")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the search and of the random orders")] = 0,
    prefix: Annotated[str | None, typer.Option(metavar="I,J,…", help="items that stand first, in this order")] = None,
    suffix: Annotated[str | None, typer.Option(metavar="I,J,…", help="items that stand last, in this order")] = None,
    block: Annotated[
        list[str] | None, typer.Option(metavar="I,J,…", help="items that stay together; repeat for more blocks")
    ] = None,
    before: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="item A before item B; repeat for more pairs")
    ] = None,
    estimator: EstimatorName = None,
    readout: ReadOutName = PROBE,
    maximize: Annotated[bool, typer.Option("--maximize", help="seek the greatest value of the read-out")] = False,
    also: Annotated[
        str | None, typer.Option(help="comma-separated: other read-outs of the retrained orders, not sought")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the order that would have trained best, then really train in it, beside random and named orders."""
    constraints = Constraints.of(
        _items("--prefix", prefix),
        _items("--suffix", suffix),
        [_items("--block", one) for one in block or ()],
        [_items("--before", one) for one in before or ()],
    )
    run = open_run(path, device, as_json)
    named = None if heuristics is None else [] if heuristics == "none" else heuristics.split()
    if verify:
        count = verify + finalists + len(run.named_orders() if named is None else named)
        say(f"retraining at most {count} orders after the search, {count * run.config.consumed} gradients", as_json)
    found = run.search(
        budget,
        evaluations,
        start=start,
        method=method,
        verify=verify,
        finalists=finalists,
        heuristics=named,
        seed=seed,
        constraints=constraints,
        estimator=estimator,
        readout=readout,
        maximize=maximize,
        also=also.split(",") if also else (),
    )
    answer(found.as_dict(), text(found), as_json)


def _items(name: str, written: str | None) -> list[int]:
    """Item numbers from `3,1,2`; UsageError for anything else."""
    if written is None:
        return []
    try:
        return [int(part) for part in written.split(",")]
    except ValueError as error:
        raise UsageError(f"{name}: expected item numbers like 3,1,2, got `{written}`; correct them") from error


def text(found: Curriculum) -> str:
    """The answer for people."""
    unit, nats = found.unit, found.unit == "nats/token"

    def value(loss: float) -> str:
        return present.loss(loss) if nats else present.amount(loss, unit)

    interval = "no interval"
    if found.interval is not None:
        interval = "90 % interval " + " … ".join(present.amount(v, "") for v in found.interval)
    lines = [
        f"best order found ({found.method}, {found.evaluations} estimates in {present.brief(found.seconds)}):",
        f"  {','.join(map(str, found.order))}",
        f"estimated by {found.estimator}: {value(found.estimated_loss)}, {interval}",
        f"  {found.note}",
    ]
    if found.reevaluated_loss is not None:
        lines.append(f"re-evaluated by {found.reevaluated_by}: {value(found.reevaluated_loss)}")
    lines.append(f"  {found.reevaluated_note}")
    return "\n".join([*lines, *_truths(found, value)])


def _truths(found: Curriculum, value: Callable[[float], str]) -> list[str]:
    """What retraining says, a row per loss, the best first."""
    if found.retrained_loss is None:
        return ["nothing was retrained: --verify K retrains the found order beside K random and the named ones"]
    rows = [["really retrained", "loss", "gain", "in perplexity"]]
    rows.append(["found order", value(found.retrained_loss), "", ""])
    for name, loss in found.rivals.items():
        gain = found.gain(loss)
        rows.append([name, value(loss), f"{gain['value']:+.5f}", present.number(gain["perplexity"], "+.4f")])
    spread = (
        [] if found.random_sd is None else [f"order noise (sd of random orders): {found.random_sd:.2g} {found.unit}"]
    )
    return ["", present.columns(rows), *spread, *_elsewhere(found)]


def _elsewhere(found: Curriculum) -> list[str]:
    """The other read-outs, which the search did not seek."""
    lines = []
    for name, other in found.also.items():
        values = {"found": other["found"], "reference": other["reference"], "mean of random": mean(other["random"])}
        shown = ", ".join(f"{order} {present.amount(v, other['unit'])}" for order, v in values.items())
        lines.append(f"{name}, which was not sought: {shown}")
    return lines
