"""The entry point: what needs no torch is said without it, and says the same as the program itself."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import os
import shutil
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
from fut.cli.said import FILE, LARGEST, recalled

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
        "from fut import Order, open\nassert open is fut.api.opening.open_run\nassert set(fut.__all__) <= set(dir(fut))\n"
        "assert 'scipy.stats' not in sys.modules, 'it takes a while, and no start needs it'"
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


@pytest.fixture
def told(own_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says of the run by the entry point, and whether the program had to run for it."""

    def tell(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fut", *words])
        with contextlib.suppress(SystemExit):
            entry.main()
        return capsys.readouterr().out

    return tell


def test_info_is_said_again_without_the_program(
    own_run: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch, start_python: Start
) -> None:
    first, asked = told("info", str(own_run)), told("info", str(own_run), "--json")
    monkeypatch.setattr("fut.cli.app.main", lambda: pytest.fail("the program ran"))
    assert told("info", str(own_run)) == first
    assert told("info", "--json", str(own_run)) == asked
    assert json.loads(asked)["path"] == str(own_run)
    script = (
        "import json, sys\nfrom fut.cli.entry import main\nsys.argv = ['fut', *sys.argv[1:]]\nmain()\n"
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    out, err = start_python(script, "info", str(own_run)).communicate(timeout=PATIENCE)
    assert json.loads(out.splitlines()[-1]) == [], err
    assert out.startswith(first)


@pytest.mark.parametrize("change", ["new", "size", "time", "gone"])
def test_what_has_changed_is_asked_anew(own_run: Path, told: Callable[..., str], change: str) -> None:
    told("info", str(own_run))
    assert recalled([str(own_run)]) is not None
    file = own_run / "order.json"
    if change == "new":
        (own_run / "notes").mkdir()
        (own_run / "notes" / "mine.txt").write_text("mine")
    elif change == "size":
        file.write_text(file.read_text() + "\n")
    elif change == "time":
        os.utime(file, ns=(1, 1))
    else:
        shutil.rmtree(own_run / "adjoint")
    assert recalled([str(own_run)]) is None


@pytest.mark.parametrize("words", [[], ["--help"], ["RUN", "--trust"], ["RUN", "--device", "cpu"], ["RUN", "RUN"]])
def test_other_options_are_left_to_the_program(own_run: Path, told: Callable[..., str], words: list[str]) -> None:
    told("info", str(own_run))
    assert recalled([word.replace("RUN", str(own_run)) for word in words]) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"state": 1, "text": "", "json": ""}', "x" * (LARGEST + 1), None])
def test_what_is_kept_may_be_anything(own_run: Path, told: Callable[..., str], content: str | None) -> None:
    told("info", str(own_run))
    file = own_run / FILE
    file.unlink()
    os.mkfifo(file) if content is None else file.write_text(content)
    assert recalled([str(own_run)]) is None
    if content is not None:
        assert "parameters" in told("info", str(own_run))
        assert recalled([str(own_run)]) is not None


def test_nothing_is_kept_of_a_run_that_needs_trust(own_run: Path, told: Callable[..., str]) -> None:
    (own_run / FILE).unlink(missing_ok=True)
    told("info", str(own_run), "--trust")
    assert not (own_run / FILE).exists()


def test_what_is_kept_commands_no_terminal(own_run: Path, told: Callable[..., str]) -> None:
    """A run directory from somebody else may hold escape sequences in the state that it says it is in."""
    told("info", str(own_run))
    kept = json.loads((own_run / FILE).read_text())
    assert recalled([str(own_run)]) == kept["text"]
    for text in ("\x1b]0;mine\x07", "one\rtwo", "\x9b2J", "\u202eright to left"):
        (own_run / FILE).write_text(json.dumps(kept | {"text": text}))
        assert recalled([str(own_run)]) is None
