"""The command line: dispatch only. One command, one function; `fut.api.render` and the questions' renderers make its text."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
import webbrowser
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fut.api import render
from fut.artifacts.location import also_at, spoken
from fut.cli.cache import cache
from fut.cli.lists import list_settings, rules
from fut.cli.noise import noise
from fut.cli.options import (
    Device,
    Json,
    Model,
    OwnLoss,
    PlanSettings,
    RunPath,
    Settings,
    Spec,
    Trust,
    answer,
    answer_info,
    open_run,
    own_objects,
    progress,
    say,
)
from fut.cli.orders import check_order, write_order
from fut.cli.questions import command
from fut.cli.transfer import pull, push
from fut.cli.whatif import InOrder, whatif
from fut.errors import EXPECTED, FutWarning, UsageError, exit_status
from fut.methods.settings import load_config
from fut.questions.accuracy import render as accuracy_render
from fut.questions.question import Request
from fut.questions.registry import QUESTIONS
from fut.report import SAMPLES
from fut.resources.device import describe
from fut.spoken import command_line
from fut.studies.registry import STUDIES
from fut.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What would training have produced had the data come in another order? Estimates, checked by retraining.",
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fut {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """What would training have produced had the data come in another order? Estimates, checked by retraining."""


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="directory of the new run")],
    text: Annotated[
        str | None, typer.Option("--text", help="text file or directory; default: CPython's language reference")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="T, steps of the window: as many items as they take, one epoch")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file")] = None,
    settings: Settings = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train the reference run; repeat the command to finish an interrupted one."""
    from fut.api.opening import train as make

    data: dict[str, Any] = {} if text is None else {"text": text}
    run = make(out, load_config(config, settings or (), steps, data=data), device=device, progress=progress(as_json))
    say(f"trained on {describe(run.context.problem.device)}", as_json)
    answer_info(run.path, run.info(), as_json)


