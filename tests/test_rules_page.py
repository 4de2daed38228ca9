"""The table of update rules on its page is what the program says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from estimators.rules import RULES
from fut.cli.app import app
from fut.methods.applicability import RuleInfo, rule_table
from fut.methods.coupling import ALL
from fut.methods.registry import METHODS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "rules.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].split("`")[1]: cells
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")
    )
}
EXACT = {"replay-exact": "", "retrain": ""}
TAYLOR = {"taylor1": "", "taylor2": ""}
WHOLE = dict.fromkeys(("adjoint", "positions", "reweighting", "replay"), ALL)
SETS: dict[str, dict[str, str]] = {
    "A": {method.name: "" for method in METHODS},
    "B": WHOLE | TAYLOR | EXACT,
    "C": {"replay": ALL} | TAYLOR | EXACT,
    "D": {"replay": ""} | EXACT,
    "E": {"replay": ALL} | EXACT,
    "F": EXACT,
    "G": {"retrain": ""},
}


@pytest.mark.parametrize("info", rule_table(), ids=lambda info: info.name)
def test_a_row_says_what_the_program_says(info: RuleInfo) -> None:
    _, _, tested, memory, coupling, smooth, needs, letter = ROWS[info.name]
    assert tested
    if info.name == "grouped":
        assert {memory, coupling, smooth, needs, letter} == {"of its groups"}
        return
    assert float(memory) == info.memory
    assert (coupling, smooth) == (info.coupling, "yes" if info.smooth else "no")
    assert needs == ", ".join(info.signals)
    assert SETS[letter] | {"reference": ""} == info.estimators


def test_every_rule_has_a_row_and_every_set_is_explained() -> None:
    assert list(ROWS) == list(RULES)
    assert re.findall(r"^- \*\*(\w)\*\*: ", PAGE, re.MULTILINE) == list(SETS)


def test_the_command_lists_the_rules_as_text_and_as_json() -> None:
    text = CliRunner().invoke(app, ["rules"]).output
    found = json.loads(CliRunner().invoke(app, ["rules", "--json"]).output)["rules"]
    assert [rule["name"] for rule in found] == list(RULES)
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "matrix, matrices alone" in lines["muon"]
    assert "adjoint*" in lines["muon"]
    assert "lowrank" not in lines["muon"]
    assert "curvature, micro_batches" in lines["sophia_corrected"]
    adamw = next(rule for rule in found if rule["name"] == "adamw")
    assert adamw["summary"].startswith("Adam with decoupled decay")
    assert (adamw["memory"], adamw["smooth"], adamw["signals"]) == (2.0, True, [])
