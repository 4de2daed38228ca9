"""What there is to choose from: settings and update rules."""

from __future__ import annotations

from typing import Annotated

import typer

from fut.api import render
from fut.cli.options import Json, answer
from fut.errors import UsageError


def list_settings(
    section: Annotated[str | None, typer.Argument(metavar="SECTION", help="one section; default: all")] = None,
    as_json: Json = False,
) -> None:
    """Every setting of a configuration: its default, the values it may have, and what it means."""
    from fut.methods.described import described, sections

    if section is not None and section not in sections():
        raise UsageError(f"settings: expected one of {', '.join(sections())}, got `{section}`; correct the section")
    listed = [s for s in described() if section is None or s.key.startswith(f"{section}.")]
    answer({s.key: s.as_dict() for s in listed}, render.settings(listed), as_json)


def rules(as_json: Json = False) -> None:
    """The update rules by name: their memory, what they couple and need, and the estimators that take them."""
    from fut.methods.applicability import rule_table

    table = rule_table()
    answer({"rules": [rule.as_dict() for rule in table]}, render.rules(table), as_json)
