"""What sections say in short: rows of the checklist, the page's first words, and what cannot be shown, with its command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from storage import address


@dataclass(frozen=True)
class ChecklistRow:
    """A thing that a section needs, and whether the run has it.

    Args:
        question: what it answers, in words.
        done: whether it is there.
        state: what there is, in words.
        command: what would compute it, or more of it; empty where nothing would.
    """

    question: str
    done: bool
    state: str
    command: str


@dataclass(frozen=True)
class Tile:
    """One of the page's first words: a question and its answer.

    Args:
        question: in words.
        words: the answer.
        figure: the number that the words are about, with its unit apart.
        unit: of the figure.
        missing: the command that would give an answer; empty where there is one.
    """

    question: str
    words: str
    figure: str = ""
    unit: str = ""
    missing: str = ""


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
    return " ".join(word for word in ("fut", name, shlex.quote(address(path)), arguments) if word)
