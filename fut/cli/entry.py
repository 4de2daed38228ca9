"""The entry point: the list of commands at once, from a page that lists them; any command by the program itself.

The program imports torch, which takes seconds. `fut`, `fut --help` and `fut --version` need none of it, nor does `fut info` of a
run that has not changed since it was last said what that is.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.resources import files
from typing import Any

from fut.cli.said import recalled
from fut.version import __version__

PAGE = "commands.json"
"""What each command does, in a line: written by `scripts/generate_cli_docs.py` from the program, and compared by a test."""
HELP = ("--help",)
VERSION = "--version"


def main() -> None:
    """Run the command of the arguments."""
    words = sys.argv[1:]
    if words == [VERSION]:
        print_line(f"fut {__version__}")
    elif not words or words[0] in HELP:
        listing()()
    elif words[0] == "info" and (said := recalled(words[1:])) is not None:
        print_line(said)
    else:
        from fut.cli.app import main as run

        run()


def print_line(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(f"{text}\n")


@cache
def listing() -> Any:
    """A program that only lists the commands, as the program itself does."""
    import typer

    page = json.loads(files("fut.cli").joinpath(PAGE).read_text(encoding="utf-8"))
    listed = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=page["help"])

    def options(version: bool = typer.Option(False, VERSION, help=page["version"])) -> None:
        """What stands before a command."""

    options.__doc__ = page["help"]
    listed.callback()(options)
    for name, text in page["commands"].items():
        listed.command(name, help=text)(lambda: None)
    return listed
