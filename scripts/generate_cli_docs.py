"""Write `docs/cli.md`, `docs/settings.md` and `fut/cli/commands.json` from the program: `python scripts/generate_cli_docs.py`.

A test compares the pages with what this script makes. Run it after a change of a command, an option or a setting.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fut.cli.noise import MEASURE

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, SETTINGS = DOCS / "cli.md", DOCS / "settings.md"
LISTING = DOCS.parent / "fut" / "cli" / "commands.json"
HEADING = """\
# Command line

This page is generated from the program: `python scripts/generate_cli_docs.py` writes it.

- A run is given as its directory, `RUN`.
- Results go to standard output, messages and progress to standard error.
- With `--json` standard output holds one JSON object and nothing else. `fut whatif --queries`
  writes JSON lines: one object per line.
- The exit status is 0 for success, 2 for a wrong request, 130 for an interrupt, and 1 for every
  other error.
- `--set section.key=value` overrides one setting of the configuration; it may be repeated.
  `fut train` takes all sections, `fut cache` the sections `cache` and `adjoint`. `fut plan` takes
  all sections for a TOML file, and `adjoint` for a run.
- [Settings](settings.md) lists all settings. [Orders](orders.md) says how an order is written.
- `fut --version` prints the version.
"""


SETTINGS_HEADING = """\
# Settings

This page is generated from the program: `python scripts/generate_cli_docs.py` writes it.
`fut settings` prints the same; `fut settings adjoint` prints one section.

- A configuration is a TOML file with these sections, or `--set section.key=value`, or
  `fut.load_config(section={"key": value})` in Python.
- `data`, `model`, `rule`, `schedule` and `warmup` decide the reference run. They are fixed once it
  is trained. The other sections decide what `fut cache` computes, a section per method.
"""


def settings_page() -> str:
    """The page of all settings: a table for each section."""
    from fut.methods.described import described, sections

    parts = [SETTINGS_HEADING]
    for name, model in sections().items():
        rows = [s for s in described() if s.key.startswith(f"{name}.")]
        cells = [f"| `{s.key}` | `{json.dumps(s.default)}` | {_cell(s.values)} | {_cell(s.meaning)} |" for s in rows]
        table = "\n".join(["| key | default | values | meaning |", "|---|---|---|---|", *cells])
        parts.append(f"## {name}\n\n" + "\n".join(_wrapped(inspect.getdoc(model) or "")) + f"\n\n{table}\n")
    return "\n".join(parts)


def page(app: typer.Typer) -> str:
    """The page: a list of the commands, then a section for each with its arguments and options."""
    commands = dict(_commands(typer.main.get_command(app)))
    listed = [
        f"| [`fut {name}`](#fut-{name.replace(' ', '-')}) | {_cell(_first(command))} |"
        for name, command in commands.items()
    ]
    parts = [HEADING, "\n".join(["| command | what it does |", "|---|---|", *listed]) + "\n"]
    parts += [_section(name, command) for name, command in commands.items()]
    return "\n".join(parts)


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Commands by what is written for them; the one of a group that stands for naming none has the group's name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield (prefix.strip() if prefix and name == MEASURE else f"{prefix}{name}"), command


def listing(app: typer.Typer) -> str:
    """What `fut --help` says, as JSON: it is read where the program itself need not be imported."""
    group: Any = typer.main.get_command(app)
    version = next(parameter.help for parameter in group.params if "--version" in parameter.opts)
    commands = {name: _first(command) for name, command in group.commands.items()}
    return (
        json.dumps({"help": group.help, "version": version, "commands": commands}, indent=2, ensure_ascii=False) + "\n"
    )


def _section(name: str, command: Any) -> str:
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    usage = " ".join(["fut", name, *(a.metavar or a.name.upper() for a in arguments), "[OPTIONS]"])
    lines = [f"## fut {name}", "", *_wrapped(command.help or ""), "", "```text", usage, "```", ""]
    lines += ["| argument or option | default | meaning |", "|---|---|---|", *map(_row, shown)]
    return "\n".join(lines) + "\n"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        written = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        metavar = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        written = f"`{names}{metavar}`"
    default = "required" if parameter.required else _default(parameter)
    return f"| {_cell(written)} | {default} | {_cell(getattr(parameter, 'help', None) or '')} |"


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or value in ([], ()):
        return ""
    if value is True:
        return f"`{parameter.opts[0]}`"
    return f"`{value}`"


def _first(command: Any) -> str:
    return (command.help or "").strip().split("\n\n")[0].replace("\n", " ")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _wrapped(text: str, width: int = 100) -> list[str]:
    """Paragraphs in lines of at most `width` characters."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        line = ""
        for word in paragraph.split():
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines += [line, ""]
    return lines[:-1]


def main() -> None:
    from fut.cli.app import app

    PAGE.write_text(page(app), encoding="utf-8")
    LISTING.write_text(listing(app), encoding="utf-8")
    SETTINGS.write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
