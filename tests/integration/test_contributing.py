"""The worked examples of CONTRIBUTING.md, followed to the letter in a copy of the package: a file and an entry are enough."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from documents import ROOT, blocks
from patience import PATIENCE
from small import ASKED

import fut

StartPython = Callable[..., "Popen[str]"]
SCRIPT = """
import json, sys
import fut
from fut.cli.app import main
from fut.questions.ends import EndsRequest

path, words = sys.argv[1], sys.argv[2:]
assert fut.__file__.startswith(sys.path[1]) or fut.__file__.startswith(sys.path[0]), fut.__file__
run = fut.open(path, device="cpu")
answer = run.ask(EndsRequest(3)).as_dict()
norm = run.estimate(["reverse"], "replay-exact", readout="norm")[0].as_dict()
print(json.dumps({"ends": answer, "norm": norm}))
for words in (["ends", path, "--item", "3"], ["estimate", path, "--order", "reverse", "--estimator", "replay-exact",
              "--readout", "norm"]):
    sys.argv[:] = ["fut", *words, "--json", "--device", "cpu"]
    main.__globals__["app"](standalone_mode=False)
"""


def example(name: str) -> tuple[str, list[str]]:
    """The file that begins by naming itself so, and the lines that the block after it adds to the registry."""
    written = blocks(ROOT / "CONTRIBUTING.md")
    place = next(i for i, block in enumerate(written) if block.text.startswith(f'"""`{name}`'))
    return written[place].text, written[place + 1].text.splitlines()


def add(package: Path, file: str, registry: str, opening: str) -> None:
    """Write the example's file, its import and its entry."""
    text, (imported, entry) = example(Path(file).stem)
    (package / file).write_text(text)
    listed = (package / registry).read_text()
    assert listed.count(opening) == 1
    listed = listed.replace(opening, f"{opening}{entry}\n").replace(
        "\nfrom fut.errors", f"\n{imported}\nfrom fut.errors"
    )
    (package / registry).write_text(listed)


@pytest.mark.slow
def test_what_is_added_is_asked_at_both_doors(small_run: fut.Run, tmp_path: Path, start_python: StartPython) -> None:
    copy = tmp_path / "copy"
    for room in ("fut", "storage", "estimators"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    add(copy / "fut", "questions/ends.py", "questions/registry.py", "QUESTIONS: tuple[Question[Any, Any], ...] = (\n")
    add(copy / "fut", "readouts/norm.py", "readouts/readout.py", "AT_THE_END: tuple[ReadoutKind, ...] = (\n")
    path = Path(shutil.copytree(small_run.path, tmp_path / "own", ignore=ASKED))
    process = start_python(SCRIPT, path, path=str(copy))
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    python, ends, norm = _values(out)
    assert python == {"ends": ends, "norm": norm}
    assert (path / "answers" / "ends-3.json").exists()
    assert ends["first"] != ends["last"]
    assert norm["readout"] == "norm"


def _values(text: str) -> list[dict[str, object]]:
    """The JSON values that follow one another."""
    decoder, values, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].strip()
    return values
