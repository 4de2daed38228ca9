"""Run the commands that the README shows with their output, on the demo's run, and write what they print.

python benchmarks/readme.py demo

The commands are the lines `$ fut …` of its `console` blocks. They run on a copy of the run, in their order. The
record is `records/readme.json`; the README's blocks are rewritten from it, and a test compares the two.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import began, write_record

README = Path(__file__).resolve().parent.parent / "README.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOTE = re.compile(r" +(?! *[\d,]+$)")
"""An indented line that is no list of items."""
WIDTH, LINES = 160, 9


def commands(text: str) -> list[str]:
    """The commands of a document's console blocks, in their order."""
    lines = [line for block in CONSOLE.findall(text) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def shown(output: str) -> list[str]:
    """Output as the README shows it: the first lines, without empty lines and indented notes, and long lines cut.

    An indented line of numbers is kept: the order that a search found.
    """
    lines = [line.rstrip() for line in output.splitlines() if line.strip() and not NOTE.match(line)]
    cut = [line if len(line) <= WIDTH else f"{line[: WIDTH - 2]} …" for line in lines]
    return cut if len(cut) <= LINES else [*cut[:LINES], "…"]


def rewritten(text: str, outputs: dict[str, list[str]]) -> str:
    """The document with the output of every command after it."""
    blocks = {block: commands(f"```console\n{block}```") for block in CONSOLE.findall(text)}
    for block, held in blocks.items():
        made = "".join(f"$ {command}\n" + "".join(f"{line}\n" for line in outputs[command]) for command in held)
        text = text.replace(f"```console\n{block}```", f"```console\n{made}```")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", type=Path, help="directory of the demo's run; it is copied, and stays as it is")
    arguments = cli.parse_args(argv)
    started, text, results = began(), README.read_text(encoding="utf-8"), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(arguments.run, Path(directory) / "demo")
        for command in commands(text):
            program, *words = shlex.split(command)
            done = subprocess.run(
                [Path(sys.executable).with_name(program), *words],
                cwd=directory,
                capture_output=True,
                text=True,
                check=True,
            )
            results.append({"command": command, "output": shown(done.stdout)})
    write_record("readme", {"run": arguments.run}, results, started)
    README.write_text(rewritten(text, {r["command"]: r["output"] for r in results}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
