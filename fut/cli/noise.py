"""`fut noise`: the noise of the order of a run; `fut noise slopes` and `fut noise seeds` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fut.artifacts.kept import keeping
from fut.cli.options import Device, Json, Model, OwnLoss, Trust, answer, open_run, progress, say
from fut.cli.questions import command
from fut.errors import UsageError
from fut.questions.question import READOUT_HELP
from fut.readouts.readout import PROBE
from fut.studies.noise.study import NOISE

MEASURE = "run"
"""The command that stands where a run is named in place of one."""


class RunOrCommand(TyperGroup):
    """A group whose first word may be a run in place of a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        named = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if named else [MEASURE, *args])


noise = typer.Typer(
    cls=RunOrCommand,
    no_args_is_help=True,
    help="How much of the difference between two runs is only the order of the data? `fut noise RUN` measures it.",
)
Readout = Annotated[str, typer.Option(help=READOUT_HELP)]
Orders = Annotated[int, typer.Option(help="random orders to retrain")]
Seed = Annotated[int, typer.Option(help="seed of the orders")]
Plot = Annotated[Path | None, typer.Option(help="PNG to draw")]


noise.command(MEASURE)(command(NOISE))


@noise.command()
def slopes(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="run whose own model and last steps are taken; or a small network"),
    ] = None,
    steps: Annotated[int, typer.Option(help="T, batches of the window")] = 12,
    permutations: Annotated[int, typer.Option(help="orders of them, drawn uniformly")] = 128,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="of them by name, again for more; default: all")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of data, start and orders")] = 0,
    precision: Annotated[str, typer.Option(help="float64, or float32, which mostly shows rounding")] = "float64",
    plot: Plot = None,
    model: Model = None,
    loss: OwnLoss = None,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The exponent of the order's variance by learning rate, for rules with and without memory, on a small network or a run."""
    from fut.studies.noise.slopes import SlopesRequest, draw, noise_slopes, text

    request = SlopesRequest(steps, permutations, seed, precision, tuple(rule or ()))
    own = archive = None
    if path is not None:
        from fut.api.questions import slopes_window

        context = open_run(path, device, as_json, trust, model, loss).context
        own, archive = slopes_window(context, request)
        say(f"noise slopes: {request.gradients(context.config.data.per_step)} gradients", as_json)
    found = noise_slopes(request, progress(as_json), own, archive)
    if found.unresolved:
        say(
            f"fut: note: in {precision} rounding hides the order of {', '.join(found.unresolved)} at some rates; no exponent "
            "is taken of those"
        )
    content, said = found.as_dict(), text(found)
    if plot is not None:
        with keeping("the picture", plot):
            content, said = content | {"plot": str(draw(found, plot))}, f"{said}\npicture: {plot}"
    answer(content, said, as_json)


@noise.command()
def seeds(
    path: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="run whose noise is measured; or --sd")] = None,
    delta: Annotated[float | None, typer.Option(help="the difference to be found, in the read-out's unit")] = None,
    paired: Annotated[bool, typer.Option("--paired", help="also for arms that share their orders")] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="the other arm, to measure how its orders correlate")
    ] = None,
    sd: Annotated[float | None, typer.Option(help="standard deviation over orders, where it is known")] = None,
    rho: Annotated[float | None, typer.Option(help="correlation over shared orders, where it is known")] = None,
    orders: Orders = 16,
    seed: Seed = 0,
    power: Annotated[float, typer.Option(help="probability of finding the difference")] = 0.8,
    readout: Readout = PROBE,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How many runs a comparison needs, where every run is in a random order."""
    from fut.api.questions import study_context
    from fut.studies.noise.seeds import SeedsRequest, ask, text

    if delta is None:
        raise UsageError("noise seeds: expected --delta, the difference to be found, got none; give it")
    request = SeedsRequest(delta, paired or against is not None, sd, rho, orders, seed, power)
    run, other = (
        None if p is None else study_context(open_run(p, device, as_json, trust).context, readout)
        for p in (path, against)
    )
    found = ask(request, run, other)
    answer(found.as_dict(), text(found), as_json)
