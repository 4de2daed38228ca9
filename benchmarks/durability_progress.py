"""What the durability benchmark says while it works, on standard error."""

from __future__ import annotations

import sys
from typing import Any


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def progress(what: str, number: int, total: int, failures: list[Any]) -> None:
    if (number + 1) % 100 == 0 or number + 1 == total:
        say(f"{what}: {number + 1} of {total}, {len(failures)} failures")