@app.command()
def plan(
    what: Annotated[
        Path | None, typer.Argument(metavar="RUN|CONFIG.toml", help="directory of a run, or a TOML file")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file, of a run that is not trained yet")] = None,
    text: Annotated[str | None, typer.Option("--text", help="text file or directory, for a TOML file")] = None,
    settings: PlanSettings = None,
    model: Model = None,
    loss: OwnLoss = None,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """What every stage would cost: gradients, time, bytes on disk and memory; trains and writes nothing."""
    from fut.api.opening import plan_path
    from fut.planning import plan as planned

    path = what or config
    if path is None or None not in (what, config):
        got = "both" if path else "neither"
        raise UsageError(
            f"plan: expected the directory of a run, or --config with a TOML file, got {got}; give one of them"
        )
    if config is not None or (not path.is_dir() and path.suffix == ".toml"):
        data = {} if text is None else {"text": text}
        result = planned(load_config(path, settings or (), data=data), device=device, progress=progress(as_json))
    elif text is not None:
        raise UsageError(f"plan: expected --text with a TOML file, got {path}; a run's text is fixed")
    else:
        given = own_objects(model, loss)
        result = plan_path(
            path, settings=settings or (), device=device, progress=progress(as_json), trust=trust, **given
        )
    answer(result.as_dict(), render.costs(result), as_json)


app.command()(cache)
for question in QUESTIONS:
    if question.command:
        app.command(question.name)(command(question))
for study in STUDIES:
    if study.command and issubclass(study.request, Request):  # its fields have flags
        app.command(study.name)(command(study))


@app.command()
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
    model: Model = None,
    loss: OwnLoss = None,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write what the run says as one HTML page, with a board on which its batches are put into another order."""
    written = open_run(path, device, as_json, trust, model, loss).report(out, samples, estimator)
    lines = [f"wrote {written.path} ({written.nbytes / 1000:.0f} kB); it needs no network", *also_at(written.path)]
    if written.missing:
        wide = max(map(len, written.missing))
        lines += ["not in it, and what would compute it:"]
        lines += [f"  {question.ljust(wide)}  {command}" for question, command in written.missing.items()]
    answer(written.as_dict(), "\n".join(lines), as_json)
    if show:
        webbrowser.open(written.path.absolute().as_uri())


app.command(cls=InOrder)(whatif)
app.command("write-order")(write_order)
app.command("check-order")(check_order)
app.command("settings")(list_settings)
app.command("rules")(rules)
app.command("push")(push)
app.command("pull")(pull)
app.add_typer(noise, name="noise")


@app.command()
def info(
    path: RunPath,
    model: Model = None,
    loss: OwnLoss = None,
    trust: Trust = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """What a run is, and what each estimator costs."""
    run = open_run(path, device, as_json, trust, model, loss)
    answer_info(run.path, run.info(), as_json, (model, loss, trust))


@app.command()
def check(path: RunPath, as_json: Json = False) -> None:
    """Verify every checksum of a run and name what is damaged; exit status 1 if anything is."""
    from fut.api.integrity import check_path

    damaged = check_path(path)
    result = {"sound": not damaged, "damaged": [{"path": d.path, "reason": d.reason} for d in damaged]}
    answer(result, render.damages(spoken(path), damaged), as_json)
    if damaged:
        raise typer.Exit(1)


@app.command("show-batch")
def show_batch(
    path: RunPath,
    step: Annotated[int, typer.Argument(metavar="STEP", help="step of the window, from 0")],
    order: Spec = "identity",
    model: Model = None,
    loss: OwnLoss = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Print which text was in a step."""
    from fut.api.info import show_step

    entries = show_step(open_run(path, "cpu", as_json, trust, model, loss).context, step, order)
    answer({"step": step, "items": entries}, render.batch(step, entries), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="directory of the demo's run")],
    text: Annotated[str | None, typer.Option("--text", help="text file; default: CPython's language reference")] = None,
    orders: Annotated[int, typer.Option(help="random orders to retrain")] = 32,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train, cache, estimate and verify on real text, in a few minutes; resumes if interrupted."""
    from fut.api.demo import run_demo

    result, picture = run_demo(out, text, orders, device, progress(as_json), lambda line: say(line, as_json))
    answer(result.as_dict() | {"plot": str(picture)}, accuracy_render.table(result) + f"\npicture: {picture}", as_json)


INTERRUPTED = 130
"""Exit status of a command that was interrupted by a key."""
UNEXPECTED = 70
"""Exit status of a command that failed in a way that nobody foresaw."""
TRACEBACK = "FUT_TRACEBACK"
"""The environment variable that shows where an unforeseen error comes from."""


def _show_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    """A warning as a note on standard error, without the place in the sources."""
    say(f"fut: note: {message}")


def _unexpected(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = (str(error).splitlines() or [""])[0][:300]
    return (
        f"fut: unexpected {type(error).__name__}: {said} ({Path(place.filename).name}, line {place.lineno}); if the run "
        f"directory is damaged, `fut check RUN` says where; set {TRACEBACK}=1 to see where the error comes from"
    )


def _flush() -> None:
    """Bring out what standard output still holds: a full disk shows here at the latest."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command() -> None:
    """The command of the arguments, until all that it says is out."""
    try:
        app()
    except SystemExit as stop:
        if not stop.code:
            _flush()
        raise


def main() -> None:
    """Entry point: expected errors as one message on standard error, exit status 2 (usage) or 1, no traceback."""
    try:
        with command_line(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("default", FutWarning)
            run_command()
    except EXPECTED as error:
        say(f"fut: {error}")
        sys.exit(exit_status(error))
    except (KeyboardInterrupt, SystemExit) as stop:  # typer turns the former into the latter
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        say("fut: interrupted; what is computed is kept, repeat the command to go on")
        sys.exit(INTERRUPTED)
    except OSError as error:
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "standard output"
        say(f"fut: {error.strerror or error}: {where}; check the path and the disk")
        _give_up(1)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        say(_unexpected(error))
        _give_up(UNEXPECTED)


def _give_up(status: int) -> NoReturn:
    """End with a status, whatever standard output still holds that cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
