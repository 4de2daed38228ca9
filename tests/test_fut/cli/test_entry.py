"""The entry point: what needs no torch is said without it, and says the same as the program itself."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from patience import PATIENCE
from typer.testing import CliRunner

import fut
from fut.cli import entry
from fut.cli.app import app

Start = Callable[..., Popen[str]]
HEAVY = ("torch", "scipy", "numpy", "matplotlib", "zarr", "h5py", "pydantic", "fut.cli.app")


@pytest.mark.parametrize("words", [["--help"], [], ["--version"]])
def test_the_list_of_commands_imports_none_of_the_heavy_packages(start_python: Start, words: list[str]) -> None:
    script = (
        "import json, sys, fut\nfrom fut.cli.entry import main\nsys.argv = ['fut', *sys.argv[1:]]\ntry:\n    main()\n"
        f"except SystemExit:\n    pass\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    out, err = start_python(script, *words).communicate(timeout=PATIENCE)
    assert json.loads(out.splitlines()[-1]) == [], err
    assert fut.__version__ in out if words == ["--version"] else "show-batch" in out


def test_it_is_what_the_program_itself_says() -> None:
    ours, theirs = (
        CliRunner().invoke(of, ["--help"], prog_name="fut", env={"COLUMNS": "100"}) for of in (entry.listing(), app)
    )
    assert ours.exit_code == theirs.exit_code == 0
    assert ours.output == theirs.output


def test_a_command_is_left_to_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fut", "rules", "--json"])
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert not left.value.code
    assert "adamw" in capsys.readouterr().out


def test_importing_the_package_imports_no_torch_and_every_public_name_is_there(start_python: Start) -> None:
    script = (
        "import sys, fut\nassert 'torch' not in sys.modules\nmissing = [n for n in fut.__all__ if not hasattr(fut, n)]\n"
        "assert not missing, missing\nassert fut.errors.UsageError is fut.UsageError\nassert not hasattr(fut, 'nothing')\n"
        "from fut import Order, open\nassert open is fut.api.opening.open_run\nassert set(fut.__all__) <= set(dir(fut))"
    )
    process = start_python(script)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err


def test_types_are_checked_against_the_names_that_are_imported() -> None:
    """What a type checker reads is what `fut.NAME` gives."""
    tree = ast.parse(Path(inspect.getfile(fut)).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    checked = {
        alias.asname or alias.name: f"{node.module}:{alias.name}".removesuffix(f":{alias.asname or alias.name}")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == fut._PLACES
    assert set(checked) == set(fut.__all__)
