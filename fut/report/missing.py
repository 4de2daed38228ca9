"""What a page cannot show, and the command that would change that."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Missing:
    """Something that a page cannot show.

    Args:
        why: in words, without a full stop; code between backticks.
        command: what computes it; empty where nothing does.
    """

    why: str
    command: str = ""


def command(path: Path, name: str, arguments: str = "") -> str:
    """A command line about a run, as it can be pasted into a shell."""
    return " ".join(word for word in ("fut", name, shlex.quote(str(path)), arguments) if word)
