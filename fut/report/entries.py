"""What sections hand to those that speak of all of them: rows of the checklist, and the page's first words."""

from __future__ import annotations

from dataclasses import dataclass


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
